"""How a photo becomes the square array that a network sees: what the tasks of one label or target an image share."""

from typing import TYPE_CHECKING, Any

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.errors import UserError
from jaxft.fields import STRICT, Bounds, ThreePositive

if TYPE_CHECKING:
    from jaxft.data.preprocessing import Preprocessing
    from jaxft.data.transforms import Augment, CenterCrop


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
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from the channels R, G, B scaled to 0..1."""
    std: ThreePositive = (0.229, 0.224, 0.225)
    """Divides the channels after that."""

    def augment(self) -> "Augment":
        """The random transform of training photos."""
        from jaxft.data.transforms import Augment

        return Augment(size=self.crop, scale=self.scale, ratio=self.ratio, flip=self.flip)

    def center_crop(self) -> "CenterCrop":
        """The fixed transform of evaluation photos."""
        from jaxft.data.transforms import CenterCrop

        return CenterCrop(size=self.crop, resize=self.resize)

    def preprocessing(self) -> "Preprocessing":
        """The fixed transform and the normalization, to be kept beside the weights."""
        from jaxft.data.preprocessing import Preprocessing

        return Preprocessing(size=self.crop, resize=self.resize, mean=self.mean, std=self.std)


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
