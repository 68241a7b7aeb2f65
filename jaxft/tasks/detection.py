"""Objects in photos: the losses of a detector under MMDetection's names, and what it finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxft.data.transforms import normalize
from jaxft.models.detectors.types import Targets

Arrays = dict[str, Array]


@dataclass(frozen=True)
class Detection:
    """Detection in uint8 photos on canvases, `[N, H, W, 3]`.

    Attributes:
        mean, std: normalisation of the channels scaled to 0..1, in the order that the model sees.
        bgr: whether the model sees B, G, R.
        dtype: of the images that the model sees, and so of its arithmetic; boxes stay float32.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False
    dtype: str = "float32"

    def images(self, pixels: Array, size: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> normalised, in the task's dtype, and zero outside `size` `[N, 2]` (height, width).

        The zeros come after the normalisation, as in MMDetection and torchvision: padding is the mean colour.
        """
        ordered = pixels[..., ::-1] if self.bgr else pixels
        normalised = normalize(ordered, self.mean, self.std)
        rows = jnp.arange(pixels.shape[1])[None, :] < size[:, :1]
        columns = jnp.arange(pixels.shape[2])[None, :] < size[:, 1:]
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        return jnp.where(inside, normalised, 0).astype(self.dtype)

    def loss(self, model: Any, batch: Mapping[str, Array]) -> tuple[Array, Arrays]:
        """The sum of all terms whose name contains `loss`, MMDetection's rule; and every term, with that sum as `loss`.

        `batch` is that of `jaxft.data.canvas.ObjectRows.train`.
        """
        targets = Targets(batch["boxes"], batch["label"], batch["valid"], batch["ignored"], batch.get("masks"))
        size = batch["size"]
        terms: Arrays = model.loss(self.images(batch["image"], size), size, targets)
        loss = sum((term for name, term in terms.items() if "loss" in name), start=jnp.zeros((), jnp.float32))
        return loss, terms | {"loss": loss}

    def predict(self, model: Any, batch: Mapping[str, Array]) -> Arrays:
        """What the model finds in a batch `{image, size, index}`.

        Returns:
            `boxes` `[N, D, 4]` in pixels of the canvas, `scores`, `labels`, `valid` `[N, D]`, `masks` `[N, D, M, M]`
            where the model has them, and `size` and `index` as they came.
        """
        size = batch["size"]
        found = model.predict(self.images(batch["image"], size), size)
        answer = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "valid": found.valid}
        if found.masks is not None:
            answer["masks"] = found.masks
        return answer | {"size": size, "index": batch["index"]}
