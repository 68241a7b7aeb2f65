"""RetinaNet as torchvision builds it."""

from flax import nnx

from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.detector import SingleStage
from jaxft.models.detectors.torchvision.names import RETINANET_NAMES
from jaxft.models.detectors.torchvision.parts import (
    GROUP_NORM,
    WIDTH,
    anchors,
    assigner,
    deep_pyramid,
    deltas,
    resnet_tail,
)
from jaxft.models.detectors.types import BoxLoss, DenseTrain, Norm, Selection


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


def retinanet_resnet50_fpn(num_classes: int = 91, *, norm_eps: float = 1e-5, rngs: nnx.Rngs) -> SingleStage:
    """`norm_eps`: torchvision sets it to 0 for its own weights COCO_V1."""
    return retinanet(num_classes, second=False, norm_eps=norm_eps, rngs=rngs)


def retinanet_resnet50_fpn_v2(num_classes: int = 91, *, rngs: nnx.Rngs) -> SingleStage:
    return retinanet(num_classes, second=True, norm_eps=1e-5, rngs=rngs)
