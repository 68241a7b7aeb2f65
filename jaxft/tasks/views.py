"""Examples looked at more than once, and logits divided by a temperature: what is asked for, and what a task makes of
it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxft.data.dataset import Dataset
from jaxft.errors import UserError
from jaxft.tasks.task import Prediction

Word = Literal["flip", "five", "ten"]
"""A way of test-time augmentation, as a person asks for it."""
Link = Literal["softmax", "sigmoid"]
"""What makes probabilities of logits: one class of several, or each label for itself."""


@dataclass(frozen=True, kw_only=True)
class Viewing:
    """How predictions are made beyond one look at each example; by default in no other way.

    Attributes:
        flip: also look at each view mirrored.
        crops: torchvision's FiveCrop or TenCrop in the place of the center crop.
        scales: factors of the size that a photo is resized to; every other view comes at each.
        iou_threshold: of detectors: boxes of all views that overlap more are one object; 0.5 where it is None.
        temperature: what logits are divided by.
    """

    flip: bool = False
    crops: Literal["center", "five", "ten"] = "center"
    scales: tuple[float, ...] = (1.0,)
    iou_threshold: float | None = None
    temperature: float = 1.0

    @property
    def several(self) -> bool:
        """Whether the views are others than the usual one."""
        return self.flip or self.crops != "center" or self.scales != (1.0,)


class Viewed(NamedTuple):
    """Views of a dataset.

    Attributes:
        datasets: of the same examples in the same order, a view each.
        merge: makes one prediction of the predictions of an example, a view each; its first argument is the example's
            position.
    """

    datasets: Sequence[Dataset]
    merge: Callable[[int, Sequence[Prediction]], Prediction]


def viewing(
    words: Sequence[str], scales: Sequence[float], iou_threshold: float | None, temperature: float = 1.0
) -> Viewing:
    """What a person asks for, by words and numbers.

    Raises:
        UserError: a word is unknown or two contradict each other, or a number is out of range.
    """
    known = ("flip", "five", "ten")
    if odd := [word for word in words if word not in known]:
        raise UserError(f"There is no test-time augmentation {odd[0]!r}; choose some of {', '.join(known)}, or scales.")
    if "ten" in words and len(set(words)) > 1:
        raise UserError("The ten crops are five and the same five mirrored; leave flip and five out.")
    if any(not 0 < scale < float("inf") for scale in scales) or len(set(scales)) < len(scales):
        raise UserError(f"The scales are {', '.join(f'{scale:g}' for scale in scales)}; each is above 0, none twice.")
    if iou_threshold is not None and not 0 < iou_threshold <= 1:
        raise UserError(f"--tta-iou is {iou_threshold:g}; it is above 0 and at most 1.")
    found = Viewing(
        flip="flip" in words,
        crops="five" if "five" in words else "ten" if "ten" in words else "center",
        scales=tuple(map(float, scales)) or (1.0,),
        iou_threshold=iou_threshold,
        temperature=temperature,
    )
    if iou_threshold is not None and not found.several:
        raise UserError("--tta-iou merges the boxes of several views; add --tta flip or --tta-scales, or leave it out.")
    return found
