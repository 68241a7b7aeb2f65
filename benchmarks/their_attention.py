"""Attention in PyTorch, forward and backward."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.batches import queries
from benchmarks.their_steps import device, finish


def attention(compiled: bool, **size: int) -> Callable[[], None]:
    """The output of `scaled_dot_product_attention` and its three gradients."""
    arrays = (torch.from_numpy(array).to(device()) for array in queries(**size))
    q, k, v = (array.permute(0, 2, 1, 3).contiguous().requires_grad_() for array in arrays)
    function: Any = torch.nn.functional.scaled_dot_product_attention
    function = torch.compile(function) if compiled else function

    def run() -> None:
        y = function(q, k, v)
        torch.autograd.grad(y, (q, k, v), y.detach())
        finish()

    return run
