"""Heads that look at regions of interest: what class a box holds, where exactly it is, and its mask; once or in stages.

Ren et al. 2015, https://arxiv.org/abs/1506.01497; He et al. 2017, https://arxiv.org/abs/1703.06870; Cai and Vasconcelos
2017, https://arxiv.org/abs/1712.00726. Every image has the same number of regions; the rest is not valid.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.detection import losses
from jaxft.detection.assign import prepend_truth
from jaxft.detection.masks import mask_targets
from jaxft.detection.roi_align import assign_levels, assign_levels_canonical, roi_align
from jaxft.detection.sample import random_sample
from jaxft.models import dense, objectives
from jaxft.models.detection_types import (
    Detections,
    MaxIoUAssigner,
    RandomSampler,
    RoIExtractor,
    RoITrain,
    Selection,
    Targets,
)
from jaxft.models.roi_layers import ConvFCBBoxHead, FCNMaskHead

ROI_TRAIN = RoITrain(MaxIoUAssigner(0.5, 0.5, 0.5, match_low_quality=False), RandomSampler(512, 0.25))
ROI_TEST = Selection(max_per_img=100, iou_threshold=0.5, score_thr=0.05)
STAGES = tuple(
    RoITrain(MaxIoUAssigner(iou, iou, iou, match_low_quality=False), RandomSampler(512, 0.25))
    for iou in (0.5, 0.6, 0.7)
)


class Regions(NamedTuple):
    """The boxes that a head is trained on, R an image, positives first; rows that are neither are padding.

    Attributes:
        boxes: `[N, R, 4]`.
        positive, negative: `[N, R]`.
        truth: `[N, R]`; the object of each positive row.
        is_truth: `[N, R]`; whether the box is an object's own.
        labels: `[N, R]`; the number of classes where not positive.
    """

    boxes: Array
    positive: Array
    negative: Array
    truth: Array
    is_truth: Array
    labels: Array

    @property
    def used(self) -> Array:
        """Rows that are not padding, `[N, R]`."""
        return self.positive | self.negative


class StandardRoIHead(nnx.Module):
    """Classes, boxes and masks of the proposals; `rngs` draws the samples.

    Args:
        bbox_head: see `roi_layers`.
        bbox_roi_extractor: what the box head sees of a region.
        mask_head, mask_roi_extractor: None where there are no masks.
        train_cfg, test_cfg: see `detection_types`.
    """

    def __init__(
        self,
        bbox_head: ConvFCBBoxHead,
        bbox_roi_extractor: RoIExtractor,
        *,
        mask_head: FCNMaskHead | None = None,
        mask_roi_extractor: RoIExtractor | None = None,
        train_cfg: RoITrain = ROI_TRAIN,
        test_cfg: Selection = ROI_TEST,
        rngs: nnx.Rngs,
    ) -> None:
        self.bbox_head, self.mask_head = bbox_head, mask_head
        self.bbox_roi_extractor = bbox_roi_extractor
        self.mask_roi_extractor = mask_roi_extractor or bbox_roi_extractor
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        self.rngs = rngs.dropout.fork()

    def loss(self, maps: Sequence[Array], proposals: Detections, sizes: Array, targets: Targets) -> dict[str, Array]:
        """`loss_cls`, `loss_bbox`, `acc` (percent of regions), and `loss_mask` where there is a mask head."""
        regions = sampled(self.train_cfg, proposals, targets, self.bbox_head.num_classes, self.rngs)
        features = extract(self.bbox_roi_extractor, maps, regions.boxes, regions.used)
        logits, codes = self.bbox_head(features, regions.used.reshape(-1))
        terms = box_terms(self.bbox_head, self.train_cfg, regions, logits, codes, targets)
        if self.mask_head is not None:
            terms |= mask_terms(self.mask_head, self.mask_roi_extractor, self.train_cfg, maps, regions, targets)
        return terms

    def predict(self, maps: Sequence[Array], proposals: Detections, sizes: Array) -> Detections:
        """The objects in the proposals, with masks where there is a mask head."""
        features = extract(self.bbox_roi_extractor, maps, proposals.boxes, proposals.valid)
        logits, codes = self.bbox_head(features, proposals.valid.reshape(-1))
        found = selected(self.bbox_head, self.test_cfg, proposals.boxes, proposals.valid, logits, codes, sizes)
        if self.mask_head is None:
            return found
        features = extract(self.mask_roi_extractor, maps, found.boxes, found.valid)
        return found._replace(masks=mask_probabilities(self.mask_head, features, found))


class CascadeRoIHead(nnx.Module):
    """Several heads, each of which sees the boxes of the one before, and asks for more overlap.

    Args:
        bbox_head: one a stage; see `roi_layers`.
        mask_head: likewise; None where there are no masks.
        stage_loss_weights: of each stage's losses.
        train_cfg: one a stage.
    """

    def __init__(
        self,
        bbox_head: Sequence[ConvFCBBoxHead],
        bbox_roi_extractor: RoIExtractor,
        *,
        mask_head: Sequence[FCNMaskHead] | None = None,
        mask_roi_extractor: RoIExtractor | None = None,
        stage_loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25),
        train_cfg: tuple[RoITrain, ...] = STAGES,
        test_cfg: Selection = ROI_TEST,
        rngs: nnx.Rngs,
    ) -> None:
        self.bbox_head = nnx.List(bbox_head)
        self.mask_head = None if mask_head is None else nnx.List(mask_head)
        self.bbox_roi_extractor = bbox_roi_extractor
        self.mask_roi_extractor = mask_roi_extractor or bbox_roi_extractor
        self.stage_loss_weights, self.train_cfg, self.test_cfg = stage_loss_weights, train_cfg, test_cfg
        self.rngs = rngs.dropout.fork()

    def loss(self, maps: Sequence[Array], proposals: Detections, sizes: Array, targets: Targets) -> dict[str, Array]:
        """`s0.loss_cls`, `s0.loss_bbox`, `s0.acc`, `s0.loss_mask`, `s1.loss_cls`, ..."""
        all_terms: dict[str, Array] = {}
        for stage, (head, train) in enumerate(zip(self.bbox_head, self.train_cfg, strict=True)):
            regions = sampled(train, proposals, targets, head.num_classes, self.rngs)
            features = extract(self.bbox_roi_extractor, maps, regions.boxes, regions.used)
            logits, codes = head(features, regions.used.reshape(-1))
            terms = box_terms(head, train, regions, logits, codes, targets)
            if self.mask_head is not None:
                mask_head = self.mask_head[stage]
                terms |= mask_terms(mask_head, self.mask_roi_extractor, train, maps, regions, targets)
            weight = self.stage_loss_weights[stage]
            all_terms |= {f"s{stage}.{name}": x * weight if "loss" in name else x for name, x in terms.items()}
            best = logits[:, :-1].argmax(-1).reshape(regions.labels.shape)
            labels = jnp.where(regions.positive, regions.labels, best)
            boxes = jax.lax.stop_gradient(refined(head, regions.boxes, codes, labels, sizes))
            proposals = proposals._replace(boxes=boxes, valid=regions.used & ~regions.is_truth)
        return all_terms

    def predict(self, maps: Sequence[Array], proposals: Detections, sizes: Array) -> Detections:
        """The boxes of the last stage, scored by the mean logits of all, with the mean of all masks."""
        boxes, total, codes = proposals.boxes, jnp.zeros(()), jnp.zeros(())
        stages = len(self.bbox_head)
        for stage, head in enumerate(self.bbox_head):
            features = extract(self.bbox_roi_extractor, maps, boxes, proposals.valid)
            logits, codes = head(features, proposals.valid.reshape(-1))
            total = total + logits
            if stage < stages - 1:
                labels = logits[:, :-1].argmax(-1).reshape(boxes.shape[:2])
                boxes = refined(head, boxes, codes, labels, sizes)
        found = selected(self.bbox_head[-1], self.test_cfg, boxes, proposals.valid, total / stages, codes, sizes)
        if self.mask_head is None:
            return found
        features = extract(self.mask_roi_extractor, maps, found.boxes, found.valid)
        masks = [mask_probabilities(head, features, found) for head in self.mask_head]
        return found._replace(masks=sum(masks[1:], masks[0]) / len(masks))


def sampled(
    train: RoITrain, proposals: Detections, targets: Targets, num_classes: int, stream: nnx.RngStream
) -> Regions:
    """A random choice of the proposals, and of the objects' own boxes where the sampler says so."""
    sampler, truth = train.sampler, targets.boxes.astype(proposals.boxes.dtype)

    def assign(boxes: Array, usable: Array, truth: Array, valid: Array, ignored: Array) -> Array:
        assignment = objectives.assign(train.assigner, boxes, usable, truth, valid, ignored)
        return (prepend_truth(assignment, valid) if sampler.add_gt_as_proposals else assignment).index

    index = jax.vmap(assign)(proposals.boxes, proposals.valid, truth, targets.valid, targets.ignored)
    own = truth.shape[1] if sampler.add_gt_as_proposals else 0
    boxes = jnp.concatenate([truth, proposals.boxes], 1) if own else proposals.boxes
    boxes = jax.lax.stop_gradient(boxes)

    def draw(index: Array, priority: Array) -> tuple[Array, Array, Array, Array]:
        sample = random_sample(
            index, priority, num=sampler.num, pos_fraction=sampler.pos_fraction, neg_pos_ub=sampler.neg_pos_ub
        )
        return sample.index, sample.positive, sample.negative, jnp.maximum(index[sample.index], 0)

    place, positive, negative, chosen = jax.vmap(draw)(index, objectives.priorities(stream(), boxes))
    labels = jnp.where(positive, objectives.rows_of(targets.labels, chosen), num_classes)
    # Rows of padding get a box of some size, so that nothing divides by zero.
    somewhere = jnp.asarray([0, 0, 1, 1], boxes.dtype).reshape(1, 1, 4)
    rows = jnp.where((positive | negative)[..., None], objectives.rows_of(boxes, place), somewhere)
    return Regions(rows, positive, negative, chosen, (place < own) & positive, labels)


