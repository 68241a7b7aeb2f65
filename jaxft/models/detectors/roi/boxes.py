"""Losses of the classes and boxes of regions, and the objects among them."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.models.detectors import objectives
from jaxft.models.detectors.dense.selection import Candidates, final_detections
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.regions import Regions
from jaxft.models.detectors.types import Detections, RoITrain, Selection, Targets
from jaxft.models.layers.per_image import per_image


def of_label(rows: Array, labels: Array) -> Array:
    """The row `labels` `[R]` of `rows` `[R, classes, ...]`; the only one where they share one."""
    chosen = jnp.minimum(labels, rows.shape[1] - 1)
    return per_image(jax.vmap(lambda row, label: row[label]), rows, chosen)


def box_terms(
    head: ConvFCBBoxHead, train: RoITrain, regions: Regions, logits: Array, codes: Array, targets: Targets
) -> dict[str, Array]:
    """`loss_cls`, `loss_bbox` and `acc` of logits `[N * R, classes + 1]` and codes `[N * R, boxes, 4]`."""
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    labels, used = regions.labels.reshape(-1), regions.used.reshape(-1)
    positive, boxes = regions.positive.reshape(-1), regions.boxes.reshape(-1, 4).astype(wide)
    logits, codes = logits.astype(wide), of_label(codes, labels).astype(wide)
    heavy = train.pos_weight if train.pos_weight > 0 else 1.0
    weights = jnp.where(positive, heavy, jnp.where(used, 1.0, 0.0)).astype(wide)
    count = jnp.maximum(used.sum(), 1).astype(wide)
    truth = objectives.rows_of(targets.boxes, regions.truth).reshape(-1, 4).astype(wide)
    truth = jnp.where(positive[:, None], truth, boxes)
    codes = objectives.of_weight(positive, codes, 0)
    if head.reg_decoded_bbox:
        found, wanted = objectives.decode(head.bbox_coder, boxes, codes), truth
    else:
        found, wanted = codes, objectives.encode(head.bbox_coder, boxes, truth)
    right = (logits.argmax(-1) == labels) & used
    return {
        "loss_cls": objectives.class_term(head.loss_cls, logits, labels, weights, count),
        "loss_bbox": objectives.box_term(head.loss_bbox, found, wanted, positive.astype(wide), count),
        "acc": 100 * right.sum().astype(wide) / count,
    }


def refined(head: ConvFCBBoxHead, boxes: Array, codes: Array, labels: Array, sizes: Array) -> Array:
    """Boxes `[N, R, 4]` moved by the codes `[N * R, boxes, 4]` of their labels `[N, R]`."""
    own = of_label(codes, labels.reshape(-1)).reshape(boxes.shape)
    return objectives.decode(head.bbox_coder, boxes, own.astype(boxes.dtype), sizes)


def selected(
    head: ConvFCBBoxHead,
    selection: Selection,
    boxes: Array,
    valid: Array,
    logits: Array,
    codes: Array,
    sizes: Array,
) -> Detections:
    """The objects among the classes of boxes `[N, R, 4]`."""
    n, count = boxes.shape[:2]
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    scores = objectives.probabilities(head.loss_cls, logits.astype(wide)).reshape(n, count, -1)
    codes = codes.astype(wide).reshape(n, count, -1, 4)
    decoded = objectives.decode(head.bbox_coder, boxes[:, :, None].astype(wide), codes, sizes)
    decoded = jnp.broadcast_to(decoded, (*scores.shape, 4))
    good = (scores > selection.score_thr) & valid[..., None]
    labels = jnp.broadcast_to(jnp.arange(head.num_classes, dtype=jnp.int32), scores.shape)
    pairs = (x.reshape(n, -1, *x.shape[3:]) for x in (decoded, scores, labels, 0 * labels, good))
    return final_detections(Candidates(*pairs), selection)
