"""Wrong starts of detection's commands are explained, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jaxft import train
from tests.scenes import copied, with_content
from tests.small import call, user_error

pytest_plugins = ("tests.runs", "tests.detector_runs")


CASES: dict[str, tuple[Callable[[Path], object], tuple[object, ...], list[str]]] = {
    "a missing photo": (lambda root: (root / "photos" / "train4.png").unlink(), (), ["train4.png does not exist"]),
    "not JSON": (
        lambda root: (root / "annotations" / "instances_test.json").write_text('{"images": ['),
        (),
        ["instances_test.json is not JSON", "line 1"],
    ),
    "an image twice": (with_content(lambda c: c["images"].append(c["images"][2])), (), ["train2.png", "listed twice"]),
    "a reversed box": (
        with_content(lambda c: c["annotations"][3].update(bbox=[30, 30, -5, 5])),
        (),
        ["instances_train.json", "annotation 4", "reversed"],
    ),
    "other classes in the test split": (
        with_content(lambda c: c["categories"][0].update(name="ring"), "test"),
        (),
        ["instances_test.json has the classes ring, square", "disc, square are expected"],
    ),
    "no file": (lambda root: None, ("--data.train", "nowhere"), ["instances_nowhere.json"]),
    "a photo larger than the pad shape": (
        lambda root: None,
        ("--task.pad-shapes", 32, 32),
        ["train0.png", "fits into none of the pad shapes 32 x 32"],
    ),
    "nothing but photos without objects": (
        with_content(lambda c: c["annotations"].clear()),
        ("--task.no-keep-empty",),
        ["has no photo to train on"],
    ),
    "a classifier": (
        lambda root: None,
        ("--model.name", "small"),
        ["is a classifier (Small)", "the task is detection"],
    ),
    "a batch larger than the data": (lambda root: None, ("--data.batch-size", 14), ["A batch of 14"]),
    "masks of VOC": (
        lambda root: None,
        ("--data.source", "voc", "--task.masks"),
        ["'voc' has no masks"],
    ),
    "a wrong class count": (lambda root: None, ("--model.num-classes", 80), ["is 80", "2 classes disc, square"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_start_is_explained_and_writes_nothing(
    name: str, scenes: Path, detector_config: Path, tmp_path: Path
) -> None:
    change, arguments, parts = CASES[name]
    root = copied(scenes, tmp_path)
    change(root)
    run = tmp_path / "run"
    message = user_error(
        call(train.main, "--config", detector_config, "--workdir", run, "--data.root", root, *arguments)
    )
    assert not [part for part in parts if part not in message], message
    assert not run.exists()


def test_a_detector_wants_objects(config_file: Path, tmp_path: Path) -> None:
    arguments = ("--config", config_file, "--workdir", tmp_path / "run", "--model.name", "finder")
    assert "is a detector (Finder)" in user_error(call(train.main, *arguments))
