"""torchvision's detectors, each step prepared to be timed: channels-last, eager or with a compiled backbone.

What follows the backbone has shapes that change with every photo, for which `torch.compile` would compile anew.
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision

from benchmarks.batches import BOXES, boxes, classes, masks, pixels
from benchmarks.their_steps import arithmetic, device, finish, sgd

CLASSES = 20
Step = Callable[[], None]


def save_weights(model: str, height: int, width: int, file: str) -> Step:
    """Writes first weights, for both sides."""
    torch.manual_seed(0)
    state = detector(model, height, width).state_dict()
    return lambda: torch.save(state, file)


def training(
    model: str,
    batch: int,
    height: int,
    width: int,
    file: str,
    compiled: bool,
    precision: str = "float32",
    steps: int = 1,
) -> Step:
    """A detector's training step, `steps` times."""
    network = placed(model, height, width, file, compiled)
    optimizer = sgd(network, 1e-5)
    photos, targets = photos_of(batch, height, width), targets_of(model, batch, height, width)
    network.train()

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with arithmetic(precision):
                loss = sum(network(photos, targets).values())
            loss.backward()
            optimizer.step()
        finish()

    return run


def inference(model: str, batch: int, height: int, width: int, file: str, compiled: bool) -> Step:
    """A detector's inference step."""
    network = placed(model, height, width, file, compiled)
    photos = photos_of(batch, height, width)
    network.eval()

    @torch.inference_mode()
    def run() -> None:
        network(photos)
        finish()

    return run


def detector(name: str, height: int, width: int) -> Any:
    """torchvision's model for photos of that size, with constants in the place of every BatchNorm."""
    model = torchvision.models.get_model(
        name,
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + has_background(name),
        trainable_backbone_layers=5,
        min_size=height,
        max_size=width,
    )
    freeze_norms(model)
    return model


def placed(name: str, height: int, width: int, file: str, compiled: bool) -> Any:
    """The model with the weights of `save_weights`, on the device that there is."""
    model = detector(name, height, width)
    model.load_state_dict(torch.load(file))
    model.to(device(), memory_format=torch.channels_last)
    if compiled:
        model.backbone.compile()
    return model


def freeze_norms(model: torch.nn.Module) -> None:
    """Constants in the place of every BatchNorm, which torchvision has wherever it starts from weights."""
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, torch.nn.BatchNorm2d):
                setattr(owner, name, torchvision.ops.FrozenBatchNorm2d(layer.num_features))


def photos_of(batch: int, height: int, width: int) -> list[torch.Tensor]:
    """The photos as torchvision's detectors take them."""
    return list(torch.from_numpy(pixels(batch, height, width)).permute(0, 3, 1, 2).to(device(), torch.float32) / 255)


def targets_of(name: str, batch: int, height: int, width: int) -> list[dict[str, torch.Tensor]]:
    """The objects of each photo."""
    corners, numbers = boxes(batch, height, width)[:, :BOXES], classes(batch, CLASSES)[:, :BOXES]
    targets: list[dict[str, Any]] = [
        {"boxes": torch.from_numpy(one), "labels": torch.from_numpy(label).long() + has_background(name)}
        for one, label in zip(corners, numbers, strict=True)
    ]
    if has_masks(name):
        for target, mask in zip(targets, masks(corners, height, width), strict=True):
            target["masks"] = torch.from_numpy(mask)
    return [{key: tensor.to(device()) for key, tensor in target.items()} for target in targets]


def has_background(name: str) -> bool:
    """Whether class 0 of torchvision's detector is the background."""
    return "rcnn" in name


def has_masks(name: str) -> bool:
    """Whether the detector learns masks."""
    return name.startswith("maskrcnn")
