"""`verify` over many models: which of them are PyTorch's to within the tolerances, as a table."""

import gc
import multiprocessing
import platform
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import NamedTuple

import jax
from rich.table import Table

from converters.report import Report
from converters.torchvision import WEIGHTS
from converters.verify import verify
from jaxft.models import list_models

COLUMNS = ("model", "parameters", "logits", "loss", "gradients", "statistics", "3 steps", "round trip", "seconds")
LIBRARIES = ("jax", "flax", "torch", "torchvision")
ATTENTION = ("vit", "swin", "maxvit")
# (side, images) of the models that take no 64 pixels: the smallest side, and few enough to fit into memory. The last
# maps of an EfficientNet would have 2 x 2 pixels of 64, where PyTorch's own float32 steps of a B7 are off by 1.5e-4.
# Every block of a GoogLeNet pools by maxima: among those of 8 images are two that rounding puts in either order.
IMAGES = {
    "googlenet": (64, 4),
    "inception_v3": (299, 4),
    "maxvit": (224, 2),
    "vit": (224, 2),
    "efficientnet_b": (96, 8),
    "efficientnet_v2": (96, 8),
}


class Failed(NamedTuple):
    """A model whose verification ended in an error."""

    model: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """The largest relative differences that are still rounding, in float32."""

    logits: float
    gradients: float = 1e-3
    statistics: float = 1e-5
    steps: float = 1e-4


def limits(model: str) -> Limits:
    """Attention sums products of activations, and its softmax is exponential in them: ten times the logits' limit."""
    return Limits(logits=1e-4 if model.startswith(ATTENTION) else 1e-5)


def misses(report: Report) -> list[str]:
    """Names of the figures that are beyond the limits; empty where the proof holds."""
    limit = limits(report.model)
    figures = {
        "logits": (report.logits, limit.logits),
        "gradients": (report.gradients[0], limit.gradients),
        "statistics": (report.statistics[0], limit.statistics),
        "3 steps": (report.steps[0], limit.steps),
    }
    over = [name for name, (figure, most) in figures.items() if not figure <= most]
    return over + ([] if report.round_trip else ["round trip"])


def row(report: Report) -> list[str]:
    """The cells of a model's line."""
    figures = (report.logits, report.loss, report.gradients[0], report.statistics[0], report.steps[0])
    trip = "exact" if report.round_trip else "DIFFERS"
    shown = [f"{figure:.1e}" for figure in figures]
    return [report.model, f"{report.parameters:,}", *shown, trip, f"{report.seconds:.0f}"]


def images(model: str) -> tuple[int, int]:
    """The side, and the number, of the images that a model is verified on."""
    return next((images for prefix, images in IMAGES.items() if model.startswith(prefix)), (64, 8))


def survey(names: Iterable[str], dtype: str, jobs: int = 1) -> Iterator[Report | Failed]:
    """Verifies models in so many processes, one model at a time in each; the reports come as they are done."""
    if jobs == 1:
        yield from (_one(name, dtype) for name in names)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_one, name, dtype) for name in names]):
            yield done.result()


def _one(name: str, dtype: str) -> Report | Failed:
    size, batch = images(name)
    try:
        return verify(name, size=size, batch=batch, dtype=dtype)
    except Exception as error:  # one model's must not cost the reports of the others
        return Failed(name, f"{type(error).__name__}: {error}")
    finally:
        jax.clear_caches()
        gc.collect()


def summary(reports: Sequence[Report]) -> str:
    """How many are within the limits, and what the others miss."""
    missed = {report.model: misses(report) for report in reports if misses(report)}
    lines = [f"{len(reports) - len(missed)} of {len(reports)} models within the limits"]
    lines += [f"  {model}: {', '.join(figures)}" for model, figures in missed.items()]
    if missed:
        lines.append("Whether that is rounding, --dtype float64 tells: what is an error stays.")
    return "\n".join(lines)


def table() -> Table:
    """The empty table for a terminal."""
    return Table(*COLUMNS, title="largest differences, relative to PyTorch's largest magnitude")


def markdown(reports: Sequence[Report], dtype: str) -> str:
    """The table of supported models, with the day, the versions and the machine."""
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    head = f"""# Models

Written by `python -m converters verify --all --markdown FILE` on {datetime.now(UTC):%Y-%m-%d}, with {versions}, on
{platform.machine()} ({jax.default_backend()}), in {dtype}.

Random weights, perturbed BatchNorm statistics, 8 random images of 64 pixels (where a model needs larger ones, theirs,
and fewer of the largest; GoogLeNet 4).
A figure is the largest difference from PyTorch relative to the largest magnitude of PyTorch's tensor; for gradients, to
at least a hundredth of the largest gradient. The round trip is the export: the same bits, and loaded by PyTorch with
`strict=True`.

"""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row(report)) + " |" for report in sorted(reports, key=lambda report: report.model)]
    return head + "\n".join(lines) + f"\n\n{summary(reports)}\n"


def torchvisions() -> list[str]:
    """The classifiers whose reference is torchvision's."""
    return [name for name in list_models("classification") if name in WEIGHTS]
