"""Fixtures for the tests of the commands, a pytest plugin: one folder of photos and one run of each kind a session."""

from pathlib import Path

import pytest

from jaxft import train
from tests.small import CLASSES, HEAD_ALONE, TEST_EACH, TRAIN_EACH, TWO_PHASES, call, paint, write_config


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 10 test photos of some 40 pixels in three classes. Not to be changed."""
    root = tmp_path_factory.mktemp("photos")
    for seed, (split, counts) in enumerate({"train": TRAIN_EACH, "test": TEST_EACH}.items()):
        for label, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            paint(root / split / name, count, label, seed)
    return root


@pytest.fixture(scope="session")
def config_file(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of three steps on the small network, from scratch."""
    return write_config(tmp_path_factory.mktemp("small") / "configs" / "small.py", photos)


@pytest.fixture(scope="session")
def two_phases(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of the head alone, then two of everything."""
    return write_config(tmp_path_factory.mktemp("phases") / "configs" / "phases.py", photos, phases=TWO_PHASES)


@pytest.fixture(scope="session")
def small_run(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of `config_file` on the small network. Not to be changed."""
    run = tmp_path_factory.mktemp("small_run") / "run"
    result = call(train.main, "--config", config_file, "--workdir", run)
    assert result.code == 0, result
    return run


@pytest.fixture(scope="session")
def resnet_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the head of ResNet-18 at 32 pixels. Not to be changed."""
    folder = tmp_path_factory.mktemp("resnet")
    config = write_config(folder / "configs" / "resnet.py", photos, model="resnet18", phases=HEAD_ALONE)
    result = call(train.main, "--config", config, "--workdir", folder / "run")
    assert result.code == 0, result
    return folder / "run"
