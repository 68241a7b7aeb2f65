"""How a photo becomes what a trained model sees: what travels with weights."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxft.data.photo import ImageData
from jaxft.data.transforms import CenterCrop, Interpolation, normalize
from jaxft.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop, and normalization.

    Attributes:
        size: side of the square that is cut from the middle, pixels; None for detectors, which see whole photos.
        resize: what the shorter side becomes before that, pixels; None where `transforms` say it.
        longest: what the longer side may become at most, pixels, so that the shorter one stays below `resize` where it
            must; None where it may have any length.
        transforms: of detectors whose photos are not just resized with their ratio kept: each step and its arguments,
            as `test_transforms` of the configuration has them.
        mean, std: one value a channel, of pixels in 0..1, in the order that the model sees.
        interpolation: the filter of the resize.
        bgr: whether the model sees B, G, R instead of R, G, B.
    """

    size: int | None
    resize: int | None
    longest: int | None = None
    transforms: tuple[dict[str, Any], ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    bgr: bool = False

    def __call__(self, image: ImageData) -> np.ndarray:
        """What the model sees of one image: float32 `[size, size, 3]`.

        Args:
            image: a file, its encoded bytes, or pixels as uint8 `[H, W, 3]`.

        Raises:
            UserError: the image cannot be read, or the model is a detector, whose photos are padded to one shape.
        """
        if self.size is None or self.resize is None:
            raise UserError(
                "A detector sees whole photos, padded to one shape, together with their sizes; use jaxft.predict."
            )
        pixels = CenterCrop(size=self.size, resize=self.resize, interpolation=self.interpolation)(image)
        return normalize(pixels[..., ::-1] if self.bgr else pixels, self.mean, self.std)

    def plain(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
