"""NumPy's arrays as PyTorch's tensors, for what compares the two."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from converters.pth_writer import VERSION

if TYPE_CHECKING:
    import torch


def state_dict(state: Mapping[str, np.ndarray]) -> "OrderedDict[str, torch.Tensor]":
    """Tensors by name as PyTorch's `load_state_dict` takes them, without a copy where the arrays allow it.

    It says of which version it is, as `pth_writer` does.
    """
    import torch

    tensors = OrderedDict(
        (key, torch.from_numpy(np.require(value, requirements=["C", "W"]))) for key, value in state.items()
    )
    tensors._metadata = {"": {"version": VERSION}}  # type: ignore[attr-defined]
    return tensors
