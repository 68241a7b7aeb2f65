"""Writes PyTorch's outputs that `test_stored.py` compares with: `python -m tests.models.classifiers.make_stored`."""

from typing import Any

import numpy as np
import torch

from converters.verify_state import state_dict
from tests.models.classifiers import shallow, shallow_torch
from tests.models.classifiers.stored import LOGITS, images, weights


def logits(model: Any, size: int) -> np.ndarray:
    """float64 logits of a PyTorch model filled with the common weights; its tables stay what they are."""
    state = model.state_dict()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    tables = {key for key, _ in model.named_buffers() if not key.endswith(statistics)}
    drawn = weights((key, tuple(tensor.shape)) for key, tensor in state.items() if key not in tables)
    kept = {key: tensor.numpy() for key, tensor in state.items() if key in tables}
    model.load_state_dict(state_dict(drawn | kept), strict=True)
    model.eval().double()
    with torch.no_grad():
        return model(torch.from_numpy(images(size)).permute(0, 3, 1, 2).double()).numpy()


if __name__ == "__main__":
    LOGITS.parent.mkdir(exist_ok=True)
    np.savez(LOGITS, **{name: logits(build(), shallow.NETS[name].size) for name, build in shallow_torch.NETS.items()})
    print(f"{LOGITS} written")
