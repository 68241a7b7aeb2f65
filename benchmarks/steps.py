"""Training and evaluation steps against PyTorch (channels-last, float32), each side in its own process.

    python -m benchmarks.steps

The ratio is PyTorch's seconds divided by ours: 1.0 is as fast, 0.5 takes twice as long. The rows "head only" train the
last layer alone; there the ratio is (our forward pass + our step of the head on stored features) / our step.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from benchmarks.report import Output, Report, waiting
from benchmarks.sides import Timing, interleaved, ours, theirs


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times steps of training and evaluation."""

    models: tuple[str, ...] = ("resnet18", "resnet50", "efficientnet_lite0")
    """Names of models."""
    batch: int = 32
    """Images a step."""
    size: int = 224
    """Side of the images, pixels."""
    rounds: int = 5
    """Timed runs of each program, in turn."""
    output: Annotated[Output, tyro.conf.arg(name="")] = field(default_factory=Output)


def compare(report: Report, options: Any, model: str, size: int) -> None:
    """The lines of a model's training and evaluation beside PyTorch's."""
    case = {"model": model, "batch": options.batch, "size": size}
    for step in ("training", "evaluation"):
        reference = theirs(f"benchmarks.their_steps:{step}", options.output.torch, **case)
        report.compare(model, step, ours(f"benchmarks.our_steps:{step}", **case), reference, options.rounds)


def head_only(report: Report, options: Options, model: str) -> None:
    """The line of a step that trains the last layer alone."""
    case = {"model": model, "batch": options.batch, "size": options.size}
    functions = {"step": "training_head", "forward": "evaluation", "head": "head_alone"}
    programs = {name: ours(f"benchmarks.our_steps:{function}", **case) for name, function in functions.items()}
    outcomes = interleaved(programs, options.rounds, told=waiting)
    seconds = {name: outcome.median for name, outcome in outcomes.items() if isinstance(outcome, Timing)}
    complete = len(seconds) == len(programs)
    ratio = (seconds["forward"] + seconds["head"]) / seconds["step"] if complete else None
    report.add(model, "head only", ("", report.cell(outcomes["step"])), ratio, outcomes)


def main() -> int:
    """Prints the table; 1 where something could not be measured."""
    options = tyro.cli(Options)
    report = Report("steps", options, options.output)
    report.head(f"batch {options.batch}, {options.size} px, {options.rounds} rounds")
    for model in options.models:
        compare(report, options, model, options.size)
        head_only(report, options, model)
    report.medians()
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
