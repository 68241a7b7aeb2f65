"""PyTorch's steps of training and evaluation, each prepared to be timed: channels-last, eager or compiled."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from benchmarks.batches import labels, pixels
from converters.verify_reference import reference
from jaxft.config import Images

AUXILIARY = 0.3  # the weight of auxiliary heads' losses; any costs the same
Step = Callable[[], None]


def training(model: str, batch: int, size: int, compiled: bool, precision: str = "float32", steps: int = 1) -> Step:
    """A classifier's training step of all parameters, `steps` times."""
    network = classifier(model)
    optimizer = sgd(network, 0.01)
    images, target = examples(batch, size)
    forward: Any = torch.compile(network) if compiled else network
    network.train()

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with arithmetic(precision):
                outputs = forward(images)
                loss = loss_of(outputs if isinstance(outputs, tuple) else (outputs,), target)
            loss.backward()
            optimizer.step()
        finish()

    return run


def evaluation(model: str, batch: int, size: int, compiled: bool) -> Step:
    """A classifier's evaluation step."""
    network = classifier(model)
    images, _ = examples(batch, size)
    forward: Any = torch.compile(network) if compiled else network
    network.eval()

    @torch.inference_mode()
    def run() -> None:
        forward(images).softmax(-1)
        finish()

    return run


def classifier(name: str) -> torch.nn.Module:
    """The model under PyTorch, on the device that there is."""
    return reference(name, 1000).to(device()).to(memory_format=torch.channels_last)


def examples(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalized images and their labels."""
    fields = Images()
    images = torch.from_numpy(pixels(batch, size)).float().div_(255)
    images = images.sub_(torch.tensor(fields.mean)).div_(torch.tensor(fields.std)).permute(0, 3, 1, 2)
    return images.to(device()), torch.from_numpy(labels(batch)).long().to(device())


def sgd(network: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
    """The optimizer of all parameters, in its fastest form."""
    fused = device().type == "cuda"
    torch.backends.cudnn.benchmark = fused  # shapes stay
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=1e-3, fused=fused or None)


def loss_of(outputs: tuple[torch.Tensor, ...], target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, of auxiliary heads too."""
    main, *auxiliary = (torch.nn.functional.cross_entropy(logits, target) for logits in outputs)
    return main + AUXILIARY * sum(auxiliary)


def arithmetic(precision: str) -> AbstractContextManager:
    """What `precision` of jaxft means in PyTorch: bfloat16 by autocast, float32 without or with TensorFloat32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tensorfloat32"
    return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16")


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finish() -> None:
    """Waits until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
