"""What a detector learns from a teacher: its classes at each place, or to keep them while it learns others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.errors import UserError
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.outputs import DenseOutputs, class_channels
from jaxft.models.detectors.detector import SingleStage, TwoStage, dense_outputs, pad_shape_of
from jaxft.models.detectors.objectives import of_weight
from jaxft.models.detectors.roi.judging import ClassLogits
from jaxft.models.detectors.types import AnchorGenerator, ClassLoss, Targets
from jaxft.tasks.distilling import Distance, sigmoid_distance, softmax_distance

Arrays = dict[str, Array]


def check_same_stages(model: Any, teacher: Any) -> None:
    """Raises a UserError where the classes of two detectors are not of the same places or boxes."""
    if not any(isinstance(model, kind) and isinstance(teacher, kind) for kind in (SingleStage, TwoStage)):
        raise UserError(
            f"The model is a {type(model).__name__} and the teacher a {type(teacher).__name__}, whose classes are not "
            "of the same places or boxes; take a teacher with as many stages, or set distillation.weight to 0 and name "
            "features."
        )


def check_same_anchors(head: Any, their_head: Any) -> None:
    """Raises a UserError where the outputs of two dense heads are of other boxes."""
    ours, theirs = (
        None if generator is None else replace(generator, divisor=None)  # which says where there are none
        for generator in map(_anchor_generator, (head, their_head))
    )
    if ours != theirs:
        raise UserError(
            f"The detector's anchors are {ours} and the teacher's {theirs}, so that their classes are of other boxes; "
            "take a teacher with the same anchors, or set distillation.weight to 0 and name features."
        )


def _anchor_generator(head: Any) -> AnchorGenerator | None:
    return getattr(getattr(head, "settings", head), "anchor_generator", None)


def taught_classes(
    model: Any, teacher: Any, images: Array, sizes: Array, targets: Targets, temperature: Array
) -> tuple[Arrays, Array]:
    """The terms of a detector's own loss, and how far its classes are from a teacher's, for images `[N, H, W, 3]`:
    `class_distance` of detectors of one stage, `two_stage_distance` of others.

    Raises:
        UserError: the detectors cannot be compared.
    """
    check_same_stages(model, teacher)
    pad_shape = pad_shape_of(images)
    one_stage = isinstance(model, SingleStage)
    check_same_anchors(*(one.bbox_head if one_stage else one.rpn_head for one in (model, teacher)))
    if one_stage:
        outputs, theirs = model.outputs(images), teacher.outputs(images)
        terms = model.bbox_head.loss(outputs, sizes, pad_shape, targets)
        return terms, class_distance(model.bbox_head, outputs, theirs, sizes, pad_shape, temperature)
    maps = model.feature_maps(images)
    outputs = dense_outputs(model.rpn_head, maps)
    terms = model.terms(maps, outputs, sizes, pad_shape, targets)
    return terms, two_stage_distance(model, teacher, maps, outputs, images, sizes, temperature)


def two_stage_distance(
    model: TwoStage,
    teacher: TwoStage,
    maps: Sequence[Array],
    outputs: DenseOutputs,
    images: Array,
    sizes: Array,
    temperature: Array,
) -> Array:
    """How far the classes of a detector are from a teacher's: `box_distance` plus the `class_distance` of their RPNs.

    The teacher's RPN proposes boxes, as many as in evaluation, and the second stages of both judge these. So do Chen et
    al. 2017 (Learning Efficient Object Detection Models with Knowledge Distillation) and Peng et al. 2020 (Faster ILOD,
    https://arxiv.org/abs/2003.03901), who compare where boxes are moved to as well. Here neither that nor masks are
    compared.

    Args:
        maps, outputs: what the student's heads see in the images, and what its RPN puts out.

    Raises:
        UserError: the detectors have other levels, anchors, classes or stages.
    """
    pad_shape = pad_shape_of(images)
    their_maps = teacher.feature_maps(images)
    theirs = dense_outputs(teacher.rpn_head, their_maps)
    proposed = jax.lax.stop_gradient(teacher.proposals(theirs, sizes, pad_shape))
    own, other = (
        one.roi_head.class_logits(seen, proposed.boxes, proposed.valid)
        for one, seen in ((model, maps), (teacher, their_maps))
    )
    first = class_distance(model.rpn_head, outputs, theirs, sizes, pad_shape, temperature)
    return first + box_distance(own, other, proposed.valid, temperature)


def box_distance(own: Sequence[ClassLogits], other: Sequence[ClassLogits], valid: Array, temperature: Array) -> Array:
    """The mean over the boxes that are `valid` `[N, P]`, and over stages, of the distance of two second stages' class
    logits: `softmax_distance`, or `sigmoid_distance`, which is averaged over classes. 0 where no box is valid.

    Raises:
        UserError: they know different numbers of classes, or have different numbers of stages.
    """
    shapes = [[found.logits.shape[2:] for found in stages] for stages in (own, other)]
    if shapes[0] != shapes[1]:
        counts = [f"{len(found)} of {found[0][0]}" for found in shapes]
        raise UserError(
            f"The second stage has heads and class logits {counts[0]}, and the teacher's {counts[1]}, which cannot be "
            "compared; take a teacher with the same stages and classes, or set distillation.weight to 0 and name "
            "features."
        )
    total = jnp.zeros((), jnp.float32)
    for one, two in zip(own, other, strict=True):
        logits, wanted = (of_weight(valid, found.logits, 0) for found in (one, two))  # equal in padding
        total += logits_distance(one.loss, logits, wanted, temperature).sum()
    return total / (len(own) * jnp.maximum(valid.sum(), 1))


def logits_distance(loss: ClassLoss, logits: Array, theirs: Array, temperature: Array) -> Array:
    """The distance of class logits `[..., channels]` of one kind from a teacher's, `[...]`, float32 or wider."""
    distance: Distance = sigmoid_distance if loss.use_sigmoid else softmax_distance
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    far = distance(logits.astype(wide), jax.lax.stop_gradient(theirs).astype(wide), temperature)
    return far.mean(-1) if loss.use_sigmoid else far


def inside(map_size: tuple[int, int], pad_shape: tuple[int, int], sizes: Array) -> Array:
    """Which cells of a map lie in the photos, `[N, h, w]`; `sizes` `[N, 2]` are theirs, in the padded images."""
    rows, columns = (
        (jnp.arange(cells) * (side / cells))[None] < sizes[:, axis, None]
        for axis, (cells, side) in enumerate(zip(map_size, pad_shape, strict=True))
    )
    return rows[:, :, None] & columns[:, None, :]


def class_distance(
    head: Any,
    outputs: DenseOutputs,
    theirs: DenseOutputs,
    sizes: Array,
    pad_shape: tuple[int, int],
    temperature: Array,
) -> Array:
    """The mean over all places of all levels that lie in the photos of the distance of two dense heads' class logits:
    `sigmoid_distance`, which is averaged over classes, or `softmax_distance`.

    Args:
        head: the student's; it says what the logits mean.

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
    settings = getattr(head, "settings", head)
    width = class_channels(settings.loss_cls, settings.num_classes)
    total, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    for own, other in zip(outputs.scores, theirs.scores, strict=True):
        logits, wanted = (one.reshape(*one.shape[:3], -1, width) for one in (own, other))
        far = logits_distance(settings.loss_cls, logits, wanted, temperature).mean(3)
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
