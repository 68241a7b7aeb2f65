"""Numbers of an image."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT
from jaxft.tasks.images import Images

if TYPE_CHECKING:
    from jaxft.tasks.task import Task


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Regression:
    """Numbers of an image. What depends on place or size wants --task.images.flip 0 and --task.images.scale 1 1."""

    kind: Annotated[Literal["regression"], tyro.conf.Suppress] = "regression"
    images: Images = Images()
    loss: Literal["mse", "l1", "huber"] = "mse"
    """The mean of squared errors, of absolute ones, or of half the squared ones, linear beyond huber_delta."""
    huber_delta: float = pydantic.Field(default=1.0, gt=0)
    """huber: the error from which on the loss is linear, in standardized numbers where there are such."""
    target_mean: tuple[float, ...] = ()
    """What is subtracted from each target before it is learned; empty for nothing. The report of the training data has
    the numbers. Predictions and metrics but the loss are in the targets' own units."""
    target_std: tuple[pydantic.PositiveFloat, ...] = ()
    """What each target is divided by after that; empty for 1."""
    best_by: Literal["r2", "mae", "rmse"] = "r2"
    """The metric that decides which model is best: r2 gives every target the same weight, whatever its unit; mae and
    rmse are means of errors in the targets' own units, and smaller is better."""

    def implied(self) -> dict[str, Any]:
        """What these fields say of other sections of a configuration: nothing."""
        return {}

    def task(self, dtype: str = "float32") -> "Task":
        """The task of these fields; `dtype` is that of the images that the model sees."""
        from jaxft.tasks.regression.task import RegressionTask

        return RegressionTask(self, dtype)
