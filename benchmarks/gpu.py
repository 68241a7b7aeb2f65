"""Training on one GPU beside PyTorch where it is installed, within some minutes.

    python -m benchmarks.gpu --json gpu.json

Steps in bfloat16 (PyTorch: channels-last, autocast, `torch.compile`; of a detector only the backbone is compiled), a
second and an image at a time, with the memory of the device and the seconds from the start of a process to the end of
its first step, nothing compiled before. The ratio is our images a second divided by PyTorch's. Then how far gradients
in float32 and in TensorFloat32 are from exact ones (float64, on the CPU). A part for which no time is left is skipped,
and the file has what was measured until then. Without a GPU it measures the CPU, which `--tiny` makes short.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

import tyro

from benchmarks.report import Output, Report, memory, waiting
from benchmarks.sides import Program, SideError, Timing, Torch, interleaved, once, ours, theirs

Part = Literal["resnet50", "gradients", "mask_rcnn", "vit_b_16"]
LEAST = 20.0  # seconds in which no part could be done


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measures training on one GPU."""

    parts: tuple[Part, ...] = ("resnet50", "gradients", "mask_rcnn", "vit_b_16")
    """What to measure, in this order."""
    minutes: float = 6
    """After which nothing goes on."""
    torch: Torch = "compile"
    """How PyTorch runs: eager, compile, or best: both."""
    tiny: bool = False
    """Small sizes, to try the script without a GPU."""
    json: Path | None = None
    """A file for all figures, written anew after each line."""


@dataclass(frozen=True)
class Case:
    """A model and what it is trained on."""

    model: str
    batch: int
    height: int
    width: int
    steps: int
    rounds: int

    def options(self) -> dict[str, Any]:
        """What a function that prepares it is given, but for the size of images."""
        return {"model": self.model, "batch": self.batch, "steps": self.steps, "precision": "bfloat16"}


CASES = {
    "resnet50": Case("resnet50", 256, 224, 224, 10, 5),
    "gradients": Case("resnet50", 16, 224, 224, 1, 1),
    "mask_rcnn": Case("maskrcnn_resnet50_fpn", 8, 800, 1344, 4, 3),
    "vit_b_16": Case("vit_b_16", 256, 224, 224, 5, 5),
}
TINY = {
    "resnet50": Case("resnet18", 2, 32, 32, 1, 1),
    "gradients": Case("resnet18", 2, 64, 64, 1, 1),
    "mask_rcnn": Case("maskrcnn_resnet50_fpn", 1, 64, 64, 1, 1),
    "vit_b_16": Case("vit_b_16", 1, 224, 224, 1, 1),
}


