"""What a detector learns from a teacher: its classes at each place, or to keep them while it learns others."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.errors import UserError
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.outputs import DenseOutputs, class_channels
from jaxft.models.detectors.detector import SingleStage
from jaxft.tasks.distilling import Distance, sigmoid_distance, softmax_distance


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
        (jnp.arange(cells) * (side / cells))[None] < sizes[:, axis, None]
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
    distance: Distance = sigmoid_distance if settings.loss_cls.use_sigmoid else softmax_distance
    total, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    for own, other in zip(outputs.scores, jax.lax.stop_gradient(theirs.scores), strict=True):
        wide = jnp.promote_types(own.dtype, jnp.float32)
        logits, wanted = (one.reshape(*one.shape[:3], -1, width).astype(wide) for one in (own, other))
        far = distance(logits, wanted, temperature)
        far = far.mean(tuple(range(3, far.ndim)))
        there = inside((own.shape[1], own.shape[2]), pad_shape, sizes)
        total, count = total + jnp.where(there, far, 0).sum(), count + there.sum()
    return total / jnp.maximum(count, 1)


def terms_loss(terms: Mapping[str, Array]) -> Array:
    """The sum of all terms whose name contains `loss`, MMDetection's rule."""
    return jnp.asarray(sum((term for name, term in terms.items() if "loss" in name), start=jnp.zeros((), jnp.float32)))


def check_grown(model: Any) -> None:
    """Raises a UserError where a detector that is to learn new classes beside a teacher's has no GFL head."""
    if not isinstance(getattr(model, "bbox_head", None), GFLHead):
        raise UserError(
            f"task.incremental keeps what a GFL head knows, but the {type(model).__name__} has none; take a GFL, or "
            "start from the old detector's rows with pretrained.transfer_head_rows."
        )


def check_same_maps(outputs: DenseOutputs, theirs: DenseOutputs, old: int) -> None:
    """Raises a UserError where the old detector's maps are not those of the new one with fewer classes."""
    wanted = [(*level.shape[:3], old) for level in outputs.scores]
    found = [level.shape for level in theirs.scores]
    edges = [[level.shape for level in maps.boxes] for maps in (outputs, theirs)]
    if wanted != found or edges[0] != edges[1]:
        raise UserError(
            f"The old detector's maps have the shapes {found} (classes) and {edges[1]} (boxes), but those of the new "
            f"one want {wanted} and {edges[0]}; take a teacher of the same architecture with {old} classes."
        )
