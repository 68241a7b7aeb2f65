"""EfficientNet-Lite0 and a narrow pyramid: what detectors that two CPU cores train have before their heads."""

from flax import nnx

from jaxft.models.classifiers.efficientnet_lite import efficientnet_lite0
from jaxft.models.detectors.backbones.pyramid import Pyramid
from jaxft.models.detectors.necks.fpn import FPN

STAGES = {"_blocks.4": 40, "_blocks.10": 112, "_blocks.15": 320}  # the last block of strides 8, 16, 32: its channels
STRIDES = (8, 16, 32)


def lite0_pyramid(channels: int, *, drop_path: float, momentum: float, rngs: nnx.Rngs) -> tuple[Pyramid, FPN]:
    """The backbone, with three maps of strides 8, 16 and 32, and the pyramid of so many channels.

    `drop_path` and `momentum` are those of `EfficientNetLite`.
    """
    classifier = efficientnet_lite0(1, drop_path=drop_path, momentum=momentum, rngs=rngs)
    return Pyramid(classifier, tuple(STAGES)), FPN(tuple(STAGES.values()), channels, len(STAGES), rngs=rngs)
