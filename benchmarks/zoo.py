"""Training and evaluation steps of one model a family against PyTorch (channels-last, float32) in the same run.

    python -m benchmarks.zoo

The ratio is PyTorch's seconds divided by ours: 1.0 is as fast, 0.5 takes twice as long. Images have the size that the
model's published weights were trained for.
"""

import gc
import statistics
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from rich.live import Live
from rich.table import Table

from benchmarks.steps import OPTIMIZER, our_evaluation, our_training, their_steps
from benchmarks.timing import interleaved
from converters.verify import CLASSIFICATION as TASK
from jaxft import config, create_model

SIZES = {
    "alexnet": 224,
    "convnext_tiny": 224,
    "densenet121": 224,
    "efficientnet_b0": 224,
    "efficientnet_lite0": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet1_0": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_large": 224,
    "regnet_y_400mf": 224,
    "resnet50": 224,
    "resnext50_32x4d": 224,
    "shufflenet_v2_x1_0": 224,
    "squeezenet1_1": 224,
    "swin_t": 224,
    "swin_v2_t": 256,
    "vgg11": 224,
    "vit_b_16": 224,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times steps of training and evaluation of one model a family."""

    models: tuple[str, ...] = tuple(SIZES)
    """Names of models."""
    batch: int = 16
    """Images a step."""
    rounds: int = 3
    """Timed runs of each program, in turn."""


def seconds(name: str, options: Options) -> dict[str, dict[str, float]]:
    """Median seconds of both sides, for training and evaluation."""
    random, size = np.random.default_rng(0), SIZES.get(name, 224)
    pixels = random.integers(0, 256, (options.batch, size, size, 3), dtype=np.uint8)
    labels = random.integers(0, 1000, options.batch).astype(np.int32)
    batch = {"image": jnp.asarray(pixels), "label": jnp.asarray(labels)}
    theirs = dict(
        zip(("training", "evaluation"), their_steps(name, np.array(TASK.images(batch["image"])), labels), strict=True)
    )
    ours = {
        "training": our_training(create_model(name), TASK, OPTIMIZER, (config.Rule(pattern="*"),), batch),
        "evaluation": our_evaluation(create_model(name), batch),
    }
    return {step: interleaved({"theirs": theirs[step], "ours": ours[step]}, options.rounds) for step in ours}


def main() -> None:
    """Prints the table, and the median ratios."""
    options = tyro.cli(Options)
    threads = torch.get_num_threads()
    title = (
        f"batch {options.batch}, {threads} threads, median of {options.rounds}; seconds of PyTorch / of jaxft, ratio"
    )
    table = Table("model", "pixels", "training", "", "evaluation", "", title=title)
    ratios: dict[str, list[float]] = {"training": [], "evaluation": []}
    with Live(table, refresh_per_second=1, vertical_overflow="visible"):
        for name in options.models:
            cells = []
            for step, both in seconds(name, options).items():
                ratios[step].append(both["theirs"] / both["ours"])
                cells += [f"{both['theirs']:.2f} / {both['ours']:.2f}", f"{ratios[step][-1]:.2f}"]
            table.add_row(name, str(SIZES.get(name, 224)), *cells)
            jax.clear_caches()
            gc.collect()
        medians = [cell for values in ratios.values() for cell in ("", f"{statistics.median(values):.2f}")]
        table.add_row("median", "", *medians)


if __name__ == "__main__":
    main()
