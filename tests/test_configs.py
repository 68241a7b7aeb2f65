"""Every file in configs/ of classification makes a plan, and runs, shrunk; the others are tested elsewhere."""

from pathlib import Path

import pytest
import torch
import torchvision

from jaxft import create_model, save, train
from tests.small import CLASSES, ROOT, call, lines

pytest_plugins = ("tests.runs",)

ELSEWHERE = ("*rcnn*.py", "gfl*.py", "retinanet*.py", "shapes*.py")  # in test_{detection,shapes}_configs.py
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("[!_]*.py") if not any(path.match(pattern) for pattern in ELSEWHERE)
)
SHRUNK = ["--task.images.crop", "32", "--task.images.resize", "36", "--phases.0.epochs", "1", "--log-every", "1"]


@pytest.fixture(scope="session")
def resnet18_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's ResNet-18 for 1,000 classes, not trained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


def arguments(config: Path, photos: Path, weights: Path) -> list[object]:
    """Small photos in large batches, and weights that need no download."""
    if config.stem == "digits_distilled":
        teacher = weights.with_name("teacher.safetensors")
        save(create_model("squeezenet1_1", 10), teacher, classes=[str(digit) for digit in range(10)])
        return [*SHRUNK, "--data.batch-size", 512, "--distillation.teacher", teacher]
    if config.stem == "digits":
        return [*SHRUNK, "--data.batch-size", 512]
    source = ["--pretrained.source", weights] if config.stem == "hotdog" else []
    return [*SHRUNK, "--data.batch-size", 8, "--data.root", photos, *source]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_makes_a_plan(config: Path, photos: Path, resnet18_weights: Path, tmp_path: Path) -> None:
    """Its weights, its data and its rules fit its network."""
    run = tmp_path / "run"
    result = call(
        train.main, "--config", config, "--workdir", run, "--dry-run", *arguments(config, photos, resnet18_weights)
    )
    assert result.code == 0, result
    assert not run.exists()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=config.stem, marks=[] if config.stem in ("digits", "hotdog") else pytest.mark.slow)
        for config in CONFIGS
    ],
)
def test_a_configuration_runs(config: Path, photos: Path, resnet18_weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = arguments(config, photos, resnet18_weights)
    result = call(train.main, "--config", config, "--workdir", run, *options)
    assert result.code == 0, result
    digits = config.stem.startswith("digits")
    steps = 1438 // 512 if digits else 24 // 8

    entries = lines(run)
    assert [entry["step"] for entry in entries if entry["split"] == "train"] == list(range(1, steps + 1))
    assert [entry["step"] for entry in entries if entry["split"] == "validation"] == [steps]
    for entry in entries:
        assert {"step", "epoch", "split", "loss", "accuracy"} <= entry.keys()
        assert 0 <= entry["accuracy"] <= 1
    assert (run / "config.json").is_file()
    classes = [str(digit) for digit in range(10)] if digits else list(CLASSES)
    assert all(f'"{name}"' in (run / "classes.json").read_text() for name in classes)
    assert [path.name for path in (run / "checkpoints" / "last").iterdir()] == [str(steps)]
    assert [path.name for path in (run / "checkpoints" / "best").iterdir()] == [str(steps)]
    assert {path.name for path in (run / "pictures").iterdir()} == {
        "inputs.png",
        "learning_curves.png",
        "predictions.png",
    }
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert "validation: " in result.out


def test_there_are_configurations() -> None:
    assert {"digits", "hotdog", "hotdog_lite0", "hotdog_scratch"} <= {file.stem for file in CONFIGS}
