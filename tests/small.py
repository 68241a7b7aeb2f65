"""A small network, small photos, and ways to run a command: what the tests of the commands share.

`python -m tests.small ARGUMENTS` is `python -m jaxft.train`, or another COMMAND, that also knows the small network, and
with `fsdp` cuts arrays of SMALLEST numbers and more.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from flax import nnx
from jax import Array
from PIL import Image

from jaxft import train
from jaxft.cli import run_command
from jaxft.models import BUILDERS
from jaxft.models.layers import BatchNorm, Conv, DropPath, Linear
from jaxft.models.layers.pooling import global_average_pool
from jaxft.training import layout
from jaxft.training.orbax_items import arrays_in

ROOT = Path(__file__).parent.parent
CLASSES = ("blue", "green", "red")
TRAIN_EACH, TEST_EACH = (8, 8, 8), (4, 3, 3)


class Small(nnx.Module):
    """Two convolutions with everything that a step must treat apart: statistics, drop-path, dropout, a head."""

    def __init__(self, num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(3, 8, 3, stride=2, padding=1, bias=False, rngs=rngs)
        self.bn1 = BatchNorm(8)
        self.conv2 = Conv(8, 8, 3, padding=1, rngs=rngs)
        self.bn2 = BatchNorm(8)
        self.drop_path1 = DropPath(dropout, rngs=rngs)
        self.drop_path2 = DropPath(dropout, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(8, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = self.drop_path1(x) + self.drop_path2(self.bn2(self.conv2(x)))
        return self.fc(self.dropout(global_average_pool(x)))


BUILDERS["small"] = Small  # type: ignore[assignment]

CONFIG = """
from jaxft.config import Classification, Config, Data, Images, Model, Optimizer, Phase, Rule, Schedule

config = Config(
    model=Model(name={model!r}),
    data=Data(root={root!r}, batch_size=8),
    task=Classification(images=Images(crop=32, resize=36, scale=(0.5, 1.0))),
    optimizer=Optimizer(learning_rate=0.05, momentum=0.9, weight_decay=1e-4),
    phases=({phases}),
    log_every=2,
    report="none",
    pictures=False,
)
"""
ONE_PHASE = "Phase(epochs=2, schedule=Schedule(decay='cosine', unit='step', warmup=2)),"
HEAD_ALONE = "Phase(epochs=2, rules=(Rule(pattern='fc'), Rule(pattern='*', frozen=True))),"
TWO_PHASES = (
    "Phase(epochs=1, rules=(Rule(pattern='fc'), Rule(pattern='*', frozen=True))), "
    "Phase(epochs=2, lr_scale=0.1, rules=(Rule(pattern='fc'), Rule(pattern='*', lr_scale=0.1))),"
)


def write_config(path: Path, photos: Path, *, model: str = "small", phases: str = ONE_PHASE) -> Path:
    """A configuration file for the small folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CONFIG.format(model=model, root=str(photos), phases=phases))
    return path


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def call(main: Callable[[], int | None], *arguments: object) -> Result:
    """A command in this process, as its `python -m` line would run it."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["command", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch("jaxft.cli.leave", sys.exit),  # which does not end the tests, too, where something compiles
        mock.patch.dict(os.environ, {"COLUMNS": "250"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        run_command(main)
    code = ended.value.code
    assert isinstance(code, int)
    return Result(code, out.getvalue(), err.getvalue())


def interrupted(config: Path, run: Path, at: int, *arguments: object) -> None:
    """A run whose process dies in step `at`, before anything of that step is written."""

    class Killed(BaseException):
        pass

    def advance(reporter: object, step: int, *_: object) -> None:
        if step == at:
            raise Killed

    with mock.patch("jaxft.reporting.progress.Reporter.advance", advance), pytest.raises(Killed):
        call(train.main, "--config", config, "--workdir", run, *arguments)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command that a test starts."""
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "250", "PYTHONWARNINGS": "default"} | changes


def start(module: str, *arguments: object, folder: Path = ROOT, **changes: str) -> "subprocess.Popen[str]":
    """`python -m MODULE ARGUMENTS` in a folder, going on in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=folder,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def execute(module: str, *arguments: object, **changes: str) -> Result:
    """`python -m MODULE ARGUMENTS`, to its end."""
    with start(module, *arguments, **changes) as process:
        out, err = process.communicate(timeout=600)
        return Result(process.returncode, out, err)


def user_error(result: Result, code: int = 2) -> str:
    """The message of a command that must have ended with a code, one `error:` on stderr, and no traceback."""
    assert result.code == code, result
    assert "Traceback" not in result.out + result.err
    assert result.err.count("error: ") == 1, result.err
    return result.err.partition("error: ")[2]


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def final(run: Path, which: str = "last") -> tuple[int, dict[str, np.ndarray]]:
    """The step of a checkpoint of a run, and every array in it, the optimizer's state included."""
    folder = run / "checkpoints" / which
    (step,) = (int(path.name) for path in folder.iterdir() if path.name.isdigit())
    arrays: dict[str, np.ndarray] = {}
    for item in ("model", "ema", "optimizer"):
        if (folder / str(step) / item).is_dir():
            for name, leaf in arrays_in(folder / str(step) / item).items():
                arrays[name[2:-2] if item == "model" else f"{item}{name}"] = leaf
    return step, arrays


def assert_equal_runs(one: Path, other: Path) -> None:
    """Two runs ended at the same step with the same model, bit for bit."""
    (step, arrays), (other_step, others) = final(one), final(other)
    assert step == other_step
    assert arrays.keys() == others.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, others[path], err_msg=path)


def paint(folder: Path, count: int, label: int, seed: int) -> None:
    """Photos of one class: its channel is bright, the rest is noise. PNG and JPEG in turn, two shapes."""
    rng = np.random.default_rng([seed, label])
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 140, (40, 44 if number % 2 else 36, 3))
        pixels[..., 2 - label] += 80
        suffix = "png" if number % 2 else "jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.{suffix}")


if __name__ == "__main__":
    layout.SMALLEST = int(os.environ.get("SMALLEST", layout.SMALLEST))
    command = importlib.import_module(f"jaxft.{os.environ.get('COMMAND', 'train')}")
    run_command(command.main)
