"""What TensorBoard and trackers are given can be read back, by their own packages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxft.errors import UserError
from jaxft.reporting.events import Events, Histogram, TensorBoard
from jaxft.reporting.trackers import check_tracker, open_tracker

FOUND = Histogram(np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0, 3, 2]), 0.1, 1.5, 3.0, 4.0)
SETTINGS = {
    "optimizer.learning_rate": 0.1,
    "model.name": "small",
    "data.classes": ("a", "b"),
    "pretrained.source": None,
}


def report(events: Events) -> None:
    events.scalars("train", {"loss": 0.5, 'AP/a class, "quoted"': 0.25}, 3)
    events.picture("inputs", Image.new("RGB", (30, 20), "red"), 3)
    events.histogram("gradients/fc", FOUND, 3)
    events.scalars("train", {"loss": 0.25}, 6)
    events.close()


def event_values(folder: Path) -> dict[str, Any]:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c  # noqa: F401  (the format's own reader is not in the package)

    values: dict[str, Any] = {}
    for file in folder.glob("events*"):
        data, place = file.read_bytes(), 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            values |= {value.tag: value for value in event.summary.value}
    return values


def test_tensorboard_gets_scalars_pictures_and_histograms(tmp_path: Path) -> None:
    report(TensorBoard(tmp_path / "tensorboard", 0))
    values = event_values(tmp_path / "tensorboard")
    assert values["train/loss"].simple_value == 0.25
    assert (values["inputs"].image.width, values["inputs"].image.height) == (30, 20)
    histogram = values["gradients/fc"].histo
    assert list(histogram.bucket_limit) == [1.0, 2.0]
    assert list(histogram.bucket) == [3.0, 2.0]
    assert (histogram.min, histogram.max, histogram.num, histogram.sum) == (0.1, 1.5, 5.0, 3.0)


def test_a_tracker_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxft\[wandb\]'"):
        check_tracker("wandb")
    check_tracker("none")
    assert open_tracker("none", tmp_path, SETTINGS) is None


def test_a_tracker_that_fails_is_said_once_and_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls, said = list[str](), list[str]()

    class Failing:
        def __init__(self, *_: object) -> None: ...

        def scalars(self, *_: object) -> None:
            calls.append("scalars")

        def picture(self, *_: object) -> None:
            raise ConnectionError("no network\nat all")

        def close(self) -> None:
            raise AssertionError

    monkeypatch.setattr("jaxft.reporting.trackers.check_tracker", lambda kind: None)
    monkeypatch.setattr("jaxft.reporting.trackers.MLflow", Failing)
    tracker = open_tracker("mlflow", tmp_path, SETTINGS, said.append)
    assert tracker is not None
    report(tracker)
    assert calls == ["scalars"]
    assert said == ["mlflow fails (no network); the run goes on without it."]
    monkeypatch.setattr("jaxft.reporting.trackers.MLflow", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="cannot begin: division by zero"):
        open_tracker("mlflow", tmp_path, SETTINGS)


@pytest.mark.filterwarnings("default")
def test_weights_and_biases_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(2):  # a run that goes on
        tracker = open_tracker("wandb", run, SETTINGS)
        assert tracker is not None
        report(tracker)
    name = (run / "wandb_id").read_text()
    assert len(list((run / "wandb").glob(f"offline-run-*-{name}"))) >= 1
    (first, *_) = sorted((run / "wandb").glob(f"offline-run-*-{name}"))
    assert list(first.rglob("*.png"))
    assert next(iter(first.glob("*.wandb"))).stat().st_size > 1000


@pytest.mark.filterwarnings("default")
def test_mlflow_in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    for _ in range(2):
        tracker = open_tracker("mlflow", run, SETTINGS)
        assert tracker is not None
        report(tracker)
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "runs" / "mlruns").as_uri())
    name = (run / "mlflow_id").read_text()
    found = client.get_run(name)
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer.learning_rate"] == "0.1"
    assert found.data.metrics["train/loss"] == 0.25
    assert [point.step for point in client.get_metric_history(name, "train/loss")][:2] == [3, 6]
    assert [entry.path for entry in client.list_artifacts(name, "step 3")] == ["step 3/inputs.png"]
    assert json.loads(json.dumps(found.data.metrics))
