"""A finished run: evaluated, asked about photos, and exported; and what a dry run prints."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import torchvision
from flax import nnx
from PIL import Image

from converters import to_torch
from converters.files import write
from jaxft import create_model, export, train
from jaxft.config import Classification, from_json
from jaxft.evaluate import main as evaluate_main
from jaxft.models.paths import values, walk
from jaxft.predict import main as predict_main
from jaxft.tasks.classification.task import ClassificationTask
from jaxft.training.finished import FinishedRun, open_run
from tests.small import CLASSES, ROOT, TEST_EACH, call, lines, user_error

pytest_plugins = ("tests.runs",)


# Evaluate


@pytest.mark.parametrize("which", ["best", "last"])
def test_evaluate_gives_the_figures_of_the_run(small_run: Path, which: str) -> None:
    tests = [line for line in lines(small_run) if line["split"] == "validation"]
    wanted = tests[-1] if which == "last" else max(tests, key=lambda line: line["accuracy"])
    result = call(evaluate_main, "--run", small_run, "--checkpoint", which)
    assert result.code == 0, result
    assert f"{which} checkpoint (step {wanted['step']}), 10 examples" in result.out
    assert f"loss {wanted['loss']:.4f}" in result.out
    assert f"accuracy {wanted['accuracy']:.4f}" in result.out


def test_evaluate_on_another_split_and_folder(small_run: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "more" / "val")
    result = call(evaluate_main, "--run", small_run, "--root", tmp_path / "more", "--split", "val")
    assert "10 examples" in result.out
    shutil.rmtree(tmp_path / "more" / "val" / "red")
    message = user_error(call(evaluate_main, "--run", small_run, "--root", tmp_path / "more", "--split", "val"))
    assert "red" in message


def test_evaluate_prints_json_alone(small_run: Path, tmp_path: Path) -> None:
    wanted = [line for line in lines(small_run) if line["split"] == "validation"][-1]
    output = tmp_path / "out"
    arguments = ("--run", small_run, "--checkpoint", "last", "--json", "--output", output)
    result = call(evaluate_main, *arguments)
    assert result.code == 0, result
    printed = json.loads(result.out)
    assert printed["metrics"] == pytest.approx(
        {name: wanted[name] for name in ("loss", "accuracy", "balanced_accuracy")}, rel=1e-5
    )
    assert [row["class"] for row in printed["classes"]] == list(CLASSES)
    assert {name: value for name, value in printed.items() if name not in ("metrics", "classes")} == {
        "run": str(small_run),
        "checkpoint": "last",
        "step": wanted["step"],
        "split": "test",
        "examples": 10,
    }
    assert len(json.loads((output / "predictions.json").read_text())) == 10
    (tmp_path / "file").write_text("")
    message = user_error(call(evaluate_main, *arguments[:-1], tmp_path / "file"))
    assert "is no folder" in message


def test_evaluate_shows_and_writes_figures_by_class(small_run: Path, tmp_path: Path) -> None:
    result = call(evaluate_main, "--run", small_run, "--report", tmp_path / "report")
    assert result.code == 0, result
    assert "precision" in result.out
    assert {file.name for file in (tmp_path / "report").iterdir()} == {
        f"{name}.{kind}" for name in ("classes", "confusion", "examples") for kind in ("csv", "json")
    }
    rows = json.loads((tmp_path / "report" / "classes.json").read_text())
    assert [(row["class"], row["examples"]) for row in rows] == list(zip(CLASSES, TEST_EACH, strict=True))
    confusion = json.loads((tmp_path / "report" / "confusion.json").read_text())
    assert [sum(row[name] for name in CLASSES) for row in confusion] == list(TEST_EACH)
    (tmp_path / "file").write_text("")
    assert "another --report" in user_error(call(evaluate_main, "--run", small_run, "--report", tmp_path / "file"))


# Predict


def test_predict_files_and_folders(small_run: Path, photos: Path, tmp_path: Path) -> None:
    one = photos / "test" / "green" / "00.jpg"
    result = call(predict_main, "--run", small_run, "--output", tmp_path / "out", one, photos / "test" / "red")
    assert result.code == 0, result
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    files = [one, *sorted((photos / "test" / "red").iterdir())]
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    for entry, file in zip(entries, files, strict=True):
        assert tuple(entry["probabilities"]) == CLASSES
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert entry["class"] == max(entry["probabilities"], key=entry["probabilities"].get)
        assert str(file) in result.out
    with (tmp_path / "out" / "predictions.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["file"] for row in rows] == [entry["file"] for entry in entries]
    for row, entry in zip(rows, entries, strict=True):
        assert row["class"] == entry["class"]
        assert float(row["probability"]) == entry["probabilities"][row["class"]]
        assert [float(row[f"probability/{name}"]) for name in CLASSES] == list(entry["probabilities"].values())
    with Image.open(tmp_path / "out" / "predictions.png") as picture:
        assert picture.width > 100


def test_predict_refuses_crops_before_it_predicts(small_run: Path, photos: Path, tmp_path: Path) -> None:
    run = ("--run", small_run, photos / "test" / "red")
    assert "--output names" in user_error(call(predict_main, *run, "--crops", 0.5))
    assert "from 0 to 1" in user_error(call(predict_main, *run, "--crops", 2, "--output", tmp_path / "out"))
    message = user_error(call(predict_main, *run, "--crops", 0.5, "--output", tmp_path / "out"))
    assert "the task is classification" in message
    assert not (tmp_path / "out").exists()


def test_predict_agrees_with_the_model(small_run: Path, photos: Path, tmp_path: Path) -> None:
    call(predict_main, "--run", small_run, "--output", tmp_path, photos / "test" / "blue")
    entries = json.loads((tmp_path / "predictions.json").read_text())
    run = open_run(small_run)
    task = run.config.task.task()
    dataset = task.photos([Path(entry["file"]) for entry in entries], run.classes)
    examples = [dataset.evaluation(index) for index in range(len(dataset))]
    batch = {name: jnp.stack([jnp.asarray(example[name]) for example in examples]) for name in examples[0]}
    expected = task.predict(run.model, batch)["probabilities"]
    found = [[entry["probabilities"][name] for name in CLASSES] for entry in entries]
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("nowhere.png", None, "does not exist"),
        ("empty", "folder", "holds no photos"),
        ("damaged.png", b"\x89PNG\r\n\x1a\nnothing more", "damaged.png"),
    ],
)
def test_predict_names_what_it_cannot_read(
    small_run: Path, tmp_path: Path, name: str, content: bytes | str | None, part: str
) -> None:
    if content == "folder":
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    message = user_error(call(predict_main, "--run", small_run, "--output", tmp_path / "out", tmp_path / name))
    assert part in message
    assert name in message
    assert not (tmp_path / "out").exists()


# Export


@pytest.fixture(scope="module")
def finished(resnet_run: Path) -> FinishedRun:
    return open_run(resnet_run)


@pytest.fixture(scope="module")
def pixels_of_test(finished: FinishedRun) -> np.ndarray:
    _, validation = finished.config.task.task().datasets(finished.config.data, 0)
    return np.stack([validation.evaluation(index)["image"] for index in range(sum(TEST_EACH))])


@pytest.fixture(scope="module")
def logits(finished: FinishedRun, pixels_of_test: np.ndarray) -> np.ndarray:
    task = finished.config.task.task()
    assert isinstance(task, ClassificationTask)
    return np.asarray(task.logits(finished.model, jnp.asarray(pixels_of_test)))


@pytest.fixture(scope="module")
def exported(resnet_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in all formats."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, suffix in (("torch", "pth"), ("safetensors", "safetensors"), ("stablehlo", "stablehlo")):
        file = folder / f"model.{suffix}"
        result = call(export.main, "--run", resnet_run, "--format", kind, "--output", file)
        assert result.code == 0, result
        assert str(file) in result.out
    return folder


def test_torch_loads_the_export_strictly_and_agrees(
    exported: Path, finished: FinishedRun, pixels_of_test: np.ndarray, logits: np.ndarray
) -> None:
    network = torchvision.models.resnet18(num_classes=len(CLASSES))
    network.load_state_dict(torch.load(exported / "model.pth", weights_only=True), strict=True)
    network.eval()
    assert isinstance(finished.config.task, Classification)
    images = finished.config.task.images
    normalized = (pixels_of_test / 255 - np.array(images.mean)) / np.array(images.std)
    with torch.no_grad():
        theirs = network(torch.tensor(normalized.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    assert np.abs(logits).max() > 0.01
    np.testing.assert_allclose(theirs, logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())


def test_safetensors_hold_the_same(exported: Path) -> None:
    theirs = torch.load(exported / "model.pth", weights_only=True)
    ours = safetensors.numpy.load_file(exported / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name].numpy(), err_msg=name)
        assert array.dtype == theirs[name].numpy().dtype


@pytest.mark.parametrize("rows", [1, 10])
def test_stablehlo_gives_the_same_for_any_batch(
    exported: Path, pixels_of_test: np.ndarray, logits: np.ndarray, rows: int
) -> None:
    program = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    found = np.asarray(program.call(pixels_of_test[:rows]))
    np.testing.assert_allclose(found, logits[:rows], rtol=1e-4, atol=1e-5 * np.abs(logits).max())


def test_export_overwrites_nothing(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_text("mine")
    message = user_error(call(export.main, "--run", small_run, "--output", tmp_path / "model.pth"))
    assert "not overwritten" in message
    assert (tmp_path / "model.pth").read_text() == "mine"


@pytest.mark.parametrize(("kind", "name"), [("torch", "model.safetensors"), ("safetensors", "model.pth")])
def test_export_wants_a_name_that_fits_the_format(small_run: Path, tmp_path: Path, kind: str, name: str) -> None:
    message = user_error(call(export.main, "--run", small_run, "--format", kind, "--output", tmp_path / name))
    assert "do not go together" in message
    assert not list(tmp_path.iterdir())


# Dry run


def test_a_dry_run_shows_every_parameter_and_writes_nothing(two_phases: Path, tmp_path: Path) -> None:
    model = create_model("small", 3)
    write(to_torch(create_model("small", 7, rngs=nnx.Rngs(1))), tmp_path / "small.pth")
    before = sorted(tmp_path.rglob("*"))
    arguments = ("--pretrained.source", tmp_path / "small.pth", "--pretrained.skip", "fc", "--dry-run", "--full")
    result = call(train.main, "--config", two_phases, "--workdir", tmp_path / "run", *arguments)
    assert result.code == 0, result
    assert sorted(tmp_path.rglob("*")) == before

    first, second = result.out.split("2 epoch(s), 6 steps")
    assert "1 epoch(s), 3 steps" in first
    total = sum(value.size for value in values(model, nnx.Param).values())
    head = 8 * 3 + 3
    assert f"trained: {head:,} numbers  frozen: {total - head:,} numbers" in first
    assert f"trained: {total:,} numbers  frozen: 0 numbers" in second
    for path, _, _, variable in walk(model):
        shape = "x".join(map(str, variable.shape)) or "scalar"
        for phase in (first, second):
            (row,) = [line for line in phase.splitlines() if path in line.replace("│", " ").split()]
            cells: list[Any] = [cell.strip() for cell in row.strip("│┃| ").split("│")]
            assert shape in cells, row
            assert any(key in cells for key in (torch_name(path), "(new)"))
            assert ("(new)" in cells) == path.startswith("fc")
    (frozen,) = [line for line in first.splitlines() if "bn1.scale" in line]
    assert "frozen, running statistics" in frozen
    (trained,) = [line for line in second.splitlines() if "bn1.scale" in line]
    assert "trained, batch statistics" in trained
    assert "0.0005" in trained  # 0.05 * the phase's 0.1 * the rule's 0.1
    assert "0.0001" in trained  # the decay
    (kept,) = [line for line in first.splitlines() if "bn1.mean" in line]
    assert "kept" in kept


def test_the_head_goes_by_its_role_in_any_model(photos: Path, tmp_path: Path) -> None:
    """The recipe written for a ResNet's `fc` on a network whose head is a convolution, `classifier.1`."""
    write(to_torch(create_model("squeezenet1_1")), tmp_path / "squeezenet.pth")
    model = ("--model.name", "squeezenet1_1", "--pretrained.source", tmp_path / "squeezenet.pth")
    data = ("--data.root", photos, "--data.batch-size", 8)
    recipe = ("--config", ROOT / "configs" / "hotdog.py", "--workdir", tmp_path / "run", "--dry-run", "--full")
    result = call(train.main, *recipe, *data, *model)
    assert result.code == 0, result
    rows = [[cell.strip() for cell in line.strip("│┃| ").split("│")] for line in result.out.splitlines()]
    rates = {row[0]: (row[1] == "(new)", row[3]) for row in rows if row[0].endswith((".kernel", ".bias"))}
    assert {path for path, (new, rate) in rates.items() if new and rate == "0.1"} == {
        "classifier.1.kernel",
        "classifier.1.bias",
    }
    assert {(new, rate) for path, (new, rate) in rates.items() if not path.startswith("classifier")} == {
        (False, "0.01")
    }


def torch_name(path: str) -> str:
    owner, _, leaf = path.rpartition(".")
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return f"{owner}.{names.get(leaf, leaf)}"


def test_the_resolved_configuration_is_saved(small_run: Path) -> None:
    file = small_run / "config.json"
    assert from_json(file.read_text(), file).model.name == "small"
    assert json.loads((small_run / "classes.json").read_text()) == list(CLASSES)
