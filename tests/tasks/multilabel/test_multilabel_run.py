"""A run of multi-label classification from a CSV to an export."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxft import train
from jaxft.config import Config
from jaxft.evaluate import main as evaluate_main
from jaxft.predict import main as predict_main
from jaxft.tasks.multilabel import Multilabel
from jaxft.training.finished import open_run
from jaxft.training.loop import fit
from tests.small import assert_equal_runs, call, lines, user_error
from tests.tasks.targets import COUNTS, IMAGES, exported, paint_photos, run_torch, small_config, write_config

NAMES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with the names of their bright channels. Not to be changed."""
    root = tmp_path_factory.mktemp("labels")
    return paint_photos(
        root,
        lambda rgb: [";".join(name for name, part in zip(("red", "green", "blue"), rgb, strict=True) if part >= 0.6)],
        ["labels"],
    )


@pytest.fixture(scope="module")
def config(photos: Path) -> Config:
    return small_config(Multilabel(images=IMAGES, threshold=0.4), photos)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run. Not to be changed."""
    fitted = fit(config, tmp_path_factory.mktemp("run") / "run")
    assert fitted.complete
    assert fitted.classes == NAMES
    return fitted.path


def test_it_learns_and_keeps_the_best(run: Path) -> None:
    assert len([line for line in lines(run) if line["split"] == "train"]) == 6
    evaluations = [line for line in lines(run) if line["split"] == "validation"]
    for line in evaluations:
        assert line["mAP"] == pytest.approx(np.mean([line[f"AP/{name}"] for name in NAMES]))
        assert line["f1"] == pytest.approx(np.mean([line[f"f1/{name}"] for name in NAMES]))
    best = max(evaluations, key=lambda line: line["mAP"])
    assert open_run(run).step == best["step"]
    with Image.open(run / "pictures" / "predictions.png") as picture:
        assert picture.width > 100


def test_resume_equals_an_undisturbed_run(config: Config, run: Path, tmp_path: Path) -> None:
    assert fit(config, tmp_path / "run", stop_after=4).step == 4
    assert fit(config, tmp_path / "run", resume=True).complete
    assert_equal_runs(tmp_path / "run", run)


def test_evaluate_gives_the_figures_of_the_run(run: Path) -> None:
    for arguments in ((), ("--split", "test")):
        result = call(evaluate_main, "--run", run, "--checkpoint", "last", *arguments)
        assert result.code == 0, result
        expected = [line for line in lines(run) if line["split"] == "validation"][-1]
        figures = (f"loss {expected['loss']:.4f}", f"mAP {expected['mAP']:.4f}", f"f1 {expected['f1']:.4f}")
        assert f"11 examples: {'  '.join(figures)}" in result.out


def test_predict_writes_labels_above_the_threshold(run: Path, photos: Path, tmp_path: Path) -> None:
    result = call(predict_main, "--run", run, "--output", tmp_path / "out", photos / "test")
    assert result.code == 0, result
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    files = sorted((photos / "test").iterdir())
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    opened = open_run(run)
    task = opened.config.task.task()
    dataset = task.photos(files, opened.classes)
    pixels = np.stack([dataset.evaluation(index)["image"] for index in range(len(files))])
    labels = np.zeros((len(files), 3), np.float32)
    expected = task.predict(opened.model, {"image": pixels, "label": labels})["probabilities"]
    found = [[entry["probabilities"][name] for name in NAMES] for entry in entries]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert {len(entry["labels"]) for entry in entries} != {0}
    for entry in entries:
        above = {name: value for name, value in entry["probabilities"].items() if value >= 0.4}
        assert entry["labels"] == sorted(above, key=lambda name: -above[name])
        assert entry["file"] in result.out
    with (tmp_path / "out" / "predictions.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["labels"] for row in rows] == [";".join(entry["labels"]) for entry in entries]
    assert [float(row[f"probability/{NAMES[0]}"]) for row in rows] == [
        one["probabilities"][NAMES[0]] for one in entries
    ]
    with Image.open(tmp_path / "out" / "predictions.png") as picture:
        assert picture.width > 100


def test_exports_give_the_same_numbers(run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    task = opened.config.task.task()
    _, validation = task.datasets(opened.config.data, 0)
    pixels = np.stack([validation.evaluation(index)["image"] for index in range(COUNTS["test"])])
    labels = np.zeros((len(pixels), 3), np.float32)
    expected = task.predict(opened.model, {"image": pixels, "label": labels})["probabilities"]
    network, program = exported(run, tmp_path)
    for logits in (program(pixels), run_torch(network, pixels)):
        np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(logits))), expected, rtol=1e-5)


def test_a_label_that_training_does_not_know_ends_the_command_in_a_sentence(
    config: Config, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "other").mkdir(parents=True)
    shutil.copytree(photos, tmp_path / "photos", dirs_exist_ok=True)
    shutil.copy(photos / "test" / "0.png", tmp_path / "photos" / "other")
    (tmp_path / "photos" / "other.csv").write_text("file,labels\n0.png,red;violet\n")
    file = write_config(tmp_path / "configs" / "config.py", config)
    arguments = ("--data.root", tmp_path / "photos", "--data.validation", "other", "--workdir", tmp_path / "run")
    result = call(train.main, "--config", file, *arguments)
    assert "other.csv: line 2, column 'labels': 'violet' is none of the classes blue, green, red" in user_error(result)
    assert not (tmp_path / "run").exists()
