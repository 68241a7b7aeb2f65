"""One class an image: cross-entropy and accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxft.data.transforms import normalize
from jaxft.models.layers import Outputs

Sums = dict[str, Array]


@dataclass(frozen=True)
class Classification:
    """Classification of uint8 images `[N, H, W, 3]`.

    Attributes:
        mean, std: normalisation of the channels scaled to 0..1.
        label_smoothing: share of the target spread evenly over all classes, as in `torch.nn.CrossEntropyLoss`.
        dtype: of the images that the model sees, and so of its arithmetic.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    label_smoothing: float = 0.0
    dtype: str = "float32"

    def images(self, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> normalised, in the task's dtype; floats are taken as normalised already."""
        floating = jnp.issubdtype(pixels.dtype, jnp.floating)
        return jnp.asarray(pixels if floating else normalize(pixels, self.mean, self.std), self.dtype)

    def logits(self, model: Any, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> float32 (or wider) `[N, classes]`, of a model in evaluation."""
        return _wide(model(self.images(pixels)))

    def _losses(self, logits: Array, labels: Array) -> Array:
        classes = logits.shape[-1]
        targets = optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=logits.dtype), self.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets)

    def loss(self, model: Any, batch: Mapping[str, Array]) -> tuple[Array, Sums]:
        """The mean loss of a training batch `{image, label}`, and its metrics `loss` and `accuracy` (0..1).

        Auxiliary heads add theirs with the weight that the model gives them.
        """
        outputs, labels = model(self.images(batch["image"])), batch["label"]
        logits, auxiliary, weight = outputs if isinstance(outputs, Outputs) else Outputs(outputs, (), 0.0)
        logits = _wide(logits)
        loss = self._losses(logits, labels).mean()
        for extra in auxiliary:
            loss += weight * self._losses(_wide(extra), labels).mean()
        return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}

    def evaluate(self, model: Any, batch: Mapping[str, Array]) -> Sums:
        """Sums over the examples of `{image, label, mask}` whose mask is 1: `loss`, `accuracy`, `count`."""
        logits = self.logits(model, batch["image"])
        mask = batch["mask"]
        right = logits.argmax(-1) == batch["label"]
        losses = self._losses(logits, batch["label"])
        return {"loss": (losses * mask).sum(), "accuracy": (right * mask).sum(), "count": mask.sum()}

    def predict(self, model: Any, batch: Mapping[str, Array]) -> Array:
        """Probabilities `[N, classes]` of a batch `{image}`."""
        return jax.nn.softmax(self.logits(model, batch["image"]))


def _wide(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
