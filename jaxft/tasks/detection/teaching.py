"""How far the classes that a detector finds are from a teacher's."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.errors import UserError
from jaxft.models.detectors.dense.outputs import DenseOutputs, class_channels
from jaxft.models.detectors.detector import SingleStage
from jaxft.tasks.distilling import sigmoid_distance, softmax_distance


def check_dense(model: Any, teacher: Any) -> None:
    """Raises a UserError where a detector has no map of classes for each level, or the teacher has none."""
    for name, one in (("The model", model), ("The teacher", teacher)):
        if not isinstance(one, SingleStage):
            raise UserError(
                f"{name} is a {type(one).__name__}, whose second stage sees proposals of its own, so that the classes "
                "of two of them are not of the same boxes; set distillation.weight to 0 and name features, or take "
                "detectors of one stage."
            )


def inside(map_size: tuple[int, int], pad_shape: tuple[int, int], sizes: Array) -> Array:
    """Which cells of a map lie in the photos, `[N, h, w]`; `sizes` `[N, 2]` are theirs, in the padded images."""
    rows, columns = (
        jnp.arange(cells) * (side / cells) < sizes[:, axis, None]
        for axis, (cells, side) in enumerate(zip(map_size, pad_shape, strict=True))
    )
    return rows[:, :, None] & columns[:, None, :]


def class_distance(
    model: SingleStage,
    outputs: DenseOutputs,
    theirs: DenseOutputs,
    sizes: Array,
    pad_shape: tuple[int, int],
    temperature: Array,
) -> Array:
    """The mean over all places of all levels that lie in the photos of the distance of two detectors' class logits:
    `sigmoid_distance`, which is averaged over classes, or `softmax_distance`.

    Raises:
        UserError: the maps have different shapes.
    """
    shapes = [[level.shape for level in found.scores] for found in (outputs, theirs)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"The detector's class maps have the shapes {shapes[0]} and the teacher's {shapes[1]}, which cannot be "
            "compared; take a teacher with the same levels, anchors and classes, or set distillation.weight to 0 and "
            "name features."
        )
    head: Any = model.bbox_head
    settings = getattr(head, "settings", head)
    width = class_channels(settings.loss_cls, settings.num_classes)
    distance = sigmoid_distance if settings.loss_cls.use_sigmoid else softmax_distance
    total, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for own, other in zip(outputs.scores, jax.lax.stop_gradient(theirs.scores), strict=True):
        wide = jnp.promote_types(own.dtype, jnp.float32)
        pair = [one.reshape(*one.shape[:3], -1, width).astype(wide) for one in (own, other)]
        far = distance(*pair, temperature)
        far = far.mean(tuple(range(3, far.ndim)))
        there = inside((own.shape[1], own.shape[2]), pad_shape, sizes)
        total, count = total + jnp.where(there, far, 0).sum(), count + there.sum()
    return total / jnp.maximum(count, 1)


def terms_loss(terms: Mapping[str, Array]) -> Array:
    """The sum of all terms whose name contains `loss`, MMDetection's rule."""
    return sum((term for name, term in terms.items() if "loss" in name), start=jnp.zeros((), jnp.float32))
