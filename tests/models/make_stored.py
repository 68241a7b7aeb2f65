"""Writes the outputs of PyTorch that `test_stored.py` compares with: `python -m tests.models.make_stored`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from torchvision.models import resnet

from tests.models.stored_nets import CLASSES, STORED, images, weights

THEIRS = {
    "resnet": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], CLASSES),
    "lite": lambda: EfficientNet.from_name("efficientnet-lite0", num_classes=CLASSES, image_size=None),
}


def logits(model: Any) -> np.ndarray:
    """float64 logits of a PyTorch model filled with the common weights."""
    state = weights((key, tuple(tensor.shape)) for key, tensor in model.state_dict().items())
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()}, strict=True)
    model.eval().double()
    with torch.no_grad():
        return model(torch.from_numpy(images()).permute(0, 3, 1, 2).double()).numpy()


if __name__ == "__main__":
    path = Path(__file__).parent / STORED
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{name: logits(build()) for name, build in THEIRS.items()})
    print(f"{path} written")
