"""Generalized focal loss on EfficientNet-Lite0, narrow; see `lite.py`.

Li et al. 2020, https://arxiv.org/abs/2006.04388, on three levels of strides 8, 16 and 32.
"""

from flax import nnx

from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.detector import SingleStage
from jaxft.models.detectors.lite import STRIDES, lite0_pyramid
from jaxft.models.detectors.types import AnchorGenerator, Norm, Selection


def gfl_efficientnet_lite0_fpn(
    num_classes: int = 3,
    *,
    channels: int = 64,
    stacked_convs: int = 2,
    anchor_scale: float = 4.0,
    reg_max: int = 16,
    max_per_img: int = 100,
    drop_path: float = 0.0,
    momentum: float = 0.01,
    rngs: nnx.Rngs,
) -> SingleStage:
    """The detector.

    Args:
        channels: of the pyramid and inside the head; a multiple of 8.
        stacked_convs: 3x3 convolutions before each output of the head.
        anchor_scale: edge of the one anchor of a place in units of its level's stride; it decides which places an
            object is given to.
        reg_max: an edge is at most so many strides away from its place.
        max_per_img: rows of the result.
        drop_path, momentum: of the backbone, see `EfficientNetLite`.
    """
    return SingleStage(
        *lite0_pyramid(channels, drop_path=drop_path, momentum=momentum, rngs=rngs),
        GFLHead(
            num_classes,
            channels,
            feat_channels=channels,
            stacked_convs=stacked_convs,
            reg_max=reg_max,
            norm_cfg=Norm("GN", num_groups=8),
            anchor_generator=AnchorGenerator(
                strides=STRIDES, ratios=(1.0,), octave_base_scale=anchor_scale, scales_per_octave=1
            ),
            test_cfg=Selection(
                max_per_img=max_per_img, iou_threshold=0.6, nms_pre=300, score_thr=0.05, min_bbox_size=0
            ),
            rngs=rngs,
        ),
    )


PRESETS = (gfl_efficientnet_lite0_fpn,)
