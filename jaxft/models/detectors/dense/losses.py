"""The losses of heads with anchors."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.detectors import objectives
from jaxft.models.detectors.dense.anchors import AnchorSettings, level_anchors, usable_anchors
from jaxft.models.detectors.dense.assignment import Rows, assigned_rows
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, class_channels, flat
from jaxft.models.detectors.types import DenseTrain, Targets


def loss_divisor(train: DenseTrain, rows: Rows) -> Array:
    """What the losses are divided by: one number, or one an image `[N]`."""
    positive, negative = rows.positive.sum(-1), rows.negative.sum(-1)
    if train.average_per_image:
        return jnp.maximum(positive, 1) * len(positive)
    if train.sampler is None:
        return jnp.maximum(positive, 1).sum()
    if train.sampler.counts_at_least_one:
        return (jnp.maximum(positive, 1) + jnp.maximum(negative, 1)).sum()
    return jnp.maximum((positive + negative).sum(), 1)


def row_weights(train: DenseTrain, rows: Rows, dtype: jnp.dtype) -> Array:
    """Weights of the rows in the loss of classes `[N, R]`."""
    heavy = train.pos_weight if train.pos_weight > 0 else 1.0
    return jnp.where(rows.positive, heavy, jnp.where(rows.negative, 1.0, 0.0)).astype(dtype)


def anchor_losses(
    outputs: DenseOutputs,
    settings: AnchorSettings,
    sizes: Array,
    pad_shape: HeightWidth,
    targets: Targets,
    stream: nnx.RngStream | None,
) -> tuple[Array, Array]:
    """The losses of classes and of boxes of a head with anchors, over all levels.

    Args:
        sizes: `[N, 2]` height, width of the photos without their padding.
        stream: draws samples, where `train_cfg` has a sampler.
    """
    train, generator, map_sizes = settings.train_cfg, settings.anchor_generator, outputs.map_sizes
    logits = flat(outputs.scores, class_channels(settings.loss_cls, settings.num_classes))
    codes = flat(outputs.boxes, 4)
    levels = level_anchors(generator, map_sizes, pad_shape)
    anchors = jnp.concatenate(levels).astype(codes.dtype)
    usable = usable_anchors(generator, map_sizes, pad_shape, sizes, train.allowed_border)
    rows = assigned_rows(train, anchors, usable, tuple(map(len, levels)), targets, stream)
    boxes = jnp.broadcast_to(anchors[None], codes.shape)
    if rows.place is not None:
        logits, codes, boxes = (objectives.rows_of(table, rows.place) for table in (logits, codes, boxes))
    labels = jnp.where(rows.positive, objectives.rows_of(targets.labels, rows.truth), settings.num_classes)
    truth = objectives.rows_of(targets.boxes.astype(boxes.dtype), rows.truth)
    truth = jnp.where(rows.positive[..., None], truth, boxes)
    by = loss_divisor(train, rows).astype(codes.dtype)
    weights, positive = row_weights(train, rows, codes.dtype), rows.positive.astype(codes.dtype)
    codes = objectives.of_weight(positive, codes, 0)
    if settings.reg_decoded_bbox:
        found, wanted = objectives.decode(settings.bbox_coder, boxes, codes), truth
    else:
        found, wanted = codes, objectives.encode(settings.bbox_coder, boxes, truth)
    return (
        objectives.class_term(settings.loss_cls, logits, labels, weights, by),
        objectives.box_term(settings.loss_bbox, found, wanted, positive, by),
    )
