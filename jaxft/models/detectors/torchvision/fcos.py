"""FCOS as torchvision builds it."""

from flax import nnx

from jaxft.models.detectors.dense.fcos_head import FCOSHead
from jaxft.models.detectors.detector import SingleStage
from jaxft.models.detectors.torchvision.names import FCOS_NAMES
from jaxft.models.detectors.torchvision.parts import WIDTH, deep_pyramid, resnet_tail
from jaxft.models.detectors.types import BoxLoss, ClassLoss, Norm, Selection


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
