"""RetinaNet on EfficientNet-Lite0, narrow; see `lite.py`.

Lin et al. 2017, https://arxiv.org/abs/1708.02002, on three levels of strides 8, 16 and 32.
"""

from flax import nnx

from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.detector import SingleStage
from jaxft.models.detectors.lite import STRIDES, lite0_pyramid
from jaxft.models.detectors.types import AnchorGenerator, BoxLoss, DeltaCoder, DenseTrain, MaxIoUAssigner, Selection


def retinanet_efficientnet_lite0_fpn(
    num_classes: int = 3,
    *,
    channels: int = 64,
    stacked_convs: int = 2,
    anchor_scale: float = 2.0,
    max_per_img: int = 100,
    drop_path: float = 0.0,
    momentum: float = 0.01,
    rngs: nnx.Rngs,
) -> SingleStage:
    """The detector.

    Args:
        channels: of the pyramid and inside the head.
        stacked_convs: 3x3 convolutions before each output of the head.
        anchor_scale: edge of the smallest anchor in units of its level's stride: 2.0 is 16 to 25 pixels on the finest
            level, 64 to 102 on the coarsest.
        max_per_img: rows of the result.
        drop_path, momentum: of the backbone, see `EfficientNetLite`.
    """
    return SingleStage(
        *lite0_pyramid(channels, drop_path=drop_path, momentum=momentum, rngs=rngs),
        RetinaHead(
            num_classes,
            channels,
            feat_channels=channels,
            stacked_convs=stacked_convs,
            anchor_generator=AnchorGenerator(
                strides=STRIDES, ratios=(0.5, 1.0, 2.0), octave_base_scale=anchor_scale, scales_per_octave=3
            ),
            bbox_coder=DeltaCoder(target_stds=(0.1, 0.1, 0.2, 0.2)),
            loss_bbox=BoxLoss("smooth_l1", beta=1.0),
            train_cfg=DenseTrain(MaxIoUAssigner(0.5, 0.4, 0.0)),
            test_cfg=Selection(
                max_per_img=max_per_img, iou_threshold=0.5, nms_pre=300, score_thr=0.05, min_bbox_size=0
            ),
            rngs=rngs,
        ),
    )


PRESETS = (retinanet_efficientnet_lite0_fpn,)
