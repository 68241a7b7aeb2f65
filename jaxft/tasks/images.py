"""How a photo becomes the square array that a network sees: what the tasks of one label or target an image share."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from jaxft.errors import UserError
from jaxft.fields import STRICT, Bounds, ThreePositive

if TYPE_CHECKING:
    from jaxft.data.augmentations import Step
    from jaxft.data.dataset import Augmentation
    from jaxft.data.operations import Warp
    from jaxft.data.preprocessing import Preprocessing
    from jaxft.data.transforms import CenterCrop

Policy = Literal[
    "none", "randaugment", "trivialaugment", "autoaugment_imagenet", "autoaugment_cifar10", "autoaugment_svhn"
]
Level = Annotated[int, pydantic.Field(ge=0, le=255)]
HalfCircle = Annotated[float, pydantic.Field(ge=0, le=0.5)]
Jitter = tuple[pydantic.NonNegativeFloat, pydantic.NonNegativeFloat, pydantic.NonNegativeFloat, HalfCircle]
NO_JITTER = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Images:
    """How a photo becomes an array."""

    crop: int = pydantic.Field(default=224, ge=1)
    """Side of the square that the model sees, pixels."""
    resize: int = pydantic.Field(default=256, ge=1)
    """Evaluation: the short side before the center crop, pixels."""
    scale: Bounds = (0.08, 1.0)
    """Training: the area of the random crop, as a share of the photo."""
    ratio: Bounds = (3 / 4, 4 / 3)
    """Training: width to height of the random crop."""
    flip: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Training: probability of a horizontal flip."""
    vertical_flip: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Training: probability of turning the crop upside down."""
    policy: Policy = "none"
    """Training: random operations of torchvision's RandAugment, TrivialAugmentWide, or AutoAugment as it was found on
    ImageNet, CIFAR-10 or SVHN."""
    magnitude: int = pydantic.Field(default=9, ge=0, le=30)
    """randaugment: how strong its operations are."""
    num_ops: int = pydantic.Field(default=2, ge=1)
    """randaugment: how many operations an image gets."""
    rotation: float = pydantic.Field(default=0.0, ge=0, le=180)
    """Training: turn by an angle from minus to plus this many degrees."""
    warp_interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """Policy and rotation: how pixels that move are made."""
    warp_fill: tuple[Level, Level, Level] = (0, 0, 0)
    """Policy and rotation: R, G, B, 0..255, of what comes in from outside the crop."""
    color_jitter: Jitter = NO_JITTER
    """Training: how much brightness, contrast and saturation vary (0.4 for factors from 0.6 to 1.4), and hue (0.1 for
    shifts by up to a tenth of the circle of colors; 0.5 at most)."""
    grayscale: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Training: probability of taking the color away."""
    blur: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Training: probability of a Gaussian blur."""
    blur_kernel: int = pydantic.Field(default=13, ge=1)
    """blur: side of its window, odd, pixels."""
    blur_sigma: Bounds = (0.1, 2.0)
    """blur: smallest and largest standard deviation, pixels."""
    erasing: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Training: probability of erasing a rectangle, after all else."""
    erasing_scale: Bounds = (0.02, 0.33)
    """erasing: area of the rectangle, as a share of the crop."""
    erasing_ratio: Bounds = (0.3, 3.3)
    """erasing: height to width of the rectangle."""
    erasing_fill: Literal["mean", "noise"] = "mean"
    """erasing: what is put there, `mean`, which is 0 after the normalization, or noise, which is standard normal then;
    both rounded to a level of 255."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from the channels R, G, B scaled to 0..1."""
    std: ThreePositive = (0.229, 0.224, 0.225)
    """Divides the channels after that."""

    def __post_init__(self) -> None:
        self._refuse_idle()
        if self.blur and (self.blur_kernel % 2 == 0 or self.blur_kernel // 2 >= self.crop):
            raise ValueError(
                f"blur_kernel is {self.blur_kernel}; it is an odd number of at most {2 * self.crop - 1}, twice the "
                "crop less 1"
            )
        if self.erasing_scale[1] > 1:
            raise ValueError(f"erasing_scale is {self.erasing_scale}; no share of the crop is larger than 1")

    def _refuse_idle(self) -> None:
        """Refuses settings of an augmentation that is off."""
        moves = self.policy != "none" or self.rotation > 0
        parts = (
            (self.policy == "randaugment", "policy is randaugment", ("magnitude", "num_ops")),
            (moves, "there is a policy, or rotation is above 0", ("warp_interpolation", "warp_fill")),
            (self.blur > 0, "blur is above 0", ("blur_kernel", "blur_sigma")),
            (self.erasing > 0, "erasing is above 0", ("erasing_scale", "erasing_ratio", "erasing_fill")),
        )
        for on, needed, names in parts:
            for name in names:
                value = getattr(self, name)
                if not on and value != _default(name):
                    raise ValueError(f"{name} is {value}, but it has an effect only where {needed}")

    def augment(self) -> "Augmentation":
        """The random transform of training photos.

        What is off is left out, and draws no random numbers.
        """
        from jaxft.data.augmentations import Chain
        from jaxft.data.transforms import Augment

        crop = Augment(size=self.crop, scale=self.scale, ratio=self.ratio, flip=self.flip)
        steps = tuple(self._steps())
        return Chain(crop=crop, steps=steps) if steps else crop

    def _steps(self) -> "Iterator[Step]":
        """What comes after the crop and the horizontal flip, in the order of torchvision's training script where that
        has it: the policy first, erasing last."""
        from jaxft.data import augmentations as them
        from jaxft.data.operations import Warp

        warp = Warp(interpolation=self.warp_interpolation, fill=self.warp_fill)
        if self.vertical_flip:
            yield them.VerticalFlip(probability=self.vertical_flip)
        if self.policy != "none":
            yield self._policy(warp)
        if self.rotation:
            yield them.Rotation(degrees=self.rotation, warp=warp)
        if any(self.color_jitter):
            brightness, contrast, saturation, hue = self.color_jitter
            yield them.ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        if self.grayscale:
            yield them.Grayscale(probability=self.grayscale)
        if self.blur:
            yield them.GaussianBlur(probability=self.blur, kernel=self.blur_kernel, sigma=self.blur_sigma)
        if self.erasing:
            scale, ratio, fill = self.erasing_scale, self.erasing_ratio, self.erasing_fill
            yield them.RandomErasing(
                probability=self.erasing, scale=scale, ratio=ratio, fill=fill, mean=self.mean, std=self.std
            )

    def _policy(self, warp: "Warp") -> "Step":
        from jaxft.data.policies import AutoAugment, RandAugment, TrivialAugment

        match self.policy:
            case "randaugment":
                return RandAugment(num_ops=self.num_ops, magnitude=self.magnitude, warp=warp)
            case "trivialaugment":
                return TrivialAugment(warp=warp)
            case "autoaugment_imagenet":
                return AutoAugment(found_on="imagenet", warp=warp)
            case "autoaugment_cifar10":
                return AutoAugment(found_on="cifar10", warp=warp)
            case "autoaugment_svhn":
                return AutoAugment(found_on="svhn", warp=warp)
            case "none":
                raise AssertionError("no policy was asked for")

    def center_crop(self) -> "CenterCrop":
        """The fixed transform of evaluation photos."""
        from jaxft.data.transforms import CenterCrop

        return CenterCrop(size=self.crop, resize=self.resize)

    def preprocessing(self) -> "Preprocessing":
        """The fixed transform and the normalization, to be kept beside the weights."""
        from jaxft.data.preprocessing import Preprocessing

        return Preprocessing(size=self.crop, resize=self.resize, mean=self.mean, std=self.std)


def _default(name: str) -> Any:
    """The default value of a field of `Images`."""
    (field,) = (field for field in dataclasses.fields(Images) if field.name == name)
    return field.default.default if isinstance(field.default, FieldInfo) else field.default


def check_model(model: Any, task: str) -> None:
    """Refuses a model that does not map images to one row of numbers each.

    Raises:
        UserError: the model is a detector.
    """
    if hasattr(model, "loss") and hasattr(model, "predict"):
        raise UserError(
            f"The model is a detector ({type(model).__name__}), but the task is {task}; choose a classifier by "
            "--model.name, or a configuration whose task is Detection()."
        )
