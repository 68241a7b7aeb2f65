"""What published weights want to see: sizes, mean and deviation, as torchvision's `transforms` of them say.

Read from torchvision 0.29.1; a test compares them with the one that is installed.
"""

from typing import NamedTuple

from flax import nnx

from converters.torchvision import WEIGHTS
from jaxft.data.preprocessing import Preprocessing
from jaxft.data.transforms import Interpolation
from jaxft.errors import UserError
from jaxft.models import DETECTORS, made


class Crop(NamedTuple):
    """Side of the square, the shorter side before that, and the filter of the resize."""

    size: int
    resize: int
    interpolation: Interpolation = "bilinear"


# Of weights by their name; those of some models differ.
USUAL = {
    "IMAGENET1K_V1": Crop(224, 256),
    "IMAGENET1K_FEATURES": Crop(224, 256),
    "IMAGENET1K_V2": Crop(224, 232),
    "IMAGENET1K_SWAG_LINEAR_V1": Crop(224, 224, "bicubic"),
    "IMAGENET1K_SWAG_E2E_V1": Crop(384, 384, "bicubic"),
}
CROPS = {
    "convnext_base/IMAGENET1K_V1": Crop(224, 232),
    "convnext_large/IMAGENET1K_V1": Crop(224, 232),
    "convnext_small/IMAGENET1K_V1": Crop(224, 230),
    "convnext_tiny/IMAGENET1K_V1": Crop(224, 236),
    "efficientnet_b0/IMAGENET1K_V1": Crop(224, 256, "bicubic"),
    "efficientnet_b1/IMAGENET1K_V1": Crop(240, 256, "bicubic"),
    "efficientnet_b1/IMAGENET1K_V2": Crop(240, 255),
    "efficientnet_b2/IMAGENET1K_V1": Crop(288, 288, "bicubic"),
    "efficientnet_b3/IMAGENET1K_V1": Crop(300, 320, "bicubic"),
    "efficientnet_b4/IMAGENET1K_V1": Crop(380, 384, "bicubic"),
    "efficientnet_b5/IMAGENET1K_V1": Crop(456, 456, "bicubic"),
    "efficientnet_b6/IMAGENET1K_V1": Crop(528, 528, "bicubic"),
    "efficientnet_b7/IMAGENET1K_V1": Crop(600, 600, "bicubic"),
    "efficientnet_v2_l/IMAGENET1K_V1": Crop(480, 480, "bicubic"),
    "efficientnet_v2_m/IMAGENET1K_V1": Crop(480, 480),
    "efficientnet_v2_s/IMAGENET1K_V1": Crop(384, 384),
    "inception_v3/IMAGENET1K_V1": Crop(299, 342),
    "maxvit_t/IMAGENET1K_V1": Crop(224, 224, "bicubic"),
    "mnasnet0_75/IMAGENET1K_V1": Crop(224, 232),
    "mnasnet1_3/IMAGENET1K_V1": Crop(224, 232),
    "resnext101_64x4d/IMAGENET1K_V1": Crop(224, 232),
    "shufflenet_v2_x1_5/IMAGENET1K_V1": Crop(224, 232),
    "shufflenet_v2_x2_0/IMAGENET1K_V1": Crop(224, 232),
    "swin_b/IMAGENET1K_V1": Crop(224, 238, "bicubic"),
    "swin_s/IMAGENET1K_V1": Crop(224, 246, "bicubic"),
    "swin_t/IMAGENET1K_V1": Crop(224, 232, "bicubic"),
    "swin_v2_b/IMAGENET1K_V1": Crop(256, 272, "bicubic"),
    "swin_v2_s/IMAGENET1K_V1": Crop(256, 260, "bicubic"),
    "swin_v2_t/IMAGENET1K_V1": Crop(256, 260, "bicubic"),
    "vit_h_14/IMAGENET1K_SWAG_E2E_V1": Crop(518, 518, "bicubic"),
    "vit_l_16/IMAGENET1K_SWAG_E2E_V1": Crop(512, 512, "bicubic"),
    "vit_l_16/IMAGENET1K_V1": Crop(224, 242),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SCALES = {
    "efficientnet_v2_l/IMAGENET1K_V1": ((0.5,) * 3, (0.5,) * 3),
    "vgg16/IMAGENET1K_FEATURES": ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
}
# EfficientNet-Lite, by its own code: (x - 127) / 128, a margin of 16 pixels around the square.
LITE = {"0": 224, "1": 240, "2": 260, "3": 280, "4": 300}
# Detectors: the shorter and the longer side.
SMALL_SIDES = {"fasterrcnn_mobilenet_v3_large_320_fpn": (320, 640)}


def preprocessing(model: nnx.Module) -> Preprocessing:
    """How photos become what the published weights of a model want to see.

    Of a model that was filled from `torchvision://`, it is that of those weights; of another model by name, that of the
    default weights of its name, whatever it was filled with. What a run was trained with, `jaxft.load_run(...)` says.

    Raises:
        UserError: the model was not made by name, or no weights of that name are published.
    """
    how = made(model)
    if how is None:
        raise UserError(
            f"It is not known what this {type(model).__name__} wants to see, since jaxft.create_model did not make it; "
            "write a jaxft.Preprocessing for it."
        )
    if how.name.startswith("efficientnet_lite"):
        size = LITE[how.name.removeprefix("efficientnet_lite")]
        return Preprocessing(size=size, resize=size + 32, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    if how.name not in WEIGHTS:
        raise UserError(f"No weights of {how.name} are published, so that it is not known what they want to see.")
    if how.name in DETECTORS:
        resize, longest = SMALL_SIDES.get(how.name, (800, 1333))
        return Preprocessing(size=None, resize=resize, longest=longest)
    weights = how.weights.partition("/")[2] or list(WEIGHTS[how.name])[-1]
    size, resize, interpolation = CROPS.get(f"{how.name}/{weights}", USUAL[weights])
    mean, std = SCALES.get(f"{how.name}/{weights}", IMAGENET)
    return Preprocessing(size=size, resize=resize, interpolation=interpolation, mean=mean, std=std)