def extract(extractor: RoIExtractor, maps: Sequence[Array], boxes: Array, used: Array) -> Array:
    """What the maps show in boxes `[N, R, 4]` -> `[N * R, size, size, C]`; zeros where not `used` `[N, R]`."""
    levels, (n, count) = len(extractor.featmap_strides), used.shape
    boxes = boxes.reshape(-1, 4)
    level = assign_levels(boxes, levels, extractor.finest_scale)
    if extractor.canonical_levels:
        level = assign_levels_canonical(boxes, levels, round(math.log2(extractor.featmap_strides[0])))
    return roi_align(
        maps[:levels],
        boxes,
        jnp.repeat(jnp.arange(n, dtype=jnp.int32), count),
        jnp.where(used.reshape(-1), level, -1),
        extractor.featmap_strides,
        extractor.output_size,
        extractor.sampling_ratio,
        extractor.aligned,
    )


def of_label(rows: Array, labels: Array) -> Array:
    """The row `labels` `[R]` of `rows` `[R, classes, ...]`; the only one where they share one."""
    chosen = jnp.minimum(labels, rows.shape[1] - 1)
    return jax.vmap(lambda row, label: row[label])(rows, chosen)


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
    if head.reg_decoded_bbox:
        loss = objectives.box_loss(head.loss_bbox, objectives.decode(head.bbox_coder, boxes, codes), truth)
    else:
        loss = objectives.box_loss(head.loss_bbox, codes, objectives.encode(head.bbox_coder, boxes, truth))
    right = (logits.argmax(-1) == labels) & used
    return {
        "loss_cls": objectives.average(objectives.class_loss(head.loss_cls, logits, labels), weights, count),
        "loss_bbox": objectives.average(loss, positive.astype(wide), count),
        "acc": 100 * right.sum().astype(wide) / count,
    }


