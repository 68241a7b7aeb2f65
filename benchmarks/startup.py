"""Seconds from typing the training command to its first finished step, and what each family's step takes to compile.

    python -m benchmarks.startup [--bccd FOLDER] [--json FILE]      # an empty compile cache, then a filled one
    python -m benchmarks.startup --families resnet50 swin_t ...     # trace, lower, compile; instructions

FOLDER is the Blood Cell Count and Detection data set of `configs/retinanet_lite0_bccd.py`. PyTorch's row is a process
that imports torch and torchvision, builds the same network, and takes one step.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks.our_steps import OPTIMIZER
from benchmarks.zoo import SIZES
from converters.verify import CLASSIFICATION as TASK
from jaxft import config
from jaxft.models import abstract_model
from jaxft.models.paths import values
from jaxft.training.layout import one_device
from jaxft.training.optim import set_modes
from jaxft.training.stages import lay_out
from jaxft.training.state import abstract_state
from jaxft.training.step import Compiled, StepInputs, key_data, train_step

TORCH = """
import torch, torchvision
model = torchvision.models.resnet18().to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
torch.nn.functional.cross_entropy(model(torch.randn(32, 3, 64, 64)), torch.zeros(32).long()).backward()
optimizer.step()
"""
RESNET = (
    *("--config", "configs/digits.py", "--model.name", "resnet18", "--pretrained.source", "None"),
    *("--pretrained.skip", "--phases.0.epochs", "1", "--phases.0.rules.0.pattern", "fc"),
)
BCCD = ("--config", "configs/retinanet_lite0_bccd.py", "--data.root")
PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times the start of runs, or the compilation of a training step of each of some models."""

    bccd: Path | None = None
    """The folder of the blood cells, to time their RetinaNet, too."""
    rounds: int = 1
    """Starts from an empty cache, and as many from the one that each has filled; medians are shown."""
    families: tuple[str, ...] | None = None
    """Models to compile the training step of; `--families` alone is one of each family."""
    batch: int = 16
    """Images a step of `--families`."""
    json: Path | None = None
    """A file for the figures."""


def until_first_step(arguments: tuple[str, ...], cache: Path, folder: Path) -> float:
    """Starts the command, waits for its first line of metrics, and ends it."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "jaxft.train", *arguments, "--log-every", "1", "--workdir", str(folder)]
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"the command ended with code {process.returncode} before its first step")
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def starts(arguments: tuple[str, ...], rounds: int) -> dict[str, float]:
    """Median seconds of a training command to its first step."""
    found: dict[str, list[float]] = {"empty cache": [], "filled cache": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            for name, seconds in found.items():
                seconds.append(until_first_step(arguments, Path(scratch, "cache"), Path(scratch, name)))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def torch_start() -> float:
    """Seconds of PyTorch's process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", TORCH], check=True)
    return time.perf_counter() - start


def compilation(name: str, batch: int) -> dict[str, float]:
    """Seconds to trace, lower and compile a training step of a model, and its StableHLO instructions; no arrays."""
    model, layout, size = abstract_model(name), one_device(), SIZES.get(name, 224)
    params, stats = values(model, nnx.Param), values(model, nnx.BatchStat)
    settings = config.Config(optimizer=OPTIMIZER, phases=(config.Phase(rules=(config.Rule(pattern="*"),)),))
    (stage,) = lay_out(settings, {path: tuple(value.shape) for path, value in params.items()}, steps_per_epoch=1000)
    set_modes(model, stage.groups, stage.batch_norm)
    state = layout.abstract(abstract_state(stage, params, stats, ema=False))
    step = Compiled(train_step(model, TASK.loss, stage.groups.trained, stage.chain), updates_state=True)
    example = {"image": np.zeros((size, size, 3), np.uint8), "label": np.zeros((), np.int32)}

    found: dict[str, float] = dict.fromkeys(PARTS.values(), 0.0)

    def hear(event: str, duration_secs: float, **_: str | int) -> None:
        if part := PARTS.get(event):
            found[part] = max(found[part], duration_secs)  # of functions within each other the outermost

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        inputs = StepInputs(key_data(0), stage.numbers(0))
        lowered = step.lowered(state, layout.abstract_batch(example, batch), inputs)
        step.compiler(state, layout.abstract_batch(example, batch), inputs)()
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    return {**found, "instructions": lowered.as_text().count(" = ")}


def main() -> None:
    """Prints a table."""
    options = tyro.cli(Options)
    console, figures = Console(), {}
    if options.families is not None:
        jnp.zeros(()).block_until_ready()
        table = Table("model", *PARTS.values(), "instructions", title=f"training step, batch {options.batch}, seconds")
        for name in options.families or tuple(SIZES):
            figures[name] = found = compilation(name, options.batch)
            seconds = (f"{found[part]:.1f}" for part in PARTS.values())
            table.add_row(name, *seconds, f"{found['instructions']:,}")
    else:
        figures["ResNet-18, batch 32, 64 px"] = {"PyTorch": torch_start(), **starts(RESNET, options.rounds)}
        if options.bccd is not None:
            figures["RetinaNet, blood cells"] = starts((*BCCD, str(options.bccd)), options.rounds)
        table = Table("run", "", "seconds to the first step")
        for run, measured in figures.items():
            for name, value in measured.items():
                table.add_row(run, name, f"{value:.1f}")
    console.print(table)
    if options.json is not None:
        versions = {"jax": jax.__version__, "python": sys.version.split()[0]}
        options.json.write_text(json.dumps({"versions": versions, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
