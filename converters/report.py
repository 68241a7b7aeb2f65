"""What a comparison with PyTorch found, and how its figures are measured.

Every figure is the largest absolute difference divided by the largest magnitude of PyTorch's tensor; where gradients
are compared, by at least a hundredth of the largest gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

STEPS = 3  # of the optimizer


@dataclass(frozen=True)
class Report:
    """What `verify` found: the largest relative differences, and the worst tensor where there are many."""

    model: str
    parameters: int
    stages: dict[str, float]
    logits: float
    loss: float
    gradients: tuple[float, str]
    statistics: tuple[float, str]
    steps: tuple[float, str]
    round_trip: bool
    seconds: float

    def table(self) -> Table:
        """A row a stage of the evaluation, then the training figures."""
        title = f"{self.model}: {self.parameters:,} parameters, {self.seconds:.1f} s"
        table = Table("what", "largest relative difference", "worst tensor", title=title)
        for name, difference in self.stages.items():
            table.add_row(f"evaluation: {name}", f"{difference:.1e}", "")
        table.add_row("evaluation: logits", f"{self.logits:.1e}", "")
        table.add_row("training: loss", f"{self.loss:.1e}", "")
        for name, (difference, worst) in (
            ("training: every gradient", self.gradients),
            ("training: BatchNorm statistics after a step", self.statistics),
            (f"training: parameters after {STEPS} SGD steps, two rates", self.steps),
        ):
            table.add_row(name, f"{difference:.1e}", worst)
        table.add_row(
            "export equals what was loaded, bit for bit, and loads with strict=True", str(self.round_trip), ""
        )
        return table


def worst(ours: Mapping[str, np.ndarray], theirs: Mapping[str, Any], share: float) -> tuple[float, str]:
    """The largest difference over tensors given by the same names, and the name of it.

    A tensor whose magnitude is less than this share of the largest is measured by that: the gradient of a bias before a
    BatchNorm, for example, is zero but for rounding, and has no magnitude of its own.
    """
    if ours.keys() != theirs.keys():
        raise AssertionError(f"tensors of one side only: {sorted(ours.keys() ^ theirs.keys())}")
    arrays = {key: tensor.detach().numpy() for key, tensor in theirs.items()}
    floor = share * max((np.abs(array).max() for array in arrays.values()), default=0.0)
    return max(((difference(ours[key], array, floor), key) for key, array in arrays.items()), default=(0.0, ""))


def difference(ours: Any, theirs: np.ndarray, floor: float = 0.0) -> float:
    """max |ours - theirs| / max(max |theirs|, floor); infinite where shapes differ or a number is not finite."""
    ours = np.asarray(ours)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), floor, np.finfo(np.float64).tiny))
