"""A learning rate to begin with: `python -m jaxft.lr_find --config FILE`, Smith's range test (arXiv:1506.01186).

One short training whose rate grows from step to step by a constant factor, from the run's first weights. The groups of
parameters keep their rates relative to each other. Nothing is saved but the curve.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro
from rich.table import Table

from jaxft.activity import doing
from jaxft.checks import check_places
from jaxft.cli import run_command, start, with_config
from jaxft.config import Config
from jaxft.errors import UserError
from jaxft.reporting.console import make_console

if TYPE_CHECKING:
    from jaxft.training.setup import Setup
    from jaxft.training.stages import Stage

SMOOTHING = 0.95  # the share of the curve so far in its next point, once it has many
DIVERGED = 4.0  # times the lowest loss so far: there the test ends


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains some steps at rates that grow from the lowest to the highest, and prints the loss at each and a rate to
    begin with. Any field of the configuration can be given on the command line."""

    config: str
    """The configuration, as of `jaxft train`."""
    steps: int = 100
    """How many steps, one at each rate."""
    lowest: float = 1e-6
    """The learning rate of the first step."""
    highest: float = 1.0
    """That of the last step, unless the loss grows too much before."""
    picture: Path | None = None
    """A file for the curve, such as lr.png."""
    json: bool = False
    """Print one JSON object on standard output, and all else on standard error."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


class Point(NamedTuple):
    """A step of the test: its rate, its loss, and the smoothed loss."""

    rate: float
    loss: float
    smooth: float


def main() -> None:
    """The command."""
    options = with_config(Options, sys.argv[1:], "lr-find")
    if not 0 < options.lowest < options.highest or options.steps < 10:
        raise UserError(
            f"--lowest is {options.lowest:g}, --highest {options.highest:g} and --steps {options.steps}; the rate "
            "grows from the one above 0 to the other, in at least 10 steps."
        )
    check_places(options.settings, None)
    start()
    import jax

    from jaxft.reporting.screen import Screen
    from jaxft.training.batch import resolved
    from jaxft.training.setup import set_up

    config, _ = resolved(options.settings, jax.device_count())
    batch = config.data.batch_size
    console = make_console(stderr=options.json)
    with Screen(console) as screen, doing("finding a rate"):
        setup = set_up(config).with_teacher()
        ledger = setup.load_weights()
        for dataset in setup.datasets[:1]:
            dataset.check()
            screen.say(dataset.report(batch))
        stage = setup.stages[0]
        points = tested(setup, stage, setup.first_state(stage, ledger), rates(options))
    found = suggested(points)
    if found is not None:  # in the configuration's own unit, which auto_scale_lr multiplies
        found *= options.settings.optimizer.learning_rate / config.optimizer.learning_rate
    if options.picture is not None:
        draw(points, found, options.picture)
    if options.json:
        print(json.dumps({"points": [point._asdict() for point in points], "suggested": found, "batch_size": batch}))
        return
    console.print(table(points))
    console.print(
        "The loss falls nowhere; look at the data, or lower --lowest."
        if found is None
        else f"The loss falls fastest at --optimizer.learning-rate {found:.2g}, for {batch} examples a step.",
        highlight=False,
    )


def rates(options: Options) -> list[float]:
    """The rate of each step, growing by a constant factor."""
    growth = math.log(options.highest / options.lowest) / (options.steps - 1)
    return [options.lowest * math.exp(growth * step) for step in range(options.steps)]


def tested(setup: "Setup", stage: "Stage", state: object, wanted: Sequence[float]) -> list[Point]:
    """Trains a step at each rate, until the loss is not finite or has grown too much."""
    from jaxft.training.step import Compiled

    config, points, average = setup.config, list[Point](), 0.0
    step = Compiled(
        setup.training_step(stage), updates_state=True, budget=setup.shapes, compiling=lambda _: doing("compiling")
    )
    first = setup.inputs(stage, stage.first)
    with setup.batches() as batches, doing("trying rates, steps") as counted:
        for number, rate in enumerate(wanted, 1):
            scale = rate / config.optimizer.learning_rate
            groups = {label: scale * share for label, share in relative(stage).items()}
            inputs = replace(first, numbers=first.numbers | {"learning_rate": groups})
            state, metrics = step(state, setup.layout.batch(next(batches)), inputs)
            loss = float(metrics["loss"])
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smooth = average / (1 - SMOOTHING**number)
            counted(number, len(wanted))
            if not math.isfinite(loss):
                break
            points.append(Point(rate, loss, smooth))
            if smooth > DIVERGED * min(point.smooth for point in points):
                break
    return points


def relative(stage: "Stage") -> dict[str, float]:
    """The highest rate that each group has in a phase: what a schedule makes of it moves on, and has no part here."""
    return {label: float(values.max()) for label, values in stage.learning_rates.items()}


def suggested(points: Sequence[Point]) -> float | None:
    """The rate at which the smoothed loss falls fastest per factor of the rate; None where it does not fall.

    Between points the slope is that of a line through both over the logarithm of the rate; the first tenth of them,
    whose average is of few losses yet, does not count.
    """
    later = points[len(points) // 10 :]
    slopes = [
        ((other.smooth - one.smooth) / math.log(other.rate / one.rate), math.sqrt(one.rate * other.rate))
        for one, other in pairwise(later)
    ]
    steepest = min(slopes, default=(0.0, 0.0))
    return steepest[1] if steepest[0] < 0 else None


def table(points: Sequence[Point], rows: int = 12) -> Table:
    """Some of the points, evenly spaced."""
    shown = Table("rate", "loss", "smoothed")
    for place in dict.fromkeys(round(row * (len(points) - 1) / max(rows - 1, 1)) for row in range(rows)):
        if points:
            point = points[place]
            shown.add_row(f"{point.rate:.2e}", f"{point.loss:.4f}", f"{point.smooth:.4f}")
    return shown


def draw(points: Sequence[Point], found: float | None, picture: Path) -> None:
    """Draws the curve as a PNG, and where the suggested rate is.

    Raises:
        UserError: the file cannot be written.
    """
    from jaxft.reporting.pictures import rate_curve

    try:
        rate_curve([(point.rate, point.loss, point.smooth) for point in points], found, picture)
    except OSError as error:
        raise UserError(f"{picture} cannot be written ({error}); choose another --picture.") from error


if __name__ == "__main__":
    run_command(main)
