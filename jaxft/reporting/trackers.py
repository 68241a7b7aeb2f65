"""Trackers of experiments, by their own packages: Weights & Biases, MLflow."""

import importlib.util
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from jaxft.errors import UserError
from jaxft.places import in_bucket
from jaxft.reporting.events import Events, Histogram

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
"""By the name of a tracker, the package that it needs."""
_PARAMS = 100  # that MLflow takes at a time
_LONGEST = 500  # letters of a parameter that every version of MLflow takes


def check_tracker(kind: str) -> None:
    """Raises a UserError where a tracker's package is not installed."""
    if kind in PACKAGES and importlib.util.find_spec(PACKAGES[kind]) is None:
        raise UserError(
            f"tracker is {kind!r}, but its package is not installed; pip install 'jaxft[{kind}]', or leave tracker out."
        )


def open_tracker(
    kind: str, folder: Path, settings: Mapping[str, object], say: Callable[[str], None] = print
) -> Events | None:
    """A tracker that goes on with the run that it has of this folder, or begins one; None for `none`.

    Args:
        folder: the run directory, whose name the run gets.
        settings: the configuration, by dotted path.
        say: takes a sentence where the tracker fails later, without which the run goes on.

    Raises:
        UserError: its package is not installed, or it cannot begin.
    """
    check_tracker(kind)
    if kind == "none":
        return None
    try:
        return _Forgiving(kind, (WeightsAndBiases if kind == "wandb" else MLflow)(folder, settings), say)
    except Exception as error:  # of packages with kinds of their own, and of whatever is behind them
        raise UserError(f"tracker is {kind!r}, which cannot begin: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class _Forgiving:
    """A tracker that is left out from the first time on that it fails."""

    def __init__(self, kind: str, inner: Events, say: Callable[[str], None]) -> None:
        self._kind, self._say = kind, say
        self._inner: Events | None = inner

    def scalars(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        self._try(lambda inner: inner.scalars(split, metrics, step))

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self._try(lambda inner: inner.picture(name, image, step))

    def histogram(self, name: str, found: Histogram, step: int) -> None:
        self._try(lambda inner: inner.histogram(name, found, step))

    def close(self) -> None:
        self._try(lambda inner: inner.close())

    def _try(self, do: Callable[[Events], None]) -> None:
        if self._inner is None:
            return
        try:
            do(self._inner)
        except Exception as error:  # a network that is away must not end a run
            self._inner = None
            self._say(f"{self._kind} fails ({_first_line(error)}); the run goes on without it.")


class WeightsAndBiases:
    """A run of Weights & Biases, whose environment variables count: WANDB_MODE=offline, WANDB_PROJECT, ..."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        import wandb

        kept = folder / "wandb_id"
        name = kept.read_text() if kept.exists() else uuid.uuid4().hex[:8]
        kept.write_text(name)
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxft"),
            name=folder.name,
            id=name,
            resume="allow",
            config={key: _plain(value) for key, value in settings.items()},
            dir=None if in_bucket(folder) else str(folder),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def scalars(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in metrics.items()}})

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self._run.log({"step": step, f"pictures/{name}": self._wandb.Image(image)})

    def histogram(self, name: str, found: Histogram, step: int) -> None:
        shown = self._wandb.Histogram(np_histogram=(found.counts.tolist(), found.edges.tolist()))
        self._run.log({"step": step, name: shown})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, whose environment variables count: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME; without the
    former it lies in `mlruns` beside the run directory. It knows no histograms."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        import mlflow

        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            address = (folder.absolute().parent / "mlruns").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which needs no database package
        self._mlflow, self._client = mlflow, mlflow.MlflowClient(tracking_uri=address)
        mlflow.set_tracking_uri(address)
        kept = folder / "mlflow_id"
        if kept.exists():
            self._name = kept.read_text()
            self._client.set_terminated(self._name, status="RUNNING")
            return
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "jaxft"))
        self._name = self._client.create_run(experiment.experiment_id, run_name=folder.name).info.run_id
        kept.write_text(self._name)
        params = [
            mlflow.entities.Param(_allowed(key), str(value)[:_LONGEST]) for key, value in settings.items() if str(value)
        ]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(self._name, params=params[start : start + _PARAMS])

    def scalars(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        named = {_allowed(f"{split}/{name}"): value for name, value in metrics.items()}
        self._mlflow.log_metrics(named, step=step, run_id=self._name, synchronous=False)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self._mlflow.flush_async_logging()  # it reads metrics, which must not be half written
        self._client.log_image(self._name, image, artifact_file=f"step {step}/{name}.png")

    def histogram(self, name: str, found: Histogram, step: int) -> None:
        """Nothing: MLflow has no place for it."""

    def close(self) -> None:
        self._mlflow.flush_async_logging()
        self._client.set_terminated(self._name)


def _allowed(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w./ :-]", "_", name)


def _plain(value: object) -> Any:
    """A value as JSON has it, or as text."""
    return value if isinstance(value, str | int | float | None) else str(value)
