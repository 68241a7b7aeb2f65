"""Classes, boxes and masks of regions, in stages; Cai and Vasconcelos 2017, https://arxiv.org/abs/1712.00726."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.detectors import objectives
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.boxes import box_terms, refined, selected
from jaxft.models.detectors.roi.in_turn import extract_in_turn
from jaxft.models.detectors.roi.judging import ClassLogits, class_logits_of
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.masks import mask_loss, mask_probabilities, positives
from jaxft.models.detectors.roi.regions import extract, sampled
from jaxft.models.detectors.roi.standard_roi_head import ROI_TEST
from jaxft.models.detectors.types import (
    Detections,
    MaxIoUAssigner,
    RandomSampler,
    RoIExtractor,
    RoITrain,
    Selection,
    Targets,
)

STAGES = tuple(
    RoITrain(MaxIoUAssigner(iou, iou, iou, match_low_quality=False), RandomSampler(512, 0.25))
    for iou in (0.5, 0.6, 0.7)
)


class CascadeRoIHead(nnx.Module):
    """Several heads, each of which sees the boxes of the one before, and asks for more overlap.

    Args:
        bbox_head: one a stage; see `ConvFCBBoxHead`.
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
            features, maps = extract_in_turn(self.bbox_roi_extractor, maps, regions.boxes, regions.used)
            logits, codes = head(features, regions.used.reshape(-1))
            terms = box_terms(head, train, regions, logits, codes, targets)
            if self.mask_head is not None:
                mask_head = self.mask_head[stage]
                some = positives(train, regions)
                features, maps = extract_in_turn(self.mask_roi_extractor, maps, some.boxes, some.positive)
                terms |= mask_loss(mask_head, train, features, some, targets)
            weighted = partial(objectives.scaled, self.stage_loss_weights[stage])
            all_terms |= {f"s{stage}.{name}": weighted(x) if "loss" in name else x for name, x in terms.items()}
            best = logits[:, :-1].argmax(-1).reshape(regions.labels.shape)
            labels = jnp.where(regions.positive, regions.labels, best)
            boxes = jax.lax.stop_gradient(refined(head, regions.boxes, codes, labels, sizes))
            proposals = proposals._replace(boxes=boxes, valid=regions.used & ~regions.is_truth)
        return all_terms

    def class_logits(self, maps: Sequence[Array], boxes: Array, valid: Array) -> tuple[ClassLogits, ...]:
        """The class logits of boxes `[N, P, 4]`, of which `valid` `[N, P]` are no padding, by each stage. All look at
        the same boxes; those of `predict` are moved from stage to stage."""
        return class_logits_of(self.bbox_head, self.bbox_roi_extractor, maps, boxes, valid)

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
