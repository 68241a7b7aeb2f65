"""Which of our models a stranger's state dict is of, or nearest to; and which of MMDetection's detectors."""

import re
from collections.abc import Mapping
from functools import cache

import numpy as np

from converters.rules import COUNTER, leaves
from converters.torchvision import modern_key
from jaxft.models import BUILDERS, abstract_model, list_models

CLASSES = 997  # a prime, so that a length of which it, or with a background one more, is a part counts classes
Shapes = dict[str, tuple[int, ...]]
# How keys of MMDetection's detectors begin, and what has such keys; the first that is there counts.
ROI_HEADS = {"roi_head.bbox_head.0.": "Cascade R-CNN", "roi_head.bbox_head.": "Faster R-CNN"}
DENSE_HEADS = {
    "bbox_head.retina_": "RetinaNet",
    "bbox_head.atss_": "ATSS",
    "bbox_head.gfl_": "GFL",
    "bbox_head.conv_centerness.": "FCOS",
    "bbox_head.fcos_": "FCOS",  # before MMDetection 2
    "bbox_head.rpn_": "RPN",
    "rpn_head.": "RPN",
}
# Whether a block has a third convolution, and the blocks of each stage.
RESNETS = {
    (False, (2, 2, 2, 2)): "18",
    (False, (3, 4, 6, 3)): "34",
    (True, (3, 4, 6, 3)): "50",
    (True, (3, 4, 23, 3)): "101",
    (True, (3, 8, 36, 3)): "152",
}


def fitting_models(state: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the models whose keys and shapes are exactly those of `state`, whatever the number of classes."""
    return [name for name, agreement in _agreements(state).items() if agreement == 1]


def nearest_model(state: Mapping[str, np.ndarray]) -> tuple[str, float] | None:
    """The model with whose keys and shapes `state` agrees most, and the share that agrees; None below a tenth."""
    agreements = _agreements(state)
    name = max(agreements, key=lambda name: agreements[name], default=None)
    return (name, agreements[name]) if name is not None and agreements[name] >= 0.1 else None


def mmdetection_like(state: Mapping[str, np.ndarray]) -> str:
    """What a state dict of MMDetection's is of, as far as its keys say: `Mask R-CNN on ResNet-50`; empty of others.

    Detectors that are built on these, such as HTC, have their keys, too.
    """
    heads = [head for start, head in (ROI_HEADS | DENSE_HEADS).items() if any(key.startswith(start) for key in state)]
    if not heads or not any(key.startswith("backbone.") for key in state):
        return ""
    masks = any(key.startswith("roi_head.mask_head.") for key in state)
    head = heads[0].replace("Faster", "Mask").replace("Cascade R", "Cascade Mask R") if masks else heads[0]
    return f"{head} on {_backbone(state)}"


def _backbone(state: Mapping[str, np.ndarray]) -> str:
    if any(key.startswith("backbone.stage4.") for key in state):
        return "HRNet"
    found = [re.match(r"backbone\.layer([1-4])\.(\d+)\.", key) for key in state]
    blocks = {(place[1], place[2]) for place in found if place}
    depths = tuple(sum(stage == str(number) for stage, _ in blocks) for number in range(1, 5))
    depth = RESNETS.get(("backbone.layer1.0.conv3.weight" in state, depths))
    middle = state.get("backbone.layer1.0.conv2.weight")
    if depth is None or middle is None:
        return "another backbone"
    grouped = middle.ndim == 4 and middle.shape[0] != middle.shape[1]
    return f"ResNe{'Xt' if grouped else 't'}-{depth}"


def _agreements(state: Mapping[str, np.ndarray]) -> dict[str, float]:
    """For each model of the families whose keys are most alike: the share of keys with equal shapes on both sides."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith(COUNTER)}
    kinds = _kinds(shapes)
    families: dict[str, list[str]] = {}
    if any(key.startswith("backbone.") for key in shapes):  # as some of every detector's do, and none of a classifier's
        families = {name: [name] for name in list_models("detection")}
    else:
        for name in list_models("classification"):
            families.setdefault(BUILDERS[name].__module__, []).append(name)
    alike = {family: _overlap(kinds, _kinds(source_shapes(names[0]))) for family, names in families.items()}
    best = max(alike.values())
    names = [name for family, overlap in alike.items() if overlap == best > 0 for name in families[family]]
    return {name: _agreement(shapes, source_shapes(name)) for name in names}


def _agreement(shapes: Shapes, ours: Shapes) -> float:
    shapes = {modern_key(key, ours): shape for key, shape in shapes.items()}
    equal = sum(_same(shape, ours[key]) for key, shape in shapes.items() if key in ours)
    return equal / len(shapes.keys() | ours.keys())


def _same(shape: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Whether two shapes agree; where ours puts out something for each class, the other may have any number of them."""
    by_class = len(ours) > 0 and (ours[0] % CLASSES == 0 or ours[0] % (CLASSES + 1) == 0)
    return shape == ours or (by_class and len(shape) == len(ours) and shape[1:] == ours[1:])


def _kinds(shapes: Shapes) -> set[str]:
    """The keys without their numbers: what the models of a family have in common."""
    return {re.sub(r"\d+", "#", key) for key in shapes}


def _overlap(some: set[str], others: set[str]) -> float:
    return len(some & others) / len(some | others)


@cache
def source_shapes(name: str) -> Shapes:
    """The keys of PyTorch's state dict for a model of `CLASSES` classes, and the shapes of its tensors; no counters."""
    shapes = {leaf.key: leaf.source_shape for leaf in leaves(abstract_model(name, CLASSES))}
    return {key: shape for key, shape in shapes.items() if not key.endswith(COUNTER)}
