"""Fixtures for the tests of detection's commands, a pytest plugin: photos with objects, a small detector's run."""

from pathlib import Path

import pytest

from jaxft import train
from tests.scenes import TRAIN_COUNTS, write_coco, write_config
from tests.small import call


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 5 test photos of 64 x 48 pixels. Not to be changed."""
    root = tmp_path_factory.mktemp("scenes")
    write_coco(root, TRAIN_COUNTS, "train")
    write_coco(root, (2, 0, 3, 1, 1), "test", seed=1)
    return root


@pytest.fixture(scope="session")
def detector_config(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of the small detector, from scratch."""
    return write_config(tmp_path_factory.mktemp("finder") / "configs" / "finder.py", scenes)


@pytest.fixture(scope="session")
def detector_run(detector_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run. Not to be changed."""
    run = tmp_path_factory.mktemp("finder_run") / "run"
    result = call(train.main, "--config", detector_config, "--workdir", run)
    assert result.code == 0, result
    assert "12 photos, 28 boxes" in result.out
    assert "boxes of each class: disc" in result.out
    assert "the limit of 5 objects a photo drops" in result.out
    return run
