"""Which of our models a stranger's state dict is of, or nearest to."""

import re
from collections.abc import Mapping
from functools import cache

import numpy as np

from converters.rules import COUNTER, leaves
from converters.torchvision import modern_key
from jaxft.models import BUILDERS, abstract_model, list_models

CLASSES = 997  # a prime, so that a length of which it, or with a background one more, is a part counts classes
Shapes = dict[str, tuple[int, ...]]


def fitting_models(state: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the models whose keys and shapes are exactly those of `state`, whatever the number of classes."""
    return [name for name, agreement in _agreements(state).items() if agreement == 1]


def nearest_model(state: Mapping[str, np.ndarray]) -> tuple[str, float] | None:
    """The model with whose keys and shapes `state` agrees most, and the share that agrees; None below a tenth."""
    agreements = _agreements(state)
    name = max(agreements, key=lambda name: agreements[name], default=None)
    return (name, agreements[name]) if name is not None and agreements[name] >= 0.1 else None


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
