"""One class an image."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    class_weights: tuple[Annotated[float, pydantic.Field(ge=0)], ...] | Literal["balanced"] = ()
    """How much each class counts in the loss, in the order of the classes, as PyTorch's CrossEntropyLoss takes it; or
    balanced, the mean number of training examples of a class over each one's own. Evaluation has none."""
    focal: float = pydantic.Field(default=0.0, ge=0)
    """The gamma of the focal loss: what a class's probability p contributes is multiplied by (1 - p) ** gamma."""
    mixup: float = pydantic.Field(default=0.0, ge=0)
    """Training: mix each image and its target with another one's, by a share from a beta distribution with this
    parameter, such as 0.2; 0 is off."""
    cutmix: float = pydantic.Field(default=0.0, ge=0)
    """Training: replace a box of each image by another one's, in the same way, such as 1.0; 0 is off."""

    def implied(self) -> dict[str, Any]:
        """What these fields say of other sections of a configuration: nothing."""
        return {}

    def task(self, dtype: str = "float32") -> "Task":
        """The task of these fields; `dtype` is that of the images that the model sees."""
        from jaxft.tasks.classification.task import ClassificationTask

        return ClassificationTask(self, dtype)
