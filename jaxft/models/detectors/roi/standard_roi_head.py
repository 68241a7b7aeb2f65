"""Classes, boxes and masks of regions, in one step: Faster and Mask R-CNN.

Ren et al. 2015, https://arxiv.org/abs/1506.01497; He et al. 2017, https://arxiv.org/abs/1703.06870.
"""

from collections.abc import Sequence

from flax import nnx
from jax import Array

from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.blocks import in_blocks
from jaxft.models.detectors.roi.boxes import box_terms, selected
from jaxft.models.detectors.roi.judging import ClassLogits, class_logits_of
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.masks import mask_probabilities, mask_terms
from jaxft.models.detectors.roi.regions import extract, sampled
from jaxft.models.detectors.types import (
    Detections,
    MaxIoUAssigner,
    RandomSampler,
    RoIExtractor,
    RoITrain,
    Selection,
    Targets,
)
from jaxft.models.layers.per_image import per_image

ROI_TRAIN = RoITrain(MaxIoUAssigner(0.5, 0.5, 0.5, match_low_quality=False), RandomSampler(512, 0.25))
ROI_TEST = Selection(max_per_img=100, iou_threshold=0.5, score_thr=0.05)


class StandardRoIHead(nnx.Module):
    """Classes, boxes and masks of the proposals; `rngs` draws the samples.

    Args:
        bbox_head: see `ConvFCBBoxHead`.
        bbox_roi_extractor: what the box head sees of a region.
        mask_head, mask_roi_extractor: None where there are no masks.
        train_cfg, test_cfg: see `detectors.types`.
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

    def _looked_at(self, maps: tuple[Array, ...], boxes: Array, valid: Array) -> tuple[Array, ...]:
        def look(boxes: Array, valid: Array) -> tuple[Array, ...]:
            return self.bbox_head(extract(self.bbox_roi_extractor, maps, boxes, valid), valid.reshape(-1))

        return in_blocks(look, boxes, valid)

    def class_logits(self, maps: Sequence[Array], boxes: Array, valid: Array) -> tuple[ClassLogits, ...]:
        """The class logits of boxes `[N, P, 4]`, of which `valid` `[N, P]` are no padding, in a tuple of one."""
        return class_logits_of((self.bbox_head,), self.bbox_roi_extractor, maps, boxes, valid)

    def predict(self, maps: Sequence[Array], proposals: Detections, sizes: Array) -> Detections:
        """The objects in the proposals, with masks where there is a mask head."""
        logits, codes = per_image(self._looked_at, tuple(maps), proposals.boxes, proposals.valid)
        found = selected(self.bbox_head, self.test_cfg, proposals.boxes, proposals.valid, logits, codes, sizes)
        if self.mask_head is None:
            return found
        features = extract(self.mask_roi_extractor, maps, found.boxes, found.valid)
        return found._replace(masks=mask_probabilities(self.mask_head, features, found))
