"""Faster and Mask R-CNN as torchvision builds them."""

from flax import nnx

from jaxft.models.classifiers.mobilenet_v3 import mobilenet_v3_large
from jaxft.models.detectors.backbones.pyramid import Pyramid
from jaxft.models.detectors.backbones.resnet import ResNet
from jaxft.models.detectors.conv_module import normalization
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.detector import TwoStage
from jaxft.models.detectors.necks.fpn import FPN
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.standard_roi_head import StandardRoIHead
from jaxft.models.detectors.torchvision.names import FIRST_NAMES, SECOND_NAMES
from jaxft.models.detectors.torchvision.parts import (
    BATCH_NORM,
    RESNET_WIDTHS,
    WIDTH,
    anchors,
    assigner,
    deltas,
    sampler,
)
from jaxft.models.detectors.types import BoxLoss, DenseTrain, Norm, RoIExtractor, RoITrain, Selection
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import modules

SMOOTH_L1 = BoxLoss("smooth_l1", beta=1 / 9)


def rpn(sizes: tuple[tuple[float, ...], ...], test: Selection, *, convs: int = 1, rngs: nnx.Rngs) -> RPNHead:
    """The region proposals of every R-CNN; `sizes` are the edge lengths of the anchors of each level."""
    return RPNHead(
        WIDTH,
        num_convs=convs,
        anchor_generator=anchors(sizes=sizes),
        bbox_coder=deltas(),
        loss_bbox=SMOOTH_L1,
        train_cfg=DenseTrain(assigner(0.7, 0.3), sampler(256, 0.5, add_gt_as_proposals=False)),
        test_cfg=test,
        rngs=rngs,
    )


def proposals(count: int, score: float = 0.0) -> Selection:
    """How many boxes go on, before and after non-maximum suppression."""
    return Selection(max_per_img=count, iou_threshold=0.7, nms_pre=count, score_thr=score, min_bbox_size=1e-3)


def regions(size: int, strides: tuple[int, ...]) -> RoIExtractor:
    """`MultiScaleRoIAlign`: two samples a side and bin, not aligned."""
    return RoIExtractor(size, strides, sampling_ratio=2, aligned=False, canonical_levels=True)


def roi_head(
    num_classes: int, strides: tuple[int, ...], *, masks: bool, convs: int = 0, norm: Norm | None = None, rngs: nnx.Rngs
) -> StandardRoIHead:
    """The second stage of every R-CNN; `convs` and `norm` are those of the second versions."""
    head = ConvFCBBoxHead(
        WIDTH,
        num_classes,
        num_shared_convs=convs,
        num_shared_fcs=1 if convs else 2,
        norm_cfg=norm,
        bbox_coder=deltas(target_stds=(0.1, 0.1, 0.2, 0.2)),
        loss_bbox=SMOOTH_L1,
        background_first=True,
        rngs=rngs,
    )
    return StandardRoIHead(
        head,
        regions(7, strides),
        mask_head=FCNMaskHead(WIDTH, num_classes, norm_cfg=norm, background_first=True, rngs=rngs) if masks else None,
        mask_roi_extractor=regions(14, strides) if masks else None,
        train_cfg=RoITrain(assigner(0.5, 0.5, match_low_quality=False), sampler(512, 0.25), soft_masks=True),
        test_cfg=Selection(max_per_img=100, iou_threshold=0.5, score_thr=0.05, min_bbox_size=1e-2),
        rngs=rngs,
    )


def rcnn(num_classes: int, *, masks: bool, second: bool, norm_eps: float, rngs: nnx.Rngs) -> TwoStage:
    """Faster or Mask R-CNN on ResNet-50, first or second version."""
    norm = Norm("BN") if second else Norm("FrozenBN", eps=norm_eps)
    model = TwoStage(
        ResNet(50, norm_cfg=norm, zero_init_residual=False, rngs=rngs),
        FPN(RESNET_WIDTHS, WIDTH, 5, norm_cfg=BATCH_NORM if second else None, rngs=rngs),
        rpn(tuple((size,) for size in (32, 64, 128, 256, 512)), proposals(1000), convs=1 + second, rngs=rngs),
        roi_head(
            num_classes,
            (4, 8, 16, 32),
            masks=masks,
            convs=4 if second else 0,
            norm=BATCH_NORM if second else None,
            rngs=rngs,
        ),
        rpn_proposal=proposals(2000),
    )
    model.torch_names = SECOND_NAMES if second else FIRST_NAMES
    return model


def mobile(num_classes: int, training: Selection, test: Selection, *, frozen: bool, rngs: nnx.Rngs) -> TwoStage:
    """Faster R-CNN on MobileNetV3-Large; `frozen`: BatchNorms whose vectors are constants."""
    norm = Norm("FrozenBN" if frozen else "BN")
    model = TwoStage(
        renormed(Pyramid(mobilenet_v3_large(1, rngs=rngs), ("features.13", "features.16")), norm),
        FPN((160, 960), WIDTH, 3, rngs=rngs),
        rpn(((32, 64, 128, 256, 512),) * 3, test, rngs=rngs),
        roi_head(num_classes, (32, 32), masks=False, rngs=rngs),
        rpn_proposal=training,
    )
    model.torch_names = FIRST_NAMES
    return model


def renormed(module: Pyramid, norm: Norm) -> Pyramid:
    """The module with such layers in the place of its BatchNorms, whose eps is not that of the classifier then."""
    for _, owner in list(modules(module)):
        for name, layer in list(vars(owner).items()):
            if isinstance(layer, BatchNorm):
                setattr(owner, name, normalization(norm, layer.scale.shape[0]))
    return module


def fasterrcnn_resnet50_fpn(num_classes: int = 90, *, norm_eps: float = 1e-5, rngs: nnx.Rngs) -> TwoStage:
    """`norm_eps`: torchvision sets it to 0 for its own weights COCO_V1."""
    return rcnn(num_classes, masks=False, second=False, norm_eps=norm_eps, rngs=rngs)


def fasterrcnn_resnet50_fpn_v2(num_classes: int = 90, *, rngs: nnx.Rngs) -> TwoStage:
    return rcnn(num_classes, masks=False, second=True, norm_eps=1e-5, rngs=rngs)


def maskrcnn_resnet50_fpn(num_classes: int = 90, *, norm_eps: float = 1e-5, rngs: nnx.Rngs) -> TwoStage:
    """`norm_eps`: torchvision sets it to 0 for its own weights COCO_V1."""
    return rcnn(num_classes, masks=True, second=False, norm_eps=norm_eps, rngs=rngs)


def maskrcnn_resnet50_fpn_v2(num_classes: int = 90, *, rngs: nnx.Rngs) -> TwoStage:
    return rcnn(num_classes, masks=True, second=True, norm_eps=1e-5, rngs=rngs)


def fasterrcnn_mobilenet_v3_large_fpn(num_classes: int = 90, *, frozen: bool = True, rngs: nnx.Rngs) -> TwoStage:
    """`frozen`: BatchNorms whose vectors are constants, as torchvision has them with weights of any kind."""
    return mobile(num_classes, proposals(2000, 0.05), proposals(1000, 0.05), frozen=frozen, rngs=rngs)


def fasterrcnn_mobilenet_v3_large_320_fpn(num_classes: int = 90, *, frozen: bool = True, rngs: nnx.Rngs) -> TwoStage:
    """`frozen`: as of `fasterrcnn_mobilenet_v3_large_fpn`."""
    return mobile(num_classes, proposals(2000, 0.05), proposals(150, 0.05), frozen=frozen, rngs=rngs)
