"""What torchvision's detectors share, as options of our parts: anchors, coders, assignment, backbone and pyramid."""

from functools import partial

from flax import nnx

from jaxft.models.detectors.backbones.resnet import ResNet
from jaxft.models.detectors.necks.fpn import FPN
from jaxft.models.detectors.types import AnchorGenerator, DeltaCoder, MaxIoUAssigner, Norm, RandomSampler

WIDTH = 256
RATIOS = (0.5, 1.0, 2.0)
RESNET_WIDTHS = (256, 512, 1024, 2048)
BATCH_NORM, GROUP_NORM = Norm("BN"), Norm("GN")
assigner = partial(MaxIoUAssigner, gt_max_assign_all=True, low_quality_keeps_best=True)
sampler = partial(RandomSampler, counts_at_least_one=False)
deltas = partial(DeltaCoder, clamp_below=False)
anchors = partial(AnchorGenerator, strides=None, ratios=RATIOS, round=True, divisor=None)


def resnet_tail(norm: Norm, rngs: nnx.Rngs) -> ResNet:
    """ResNet-50's maps of strides 8, 16 and 32."""
    return ResNet(50, out_indices=(1, 2, 3), norm_cfg=norm, zero_init_residual=False, rngs=rngs)


def deep_pyramid(extra: str, rngs: nnx.Rngs) -> FPN:
    """An FPN with two more levels (`LastLevelP6P7`), the first of them on the backbone's or the pyramid's last map."""
    return FPN(RESNET_WIDTHS[1:], WIDTH, 5, add_extra_convs=extra, relu_before_extra_convs=True, rngs=rngs)