def mask_terms(
    head: FCNMaskHead,
    extractor: RoIExtractor,
    train: RoITrain,
    maps: Sequence[Array],
    regions: Regions,
    targets: Targets,
) -> dict[str, Array]:
    """`loss_mask`: the cross-entropy of the pixels of the positive regions' masks."""
    if targets.masks is None:
        raise ValueError("a detector with masks is trained on targets with masks; these have none")
    rows = max(1, int(train.sampler.num * train.sampler.pos_fraction))  # positives are the first, at most so many
    boxes, positive, truth = (x[:, :rows] for x in (regions.boxes, regions.positive, regions.truth))
    labels = regions.labels[:, :rows].reshape(-1)
    logits = head(extract(extractor, maps, boxes, positive), positive.reshape(-1))
    logits = of_label(jnp.moveaxis(logits, -1, 1), labels)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def one(masks: Array, boxes: Array, truth: Array) -> Array:
        return mask_targets(
            masks, boxes, truth, train.mask_size, aligned=not train.soft_masks, binary=not train.soft_masks
        )

    wanted = jax.vmap(one)(targets.masks, boxes, truth).reshape(logits.shape).astype(logits.dtype)
    loss = losses.binary_cross_entropy(logits, wanted).mean((1, 2))
    count = jnp.maximum(positive.sum(), 1).astype(loss.dtype)
    return {"loss_mask": head.loss_weight * jnp.where(positive.reshape(-1), loss, 0).sum() / count}


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
    return dense.detections(dense.Candidates(*pairs), selection)


def mask_probabilities(head: FCNMaskHead, features: Array, found: Detections) -> Array:
    """Masks `[N, D, M, M]` of the detections' own classes, from the maps of their boxes `[N * D, h, w, C]`."""
    logits = jnp.moveaxis(head(features, found.valid.reshape(-1)), -1, 1)
    masks = jax.nn.sigmoid(
        of_label(logits, found.labels.reshape(-1)).astype(jnp.promote_types(logits.dtype, jnp.float32))
    )
    return masks.reshape(*found.labels.shape, *masks.shape[1:])
