"""How well probabilities say how often they are right, and one temperature that makes it better; on the host, float64.

Temperature scaling is that of Guo et al. 2017 (https://arxiv.org/abs/1706.04599), section 4.2: logits are divided by
one number, chosen by the likelihood of examples that were not trained on. No prediction changes, only how sure it is.
"""

import json
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pydantic
from pydantic.dataclasses import dataclass

from jaxft.errors import UserError
from jaxft.fields import STRICT
from jaxft.places import write_whole
from jaxft.reporting.reliability import Bins, reliability
from jaxft.run import RunDirectory
from jaxft.tasks.image_views import log_sigmoid, log_softmax
from jaxft.tasks.views import Link

LOWEST, HIGHEST = 1e-3, 1e3  # between which a temperature is looked for


class Scores(NamedTuple):
    """Figures of probabilities; of all the smaller is the better.

    Attributes:
        nll: the mean negative log-likelihood of an example (softmax) or of a label of one (sigmoid).
        ece: the expected calibration error, 0..1.
        brier: the mean of the squared differences to what is true: summed over the classes, 0..2 (softmax), or of each
            label, 0..1 (sigmoid).
    """

    nll: float
    ece: float
    brier: float


def bins(logits: np.ndarray, labels: np.ndarray, link: Link, temperature: float = 1.0) -> Bins:
    """Of softmax the probability of the most probable class, and whether it is the true one; of sigmoid that of every
    label of every example, and whether the example has it.

    Args:
        logits: `[N, C]`.
        labels: int `[N]` of softmax, 0 or 1 `[N, C]` of sigmoid.
    """
    if link == "sigmoid":
        return reliability(np.exp(log_sigmoid(logits / temperature)).ravel(), labels.ravel() > 0)
    probabilities = np.exp(log_softmax(logits / temperature))
    return reliability(probabilities.max(-1), probabilities.argmax(-1) == labels)


def scores(logits: np.ndarray, labels: np.ndarray, link: Link, temperature: float = 1.0) -> Scores:
    """The figures of logits that are divided by a temperature; arguments as of `bins`."""
    error = bins(logits, labels, link, temperature).error
    logits = np.asarray(logits, np.float64) / temperature
    if link == "sigmoid":
        has, has_not = log_sigmoid(logits), log_sigmoid(-logits)
        nll = -np.where(labels > 0, has, has_not).mean()
        return Scores(float(nll), error, float(np.square(np.exp(has) - labels).mean()))
    logs = log_softmax(logits)
    wrong = np.square(np.exp(logs) - (np.arange(logits.shape[1]) == labels[:, None])).sum(-1)
    return Scores(float(-logs[np.arange(len(labels)), labels].mean()), error, float(wrong.mean()))


def fitted(logits: np.ndarray, labels: np.ndarray, link: Link) -> float:
    """The temperature at which the negative log-likelihood is lowest; arguments as of `bins`.

    It is convex in the inverse of the temperature, whose derivative is therefore bisected.

    Raises:
        UserError: examples lack their ground truth, or the likelihood has no highest place.
    """
    check_labels(labels, link, logits.shape[1])
    logits = np.asarray(logits, np.float64)
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)  # of the inverse
    if _slope(logits, labels, link, 1 / LOWEST) <= 0:
        raise UserError(
            f"The model is right on all {len(logits)} examples, or nearly so, and the surer the better: no temperature "
            "is the best. Take more examples, or others than it was trained on."
        )
    if _slope(logits, labels, link, 1 / HIGHEST) >= 0:
        raise UserError(
            f"The less sure the model is on these {len(logits)} examples, the better: no temperature is the best. Has "
            "it learned anything? Are the classes in the right order?"
        )
    for _ in range(60):  # down to 1e-17 of the range
        middle = (low + high) / 2
        below = _slope(logits, labels, link, float(np.exp(middle))) < 0
        low, high = (middle, high) if below else (low, middle)
        if high - low < 1e-12:
            break
    return float(np.exp(-(low + high) / 2))


def _slope(logits: np.ndarray, labels: np.ndarray, link: Link, inverse: float) -> float:
    """The derivative of the mean negative log-likelihood by the inverse of the temperature."""
    if link == "sigmoid":
        return float(((np.exp(log_sigmoid(logits * inverse)) - labels) * logits).mean())
    expected = (np.exp(log_softmax(logits * inverse)) * logits).sum(-1)
    return float((expected - logits[np.arange(len(labels)), labels]).mean())


def check_labels(labels: np.ndarray, link: Link, classes: int) -> None:
    """Raises a UserError where examples lack their ground truth: a class of -1, or a label that is no number."""
    known = np.isfinite(labels).all(-1) if link == "sigmoid" else (labels >= 0) & (labels < classes)
    if not known.all():
        raise UserError(
            f"{(~known).sum()} of {len(labels)} examples have no ground truth, without which nothing can be "
            "calibrated; name a split with labels by --split."
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Calibration:
    """A temperature, what it was chosen on, and the model that it is of."""

    temperature: float = pydantic.Field(gt=0)
    """What logits are divided by."""
    link: Link
    """What makes probabilities of them."""
    checkpoint: str
    """The checkpoint of the run: best, last or kept."""
    step: int
    """Its step."""
    weights: str
    """A word that changes with the model's arrays."""
    split: str | None
    """The examples that it was chosen on are of this split."""
    examples: int
    """So many were they."""


def weights_word(arrays: Mapping[str, np.ndarray]) -> str:
    """A word that changes with the arrays of a model, by path."""
    found = 0
    for path in sorted(arrays):
        found = zlib.crc32(np.ascontiguousarray(arrays[path]).tobytes(), zlib.crc32(path.encode(), found))
    return f"{found:08x}"


def write_calibration(directory: RunDirectory, calibration: Calibration) -> None:
    """Writes `calibration.json` into a run directory, in the place of one that is there.

    Raises:
        UserError: it cannot be written.
    """
    text = json.dumps(pydantic.TypeAdapter(Calibration).dump_python(calibration), indent=2) + "\n"
    try:
        write_whole(directory.calibration_file, text.encode())
    except OSError as error:
        raise UserError(f"{directory.calibration_file} cannot be written ({error}).") from error


def read_calibration(directory: RunDirectory) -> Calibration | None:
    """The calibration of a run; None where it has none.

    Raises:
        UserError: the file is damaged.
    """
    if not directory.calibration_file.exists():
        return None
    try:
        return pydantic.TypeAdapter(Calibration).validate_json(directory.calibration_file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{directory.calibration_file} cannot be read; write it anew with jaxft calibrate.") from error


def temperature_of(directory: RunDirectory, arrays: Mapping[str, np.ndarray]) -> float:
    """The temperature that a run was calibrated to, for a model of these arrays.

    Raises:
        UserError: there is none, or it is another model's.
    """
    found = read_calibration(directory)
    if found is None:
        raise UserError(
            f"{directory.path} was not calibrated; do so with `python -m jaxft.calibrate --run {directory.path}`."
        )
    if found.weights != weights_word(arrays):
        raise UserError(
            f"{directory.calibration_file} is of the {found.checkpoint} checkpoint of step {found.step}, and the model "
            "is another one; name that by --checkpoint, or calibrate this one."
        )
    return found.temperature
