"""A run of regression from a CSV to an export."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxft import train
from jaxft.config import Config, replace
from jaxft.data.csv_targets import read_numbers
from jaxft.errors import UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.predict import main as predict_main
from jaxft.tasks.regression import Regression
from jaxft.training.finished import open_run
from jaxft.training.loop import fit
from tests.small import assert_equal_runs, call, lines, user_error
from tests.tasks.targets import COUNTS, IMAGES, exported, paint_photos, run_torch, small_config, write_config

NAMES = ("warmth", "light")
MEAN, STD = (0.0, 45.0), (50.0, 15.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with how much more red than blue they are, and how light: -100 to 100, 0 to 100. Not to be changed."""
    root = tmp_path_factory.mktemp("numbers")
    return paint_photos(root, lambda rgb: (round(100 * (rgb[0] - rgb[2]), 2), round(100 * rgb.mean(), 2)), NAMES)


@pytest.fixture(scope="module")
def config(photos: Path) -> Config:
    return small_config(Regression(images=IMAGES, target_mean=MEAN, target_std=STD, best_by="mae"), photos)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run. Not to be changed."""
    fitted = fit(config, tmp_path_factory.mktemp("run") / "run")
    assert fitted.complete
    return fitted.path


def test_it_learns_and_keeps_the_best(run: Path) -> None:
    training = [line for line in lines(run) if line["split"] == "train"]
    assert len(training) == 6
    assert {"loss", "mae"} <= training[0].keys()
    evaluations = [line for line in lines(run) if line["split"] == "validation"]
    for line in evaluations:
        assert {"loss", "r2", "mae", "rmse", "r2/warmth", "mae/warmth", "r2/light", "mae/light"} <= line.keys()
        assert line["mae"] == pytest.approx((line["mae/warmth"] + line["mae/light"]) / 2)
    best = min(evaluations, key=lambda line: line["mae"])
    assert open_run(run).step == best["step"]
    with Image.open(run / "pictures" / "predictions.png") as picture:
        assert picture.width > 100


@pytest.mark.parametrize(("stop", "workers"), [(2, 0), (3, 1)], ids=["in an epoch", "at its end, in a worker process"])
def test_resume_equals_an_undisturbed_run(config: Config, run: Path, tmp_path: Path, stop: int, workers: int) -> None:
    started = fit(config, tmp_path / "run", stop_after=stop)
    assert (started.step, started.complete) == (stop, False)
    assert fit(replace(config, {"data.workers": workers}), tmp_path / "run", resume=True).complete
    assert_equal_runs(tmp_path / "run", run)


def test_another_target_is_noticed_when_a_run_goes_on(config: Config, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    moved = replace(config, {"data.root": str(tmp_path / "photos")})
    fit(moved, tmp_path / "run", stop_after=1)
    table = tmp_path / "photos" / "train.csv"
    table.write_text(table.read_text().replace("\n3.png,", "\n3.png,1"))
    with pytest.raises(UserError, match=r"1 of train with another ground truth \(3\.png\)"):
        fit(moved, tmp_path / "run", resume=True)


def test_evaluate_gives_the_figures_of_the_run(run: Path) -> None:
    for arguments in ((), ("--split", "test")):
        result = call(evaluate_main, "--run", run, "--checkpoint", "last", *arguments)
        assert result.code == 0, result
        expected = [line for line in lines(run) if line["split"] == "validation"][-1]
        assert (
            f"11 examples: loss {expected['loss']:.4f}  r2 {expected['r2']:.4f}  mae {expected['mae']:.4f}"
            in result.out
        )


def test_predict_writes_numbers_in_their_units(run: Path, photos: Path, tmp_path: Path) -> None:
    result = call(predict_main, "--run", run, "--output", tmp_path / "out", photos / "test")
    assert result.code == 0, result
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    files = sorted((photos / "test").iterdir())
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    opened = open_run(run)
    task = opened.config.task.task()
    dataset = task.photos(files, opened.classes)
    pixels = np.stack([dataset.evaluation(index)["image"] for index in range(len(files))])
    labels = np.zeros((len(files), 2), np.float32)
    expected = task.predict(opened.model, {"image": pixels, "label": labels})["values"]
    np.testing.assert_allclose([[entry["values"][name] for name in NAMES] for entry in entries], expected, rtol=1e-5)
    table = read_numbers(tmp_path / "out" / "predictions.csv", Path())  # it is of the form of the training data
    assert table.classes == NAMES
    np.testing.assert_allclose(table.targets, expected, rtol=1e-5)
    assert all(str(file) in result.out for file in files)
    with Image.open(tmp_path / "out" / "predictions.png") as picture:
        assert picture.width > 100


def test_exports_give_the_same_numbers(run: Path, photos: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    task = opened.config.task.task()
    _, validation = task.datasets(opened.config.data, 0)
    pixels = np.stack([validation.evaluation(index)["image"] for index in range(COUNTS["test"])])
    expected = task.predict(opened.model, {"image": pixels, "label": np.zeros((len(pixels), 2), np.float32)})["values"]
    network, program = exported(run, tmp_path)
    np.testing.assert_allclose(program(pixels), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(program(pixels[:1]), expected[:1], rtol=1e-5, atol=1e-4)
    standardized = run_torch(network, pixels)  # of a state dict
    np.testing.assert_allclose(standardized * np.array(STD) + np.array(MEAN), expected, rtol=1e-5, atol=1e-4)


def test_a_mistake_in_the_csv_ends_the_command_in_a_sentence(config: Config, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    table = tmp_path / "photos" / "test.csv"
    table.write_text(table.read_text().replace("\n3.png,", "\n3.png,about "))
    file = write_config(tmp_path / "configs" / "config.py", config)
    result = call(train.main, "--config", file, "--data.root", tmp_path / "photos", "--workdir", tmp_path / "run")
    assert "test.csv: line 5, column 'warmth': 'about" in user_error(result)
    assert not (tmp_path / "run").exists()
