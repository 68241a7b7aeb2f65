"""Trackers of experiments, by their own packages: Weights & Biases, MLflow."""

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def open_tracker(kind: str, folder: Path, settings: Mapping[str, object]) -> Events | None:
    """A tracker that goes on with the run that it has of this folder, or begins one; None for `none`.

    Args:
        folder: the run directory, whose name the run gets.
        settings: the configuration, by dotted path.

    Raises:
        UserError: its package is not installed.
    """
    check_tracker(kind)
    match kind:
        case "wandb":
            return WeightsAndBiases(folder, settings)
        case "mlflow":
            return MLflow(folder, settings)
    return None


class WeightsAndBiases:
    """A run of Weights & Biases, whose environment variables count: WANDB_MODE=offline, WANDB_PROJECT, ..."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        import wandb

        kept = folder / "wandb_id"
        name = kept.read_text() if kept.exists() else wandb.util.generate_id()
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

    def picture(self, name: str, file: Path, step: int) -> None:
        self._run.log({"step": step, f"pictures/{name}": self._wandb.Image(str(file))})

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

        address = os.environ.get("MLFLOW_TRACKING_URI") or (folder.absolute().parent / "mlruns").as_uri()
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

    def picture(self, name: str, file: Path, step: int) -> None:
        self._client.log_artifact(self._name, str(file), f"step {step}")

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