@dataclass
class Run:
    """One run of this script: where its lines go, when it ends, a folder of its own."""

    options: Options
    report: Report
    deadline: float
    folder: Path

    def classifier(self, case: Case) -> None:
        """The line of a classifier's training."""
        self.training(case, "steps", size=case.height)

    def detector(self, case: Case) -> None:
        """The line of a detector's training, from weights that both sides read."""
        photos = {"height": case.height, "width": case.width, "file": str(self.folder / "weights.pth")}
        once("benchmarks.their_detectors:save_weights", self.deadline, model=case.model, **photos)
        self.training(case, "detectors", **photos)

    def training(self, case: Case, module: str, **photos: Any) -> None:
        """The line of a training step, from the functions `training` of both sides' modules."""
        given = case.options() | photos
        mine = self.ours(f"benchmarks.our_{module}:training", **given)
        reference = self.theirs(f"benchmarks.their_{module}:training", self.options.torch, **given)
        outcomes = self.measure({**reference, "jaxft": mine}, case.rounds)
        if reference and all(isinstance(outcomes[name], SideError) for name in reference):
            outcomes |= self.measure(self.theirs(f"benchmarks.their_{module}:training", **given), case.rounds)
        rates = {
            name: [case.batch * case.steps / seconds for seconds in each.seconds]
            for name, each in outcomes.items()
            if isinstance(each, Timing)
        }
        others = {name: median(rate) for name, rate in rates.items() if name != "jaxft"}
        best = max(others, key=others.__getitem__, default=None)
        ratio = median(rates["jaxft"]) / others[best] if best and "jaxft" in rates else None
        shown = [name for name in (best, "jaxft") if name in rates]
        cells = [f"{cell(rates[name], outcomes[name])}{f' {name}' if name == best else ''}" for name in shown]
        self.report.add(
            case.model,
            f"batch {case.batch}",
            (cells[0] if best else "", cells[-1] if "jaxft" in rates else "failed"),
            ratio,
            outcomes,
            memory(*(outcomes[name] for name in shown)),
            images_per_second=rates,
            case=case,
        )

    def gradients(self, case: Case) -> None:
        """The lines of the gradients' errors, one for each arithmetic of float32."""
        given = {"model": case.model, "folder": str(self.folder)}
        reference = self.theirs("benchmarks.their_gradients:gradients", batch=case.batch, size=case.height, **given)
        if not reference:
            raise SideError("PyTorch is not installed, which computes the exact gradients.")
        outcomes = self.measure(reference, 1)
        outcomes |= self.measure({"jaxft": self.ours("benchmarks.our_gradients:gradients", **given)}, 1)
        for precision in ("float32", "tensorfloat32"):
            found = {name: each.values[0][precision] for name, each in outcomes.items() if isinstance(each, Timing)}
            cells = [f"{one['all']:.1e}, worst {one['worst']:.1e}" for one in found.values()]
            shown = (cells[0], cells[1]) if len(cells) == len(outcomes) else ("failed", "failed")
            self.report.add(f"gradients, {case.model}", precision, shown, None, outcomes, errors=found, case=case)

    def ours(self, function: str, /, **given: Any) -> Program:
        """Our program, which shares the device and finds nothing compiled."""
        program = ours(function, **given)
        changes = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_COMPILATION_CACHE": "false"}
        return replace(program, environment={**program.environment, **changes})

    def theirs(self, function: str, torch: Torch = "eager", /, **given: Any) -> dict[str, Program]:
        """PyTorch's programs, which find nothing compiled; none where it is not installed."""
        if find_spec("torch") is None:
            return {}
        empty = tempfile.mkdtemp(dir=self.folder)
        changes = {"TORCHINDUCTOR_CACHE_DIR": empty, "TRITON_CACHE_DIR": empty}
        programs = theirs(function, torch, **given)
        return {name: replace(each, environment={**each.environment, **changes}) for name, each in programs.items()}

    def measure(self, programs: Mapping[str, Program], rounds: int) -> dict[str, Timing | SideError]:
        """Runs programs in turn, until the time is over."""
        return interleaved(programs, rounds, deadline=self.deadline, told=waiting)


def cell(rates: list[float], outcome: Any) -> str:
    """Images a second, and seconds to the first step."""
    middle, low, high = (
        f"{rate:.0f}" if rate >= 100 else f"{rate:.2f}" for rate in (median(rates), min(rates), max(rates))
    )
    return f"{middle} ({low} to {high}), {outcome.ready:.0f} s"


def main() -> int:
    """Prints the table; 1 where something could not be measured."""
    options = tyro.cli(Options)
    deadline = time.monotonic() + options.minutes * 60 - 5  # in which processes end
    report = Report("gpu", options, Output(torch=options.torch, json=options.json), unit="images a second, first step")
    report.head("training in bfloat16")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run = Run(options, report, deadline, Path(folder))
        parts = {"resnet50": run.classifier, "vit_b_16": run.classifier}
        parts |= {"mask_rcnn": run.detector, "gradients": run.gradients}
        for part in options.parts:
            if deadline - time.monotonic() < LEAST:
                report.skip(part, "no time is left")
                continue
            try:
                parts[part]((TINY if options.tiny else CASES)[part])
            except SideError as error:
                report.skip(part, str(error))
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
