"""What a user brings in the place of what a configuration says: a model, datasets, a loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.config import Config
from jaxft.data.dataset import Dataset
from jaxft.errors import UserError
from jaxft.training.step import Batch, LossFunction

TEACHER = "teacher"
"""Beside the names of what is the user's: which weights a teacher has."""
Loss = Callable[[Any, Batch], Array | tuple[Array, Mapping[str, Array]]]
"""A user's loss of a batch: a scalar, alone or with metrics of the batch."""


@dataclass(frozen=True)
class Own:
    """What a user brings in the place of what a configuration says.

    Attributes:
        model: with its first values.
        datasets: the training and the validation split, or None in the place of the latter.
        parent: the configuration that the run's was made from, which stands on its page.
    """

    model: nnx.Module | None = None
    datasets: tuple[Dataset, Dataset | None] | None = None
    loss: Loss | None = None
    parent: Config | None = None

    @property
    def names(self) -> dict[str, str]:
        """What each is called, to be compared when a run goes on; what is not the user's is not there."""
        names = {}
        if self.model is not None:
            names["model"] = type(self.model).__qualname__
        if self.datasets is not None:
            given = [type(dataset).__qualname__ for dataset in self.datasets if dataset is not None]
            names["datasets"] = " and ".join(given)
        if self.loss is not None:
            names["loss"] = getattr(self.loss, "__qualname__", type(self.loss).__qualname__)
        return names


NOTHING_OWN = Own()


def with_metrics(loss: Loss) -> LossFunction:
    """A user's loss as a step wants it: with metrics, `loss` among them.

    The function raises a UserError where the loss is no scalar.
    """

    def function(model: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        found = loss(model, batch)
        value, metrics = found if isinstance(found, tuple) else (found, {})
        if jnp.shape(value) != ():
            raise UserError(f"The loss of a batch is a scalar, yours has the shape {jnp.shape(value)}; take its mean.")
        return value, {**metrics, "loss": value}

    return function
