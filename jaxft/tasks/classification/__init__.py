"""One class an image."""

from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT
from jaxft.tasks.images import Images

if TYPE_CHECKING:
    from jaxft.tasks.task import Task


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Classification:
    """One class an image."""

    kind: Annotated[Literal["classification"], tyro.conf.Suppress] = "classification"
    images: Images = Images()
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""

    def task(self, dtype: str = "float32") -> "Task":
        """The task of these fields; `dtype` is that of the images that the model sees."""
        from jaxft.tasks.classification.task import ClassificationTask

        return ClassificationTask(self, dtype)
