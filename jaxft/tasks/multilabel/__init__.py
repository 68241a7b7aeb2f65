"""Labels of which an image may have none, one or several."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

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

    focal_positive: float = pydantic.Field(default=0.0, ge=0)
    """Training: what a label that an image has, of probability p, contributes is multiplied by
    (1 - p) ** focal_positive. 0, focal_negative 4 and margin 0.05 are the asymmetric loss
    (https://arxiv.org/abs/2009.14119)."""
    focal_negative: float = pydantic.Field(default=0.0, ge=0)
    """Training: what a label that an image has not contributes is multiplied by p ** focal_negative."""
    margin: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Training: taken from the probability of a label that an image has not, down to 0, so that what is easy counts
    nothing."""

    def implied(self) -> dict[str, Any]:
        """What these fields say of other sections of a configuration: nothing."""
        return {}

    def task(self, dtype: str = "float32") -> "Task":
        """The task of these fields; `dtype` is that of the images that the model sees."""
        from jaxft.tasks.multilabel.task import MultilabelTask

        return MultilabelTask(self, dtype)
