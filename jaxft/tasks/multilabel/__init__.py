"""Labels of which an image may have none, one or several."""

from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT
from jaxft.tasks.images import Images

if TYPE_CHECKING:
    from jaxft.tasks.task import Task


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Multilabel:
    """Labels of which an image may have none, one or several."""

    kind: Annotated[Literal["multilabel"], tyro.conf.Suppress] = "multilabel"
    images: Images = Images()
    threshold: float = pydantic.Field(default=0.5, gt=0, lt=1)
    """A label with at least this probability is one that the image has: in predictions, drawings and F1."""
    positive_weight: tuple[pydantic.PositiveFloat, ...] = ()
    """How much more the loss of each label counts in images that have it, for rare labels; empty for 1."""

    def task(self, dtype: str = "float32") -> "Task":
        """The task of these fields; `dtype` is that of the images that the model sees."""
        from jaxft.tasks.multilabel.task import MultilabelTask

        return MultilabelTask(self, dtype)
