"""Every file in configs/ runs, shrunk; those of detection in test_detection_configs.py."""

from pathlib import Path

import pytest
import torch
import torchvision

from tests.small import CLASSES, ROOT, execute, lines

pytest_plugins = ("tests.runs",)

DETECTION = ("*rcnn*.py", "gfl*.py", "retinanet*.py")  # of test_detection_configs.py
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("[!_]*.py") if not any(path.match(pattern) for pattern in DETECTION)
)
SHRUNK = ["--images.crop", "32", "--images.resize", "36", "--phases.0.epochs", "1", "--log-every", "1"]


@pytest.fixture(scope="session")
def resnet18_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's ResNet-18 for 1,000 classes, not trained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_runs(config: Path, photos: Path, resnet18_weights: Path, tmp_path: Path) -> None:
    arguments: list[object] = [*SHRUNK]
    if config.stem == "digits":
        arguments += ["--data.batch-size", 256]
    else:
        arguments += ["--data.batch-size", 8, "--data.root", photos]
    if config.stem == "hotdog":
        arguments += ["--pretrained.source", resnet18_weights]
    run = tmp_path / "run"
    result = execute("jaxft.train", "--config", config, "--workdir", run, *arguments)
    assert result.code == 0, result
    steps = 1438 // 256 if config.stem == "digits" else 24 // 8

    entries = lines(run)
    assert [entry["step"] for entry in entries if entry["split"] == "train"] == list(range(1, steps + 1))
    assert [entry["step"] for entry in entries if entry["split"] == "test"] == [steps]
    for entry in entries:
        assert {"step", "epoch", "split", "loss", "accuracy"} <= entry.keys()
        assert 0 <= entry["accuracy"] <= 1
    assert (run / "config.json").is_file()
    classes = [str(digit) for digit in range(10)] if config.stem == "digits" else list(CLASSES)
    assert all(f'"{name}"' in (run / "classes.json").read_text() for name in classes)
    assert [path.name for path in (run / "checkpoints" / "last").iterdir()] == [str(steps)]
    assert [path.name for path in (run / "checkpoints" / "best").iterdir()] == [str(steps)]
    assert {path.name for path in (run / "pictures").iterdir()} == {"learning_curves.png", "predictions.png"}
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert "test: " in result.out


def test_there_are_configurations() -> None:
    assert {"digits", "hotdog", "hotdog_lite0", "hotdog_scratch"} <= {file.stem for file in CONFIGS}
