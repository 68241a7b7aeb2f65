"""PyTorch's gradients: exact ones in float64 on the CPU for both sides, and those of the device beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gradients import PRECISIONS, errors
from benchmarks.their_steps import arithmetic, device, examples
from converters.verify_reference import perturb, reference

CLASSES = 1000


def gradients(model: str, batch: int, size: int, folder: str, compiled: bool) -> Callable[[], dict[str, Any]]:
    """The errors of a classifier's gradients in each float32 arithmetic; writes weights, images and exact gradients."""
    del compiled  # eager: what is asked is the arithmetic of the device
    torch.manual_seed(0)
    network = reference(model, CLASSES)
    with torch.no_grad():
        perturb(network, 0)
    images, labels = (tensor.cpu() for tensor in examples(batch, size))
    torch.save(network.state_dict(), Path(folder) / "weights.pth")
    exact = gradient(network.double(), images.double(), labels)
    np.savez(Path(folder) / "exact.npz", allow_pickle=False, **exact)
    np.savez(Path(folder) / "batch.npz", image=images.permute(0, 2, 3, 1).numpy(), label=labels.int().numpy())
    network.load_state_dict(torch.load(Path(folder) / "weights.pth"))  # without the statistics of this batch
    network = network.float().to(device())
    found = {}
    for precision in PRECISIONS:
        with arithmetic(precision):
            found[precision] = errors(gradient(network, images.to(device()), labels.to(device())), exact)
    return lambda: found


def gradient(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """The gradient of the mean cross-entropy by every parameter, in training mode."""
    network.train()
    network.zero_grad()
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    return {name: value.grad.cpu().numpy() for name, value in network.named_parameters() if value.grad is not None}
