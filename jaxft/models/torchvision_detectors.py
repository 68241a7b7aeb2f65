"""Detectors as torchvision builds them: its anchors, coders, samples, thresholds and norms, as options of our parts.

`num_classes` counts what can be found, without a background. torchvision counts the background of a Faster or Mask
R-CNN in: its 91 are 90 here. Its RetinaNet and FCOS have one output a number and none for a background: 91 are 91.

Parts are called as MMDetection calls them. `torch_names` of a model says what torchvision's keys are, and the converter
asks it.
"""

from functools import partial

from flax import nnx

from jaxft.models.anchor_free_heads import FCOSHead
from jaxft.models.backbones import Pyramid, ResNet
from jaxft.models.conv_module import normalisation
from jaxft.models.dense_heads import RetinaHead, RPNHead
from jaxft.models.detection_types import (
    AnchorGenerator,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    MaxIoUAssigner,
    Norm,
    RandomSampler,
    RoIExtractor,
    RoITrain,
    Selection,
)
from jaxft.models.detectors import SingleStage, TwoStage
from jaxft.models.fpn import FPN
from jaxft.models.layers import BatchNorm
from jaxft.models.mobilenet_v3 import mobilenet_v3_large
from jaxft.models.paths import modules
from jaxft.models.roi_heads import StandardRoIHead
from jaxft.models.roi_layers import ConvFCBBoxHead, FCNMaskHead

