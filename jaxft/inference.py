"""Predictions of several views as one, and calibrated ones: what a person asks for beyond a look at each example, and
what stands between a `Predictor` and whoever takes its predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxft.calibration import temperature_of
from jaxft.data.dataset import Dataset
from jaxft.data.views import Together
from jaxft.run import RunDirectory
from jaxft.tasks.task import Prediction, Task
from jaxft.tasks.views import Viewing, Word, viewing

if TYPE_CHECKING:
    from flax import nnx

    from jaxft.training.evaluation import Arrays, Predicting


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a model is asked, beside the usual way."""

    tta: tuple[Word, ...] = ()
    """Test-time augmentation, whose views are merged: flip (each view mirrored, too), five (crops: the corners and the
    center), ten (the same mirrored, too). Of detectors flip alone."""
    tta_scales: tuple[float, ...] = ()
    """Test-time augmentation: look at every view at each of these factors of its size, such as 1 1.15."""
    tta_iou: float | None = None
    """Detectors: boxes of one class from several views that overlap more than this are one object; 0.5 by default."""
    calibrated: bool = False
    """Divide the logits by the temperature that `jaxft calibrate` has found."""

    def viewing(self, temperature: float = 1.0) -> Viewing:
        """The same for a task.

        Raises:
            UserError: it does not make sense.
        """
        return viewing(self.tta, self.tta_scales, self.tta_iou, temperature)

    def of_run(self, directory: RunDirectory, model: "nnx.Module") -> Viewing:
        """The same with the temperature of a run's model, where it is asked for.

        Raises:
            UserError: the run was not calibrated, or with another model.
        """
        return self.viewing(temperature_of(directory, host_arrays(model)) if self.calibrated else 1.0)


NOTHING_ASKED = Asked()


def asked(tta: str | Sequence[str], scales: Sequence[float], iou: float | None, *, calibrated: bool) -> Asked:
    """The same from Python's arguments."""
    words = (tta,) if isinstance(tta, str) else tuple(tta)
    return Asked(tta=words, tta_scales=tuple(scales), tta_iou=iou, calibrated=calibrated)  # type: ignore[arg-type]


def host_arrays(model: "nnx.Module") -> dict[str, np.ndarray]:
    """A model's arrays by path."""
    from jaxft.models.paths import values

    return {path: np.asarray(array) for path, array in values(model).items()}


def through_views(predictor: "Predicting", task: Task, dataset: Dataset, viewing: Viewing) -> "Predicting":
    """What predicts a dataset as `predictor` does, but looks at each example in the ways that are asked for.

    Views of one shape go through one program. Predictions of an example wait on the host for its last view.

    Raises:
        UserError: the task does not take these views, or no temperature.
    """
    if viewing == Viewing():
        return predictor
    views, merge = task.viewed(dataset, viewing)
    together = Together(tuple(views))

    def predict(arrays: "Arrays", of: Dataset) -> Iterator[tuple[int, Prediction]]:
        assert of is dataset
        waiting: dict[int, dict[int, Prediction]] = {}
        for place, prediction in predictor(arrays, together):
            example, view = divmod(place, len(views))
            seen = waiting.setdefault(example, {})
            seen[view] = prediction
            if len(seen) == len(views):
                del waiting[example]
                yield example, merge(example, [seen[view] for view in range(len(views))])

    return predict
