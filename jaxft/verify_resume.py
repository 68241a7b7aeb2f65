"""The proof that a run that is stopped goes on as the same run: `python -m jaxft.verify_resume --config FILE`."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from rich.table import Table

from jaxft.activity import doing
from jaxft.cli import run_command, start, with_config
from jaxft.config import Config, from_json, replace, to_json
from jaxft.errors import UserError
from jaxft.reporting.console import make_console

EXACT, CLOSE = 0.0, 1e-5  # relative differences that are allowed on the same devices, and on others


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains some steps in one process, and once more in two, of which the second resumes, and compares everything
    that a checkpoint holds and every step's metrics. The exit code is 1 where something differs."""

    config: str
    """The configuration, as of `jaxft train`."""
    steps: int = 6
    """Steps of the whole run."""
    stop_after: int = 3
    """Steps of its first part."""
    devices: tuple[int, ...] = ()
    """Numbers of devices that the run is resumed on, too; they compute the same but for the order of sums."""
    json: bool = False
    """Print one JSON object on standard output, and all else on standard error."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


class Difference(NamedTuple):
    """Two runs in a group of arrays: how many, the largest difference relative to the largest magnitude of its array,
    where that is, and how much may be."""

    what: str
    arrays: int
    largest: float
    where: str
    allowed: float


def main() -> int:
    """The command."""
    options = with_config(Options, sys.argv[1:], "verify-resume")
    if not 1 <= options.stop_after < options.steps:
        raise UserError(
            f"--stop-after is {options.stop_after} and --steps {options.steps}; stop between the first and the last."
        )
    from jaxft.reporting.screen import Screen

    console = make_console(stderr=options.json)
    with tempfile.TemporaryDirectory(prefix="jaxft-verify-resume-") as name, Screen(console), doing("verifying"):
        proof = Proof(options, Path(name))
        with doing(f"training {options.steps} steps in one process"):
            proof.train("whole", options.steps)
        found = {said(count): proof.resumed(count) for count in (None, *options.devices)}
    wrong = {name: [row.what for row in rows if not row.largest <= row.allowed] for name, rows in found.items()}
    if options.json:
        written = {name: [row._asdict() for row in rows] for name, rows in found.items()}
        print(json.dumps({"resumed on": written, "different": wrong}, indent=2))
        return int(any(wrong.values()))
    for name, rows in found.items():
        console.print(table(f"{options.stop_after} steps, then resumed on {name}", rows))
    differ = [f"{', '.join(names)} on {name}" for name, names in wrong.items() if names]
    console.print(f"DIFFERENT: {'; '.join(differ)}." if differ else "It is the same run.", highlight=False)
    return int(bool(differ))


def said(devices: int | None) -> str:
    """How a number of devices is called; None is that of the whole run."""
    return "the same devices" if devices is None else f"{devices} device(s)"


@dataclass(frozen=True)
class Proof:
    """Runs in a folder, each part in a process of its own."""

    options: Options
    folder: Path

    def resumed(self, devices: int | None) -> list[Difference]:
        """The run in two parts, the second on so many devices, beside the whole one."""
        name, options = f"parts-{devices}", self.options
        with doing(f"training {options.stop_after} steps in another process"):
            self.train(name, options.stop_after)
        with doing(f"resuming on {said(devices)}, to step {options.steps}"):
            self.train(name, options.steps, devices)
        with doing("comparing"):
            return list(compared(self.folder / name, self.folder / "whole", EXACT if devices is None else CLOSE))

    def train(self, name: str, steps: int, devices: int | None = None) -> None:
        """Trains to a step, from the last checkpoint where there is one.

        Raises:
            UserError: the run says what is wrong.
        """
        file = self.folder / "config.json"
        file.write_text(to_json(replace(self.options.settings, {"log_every": 1})))
        environment = dict(os.environ)
        if devices is not None:
            visible = ",".join(map(str, range(devices)))
            environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "CUDA_VISIBLE_DEVICES": visible}
        program = "import sys; from jaxft.verify_resume import part; part(*sys.argv[1:])"
        command = [sys.executable, "-c", program, str(file), str(self.folder / name), str(steps), str(devices or 0)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise UserError(ended.stderr.strip().rpartition("error: ")[2])


def part(file: str, run: str, steps: str, devices: str) -> None:
    """What each process does: trains a configuration to a step, on so many devices; 0 for all."""

    def main() -> int:
        start()
        import jax

        if int(devices) not in (0, jax.device_count()):
            raise UserError(
                f"There are {jax.device_count()} devices, and no way to have {devices} of them; leave --devices out."
            )
        from jaxft.training.loop import fit

        fitted = fit(from_json(Path(file).read_text(), Path(file)), run, resume=True, stop_after=int(steps))
        if fitted.step != int(steps):
            raise UserError(f"The run ends after step {fitted.step}, before step {steps}; lower --steps.")
        return 0

    run_command(main)


def compared(one: Path, other: Path, allowed: float) -> Iterator[Difference]:
    """Two runs' last checkpoints, best figures and metrics, group by group."""
    from jaxft.training.orbax_items import arrays_in

    kept = [(run / "checkpoints" / "last").glob("[0-9]*") for run in (one, other)]
    folders = [max(folders, key=lambda folder: int(folder.name)) for folders in kept]
    steps = [{"": np.array(int(folder.name))} for folder in folders]
    yield _difference("number of steps", steps, 0)
    items = {"parameters and statistics": "model", "optimizer state": "optimizer", "moving average": "ema"}
    for what, item in items.items():
        if any((folder / item).is_dir() for folder in folders):
            yield _difference(what, [arrays_in(folder / item) for folder in folders], allowed)
    for split, what in (("train", "metrics of each step: data, augmentation, dropout"), ("validation", "evaluations")):
        lines = [_metrics(run, split) for run in (one, other)]
        if any(lines):
            yield _difference(what, lines, allowed)


def _metrics(run: Path, split: str) -> dict[str, np.ndarray]:
    from jaxft.reporting.progress import TIMES

    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    left_out = ("step", "epoch", "compilations", *TIMES)
    return {
        f"{name} of step {line['step']}": np.array(value, np.float64)
        for line in lines
        if line["split"] == split
        for name, value in line.items()
        if name not in left_out and not isinstance(value, str)
    }


def _difference(what: str, both: Sequence[Mapping[str, np.ndarray]], allowed: float) -> Difference:
    one, other = both
    if missing := sorted(one.keys() ^ other.keys()):
        return Difference(what, len(one.keys() | other.keys()), math.inf, f"{missing[0]} is in one alone", allowed)
    apart = {name: _apart(one[name], other[name]) for name in one}
    where = max(apart, key=apart.__getitem__)
    return Difference(what, len(one), apart[where], where if apart[where] else "", allowed)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference relative to the largest magnitude; infinite where the shapes differ."""
    if one.shape != other.shape:
        return math.inf
    if np.array_equal(one, other, equal_nan=True):
        return 0.0
    scale = max(float(np.abs(other).max(initial=0)), np.finfo(np.float32).tiny)
    difference = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max() / scale)
    return difference if math.isfinite(difference) else math.inf


def table(title: str, rows: Sequence[Difference]) -> Table:
    """A row a group."""
    shown = Table("what", "arrays", "largest difference", "allowed", "where", title=title)
    for row in rows:
        shown.add_row(
            row.what, str(row.arrays), f"{row.largest:.1e}" if row.largest else "0", f"{row.allowed:g}", row.where
        )
    return shown


if __name__ == "__main__":
    run_command(main)