# Regular expressions for the beginning of PyTorch's key, were the parts called as here -> torchvision's.
Names = tuple[tuple[str, str], ...]
PYRAMID_NAMES: Names = (
    (r"backbone\.(?:features\.)?", "backbone.body."),
    (r"neck\.lateral_convs\.(\d)\.conv", r"backbone.fpn.inner_blocks.\1.0"),
    (r"neck\.lateral_convs\.(\d)\.bn", r"backbone.fpn.inner_blocks.\1.1"),
)
LEVEL_NAMES: Names = (
    (r"neck\.fpn_convs\.(\d)\.conv", r"backbone.fpn.layer_blocks.\1.0"),
    (r"neck\.fpn_convs\.(\d)\.bn", r"backbone.fpn.layer_blocks.\1.1"),
)
RCNN_NAMES: Names = (
    *PYRAMID_NAMES,
    *LEVEL_NAMES,
    (r"rpn_head\.rpn_conv\.(\d)\.conv", r"rpn.head.conv.\1.0"),
    (r"rpn_head\.rpn_conv", "rpn.head.conv.0.0"),
    (r"rpn_head\.rpn_cls", "rpn.head.cls_logits"),
    (r"rpn_head\.rpn_reg", "rpn.head.bbox_pred"),
    (r"roi_head\.bbox_head\.fc_cls", "roi_heads.box_predictor.cls_score"),
    (r"roi_head\.bbox_head\.fc_reg", "roi_heads.box_predictor.bbox_pred"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv", r"roi_heads.mask_head.\1.0"),
    (r"roi_head\.mask_head\.convs\.(\d)\.bn", r"roi_heads.mask_head.\1.1"),
    (r"roi_head\.mask_head\.upsample", "roi_heads.mask_predictor.conv5_mask"),
    (r"roi_head\.mask_head\.conv_logits", "roi_heads.mask_predictor.mask_fcn_logits"),
)
FIRST_NAMES: Names = (
    *RCNN_NAMES,
    (r"roi_head\.bbox_head\.shared_fcs\.0", "roi_heads.box_head.fc6"),
    (r"roi_head\.bbox_head\.shared_fcs\.1", "roi_heads.box_head.fc7"),
)
SECOND_NAMES: Names = (
    *RCNN_NAMES,
    (r"roi_head\.bbox_head\.shared_convs\.(\d)\.conv", r"roi_heads.box_head.\1.0"),
    (r"roi_head\.bbox_head\.shared_convs\.(\d)\.bn", r"roi_heads.box_head.\1.1"),
    (r"roi_head\.bbox_head\.shared_fcs\.0", "roi_heads.box_head.5"),
)
DEEP_NAMES: Names = (
    *PYRAMID_NAMES,
    (r"neck\.fpn_convs\.3\.conv", "backbone.fpn.extra_blocks.p6"),
    (r"neck\.fpn_convs\.4\.conv", "backbone.fpn.extra_blocks.p7"),
    *LEVEL_NAMES,
)
RETINANET_NAMES: Names = (
    *DEEP_NAMES,
    (r"bbox_head\.cls_convs\.(\d)\.conv", r"head.classification_head.conv.\1.0"),
    (r"bbox_head\.cls_convs\.(\d)\.gn", r"head.classification_head.conv.\1.1"),
    (r"bbox_head\.reg_convs\.(\d)\.conv", r"head.regression_head.conv.\1.0"),
    (r"bbox_head\.reg_convs\.(\d)\.gn", r"head.regression_head.conv.\1.1"),
    (r"bbox_head\.retina_cls", "head.classification_head.cls_logits"),
    (r"bbox_head\.retina_reg", "head.regression_head.bbox_reg"),
)
FCOS_NAMES: Names = (
    *DEEP_NAMES,
    *(
        (rf"bbox_head\.{ours}_convs\.{index}\.{layer}", f"head.{theirs}_head.conv.{3 * index + offset}")
        for ours, theirs in (("cls", "classification"), ("reg", "regression"))
        for index in range(4)
        for offset, layer in enumerate(("conv", "gn"))
    ),
    (r"bbox_head\.conv_cls", "head.classification_head.cls_logits"),
    (r"bbox_head\.conv_reg", "head.regression_head.bbox_reg"),
    (r"bbox_head\.conv_centerness", "head.regression_head.bbox_ctrness"),
)

WIDTH = 256
RATIOS = (0.5, 1.0, 2.0)
RESNET_WIDTHS = (256, 512, 1024, 2048)
BATCH_NORM, GROUP_NORM = Norm("BN"), Norm("GN")
SMOOTH_L1 = BoxLoss("smooth_l1", beta=1 / 9)
assigner = partial(MaxIoUAssigner, gt_max_assign_all=True, low_quality_keeps_best=True)
sampler = partial(RandomSampler, counts_at_least_one=False)
deltas = partial(DeltaCoder, clamp_below=False)
anchors = partial(AnchorGenerator, strides=None, ratios=RATIOS, round=True, divisor=None)


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
                setattr(owner, name, normalisation(norm, layer.scale.shape[0]))
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


def retinanet(num_classes: int, *, second: bool, norm_eps: float, rngs: nnx.Rngs) -> SingleStage:
    """RetinaNet on ResNet-50, first or second version."""
    edges = (32, 64, 128, 256, 512)
    sizes = tuple((edge, int(edge * 2 ** (1 / 3)), int(edge * 2 ** (2 / 3))) for edge in edges)
    model = SingleStage(
        resnet_tail(Norm("BN") if second else Norm("FrozenBN", eps=norm_eps), rngs),
        deep_pyramid("on_input" if second else "on_output", rngs),
        RetinaHead(
            num_classes,
            WIDTH,
            norm_cfg=GROUP_NORM if second else None,
            anchor_generator=anchors(sizes=sizes),
            bbox_coder=deltas(),
            reg_decoded_bbox=second,
            loss_bbox=BoxLoss("giou" if second else "l1"),
            train_cfg=DenseTrain(assigner(0.5, 0.4), average_per_image=True),
            test_cfg=Selection(max_per_img=300, iou_threshold=0.5, nms_pre=1000, score_thr=0.05),
            rngs=rngs,
        ),
    )
    model.torch_names = RETINANET_NAMES
    return model


def resnet_tail(norm: Norm, rngs: nnx.Rngs) -> ResNet:
    """ResNet-50's maps of strides 8, 16 and 32."""
    return ResNet(50, out_indices=(1, 2, 3), norm_cfg=norm, zero_init_residual=False, rngs=rngs)


def deep_pyramid(extra: str, rngs: nnx.Rngs) -> FPN:
    """An FPN with two more levels (`LastLevelP6P7`), the first of them on the backbone's or the pyramid's last map."""
    return FPN(RESNET_WIDTHS[1:], WIDTH, 5, add_extra_convs=extra, relu_before_extra_convs=True, rngs=rngs)


def retinanet_resnet50_fpn(num_classes: int = 91, *, norm_eps: float = 1e-5, rngs: nnx.Rngs) -> SingleStage:
    """`norm_eps`: torchvision sets it to 0 for its own weights COCO_V1."""
    return retinanet(num_classes, second=False, norm_eps=norm_eps, rngs=rngs)


def retinanet_resnet50_fpn_v2(num_classes: int = 91, *, rngs: nnx.Rngs) -> SingleStage:
    return retinanet(num_classes, second=True, norm_eps=1e-5, rngs=rngs)


def fcos_resnet50_fpn(num_classes: int = 91, *, rngs: nnx.Rngs) -> SingleStage:
    infinity = float("inf")
    model = SingleStage(
        resnet_tail(Norm("FrozenBN"), rngs),
        deep_pyramid("on_output", rngs),
        FCOSHead(
            num_classes,
            WIDTH,
            regress_ranges=((0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, infinity)),
            center_sampling=True,
            norm_on_bbox=True,
            centerness_on_reg=True,
            conv_bias=True,
            loss_cls=ClassLoss("focal"),
            loss_bbox=BoxLoss("giou"),
            test_cfg=Selection(max_per_img=100, iou_threshold=0.6, nms_pre=1000, score_thr=0.2),
            offset=0.0,
            with_scales=False,
            open_ranges=True,
            weighted_boxes=False,
            geometric_scores=True,
            rngs=rngs,
        ),
    )
    model.torch_names = FCOS_NAMES
    return model


PRESETS = (
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    fcos_resnet50_fpn,
)
