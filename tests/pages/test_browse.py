"""The page about data, before anything is trained on them and after."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from jaxft import browse
from tests.pages.opened import Opened
from tests.scenes import TRAIN_COUNTS, write_coco
from tests.scenes import write_config as write_scenes
from tests.small import CLASSES, call, user_error, write_config

pytest_plugins = ("tests.runs",)


@pytest.fixture(scope="module")
def odd(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of the small folder with a mirrored test photo, one of another class, and a broken photo whose
    name has quotes and HTML in it."""
    root = tmp_path_factory.mktemp("odd") / "photos"
    shutil.copytree(photos, root)
    first = Image.open(root / "train" / "blue" / "00.jpg")
    ImageOps.mirror(first).save(root / "test" / "blue" / "copy.jpg", quality=60)
    Image.open(root / "train" / "red" / "01.png").save(root / "train" / "green" / "other.jpg")
    (root / "train" / "red" / "\"<b onclick='x'>&.png").write_bytes(b"no photo")
    return write_config(root.parent / "configs" / "odd.py", root)


def opened(browser: Any, file: Path, width: int = 1400) -> Opened:
    page = Opened(browser, file, width)
    page.scroll()
    return page


def test_what_is_odd_is_said_and_shown(odd: Path, browser: Any, tmp_path: Path) -> None:
    result = call(browse.main, "--config", odd, "--output", tmp_path / "page.html")
    assert result.code == 0, result
    for line in (
        "train: Photos that cannot be used: 1",
        "Nearly the same photo with different ground truth: 1 groups.",
        "Photos in several splits: 1 groups.",
    ):
        assert line in result.out
    for width in (400, 1400):
        page = opened(browser, tmp_path / "page.html", width)
        ids = [section.get_attribute("id") for section in page.page.locator("section").all()]
        assert ids == ["split-1", "split-2", "duplicates", "fed"]
        duplicates = page.page.locator("#duplicates figure").all_inner_texts()
        assert any("mirrored" in text and "copy.jpg" in text for text in duplicates)
        assert page.page.locator("#duplicates figure img").count() == 4
        assert page.page.locator("#fed figure img").count() >= 23
        text = page.page.locator("#split-1").inner_text()
        assert "\"<b onclick='x'>&.png" in text
        assert page.page.locator("b").count() == 0
        assert page.said == []
        page.page.close()


def test_objects_are_drawn_without_a_slider(browser: Any, tmp_path: Path) -> None:
    write_coco(tmp_path / "scenes", TRAIN_COUNTS, "train")
    write_coco(tmp_path / "scenes", (1, 0), "test", seed=1)
    config = write_scenes(tmp_path / "configs" / "scenes.py", tmp_path / "scenes")
    result = call(browse.main, "--config", config, "--output", tmp_path / "page.html", "--data.holdout", 0.25)
    assert result.code == 0, result
    page = opened(browser, tmp_path / "page.html")
    assert "train (held out): 3 examples" in page.page.locator("main").inner_text()
    assert page.page.locator("#fed svg g").count() > 5
    assert page.page.locator(".slider").count() == 0
    assert page.said == []
    page.page.close()


def test_a_run_says_which_labels_are_suspicious(
    config_file: Path, small_run: Path, browser: Any, tmp_path: Path
) -> None:
    result = call(browse.main, "--config", config_file, "--run", small_run, "--output", tmp_path / "page.html")
    assert result.code == 0, result
    page = opened(browser, tmp_path / "page.html")
    labels = page.page.locator("#labels figure").all_inner_texts()
    assert labels
    assert all(any(f"is {name}" in text for name in CLASSES) and "the model says" in text for text in labels)
    page.page.close()
    bare = tmp_path / "bare"
    shutil.copytree(small_run, bare)
    (bare / "evaluation.json.gz").unlink()
    message = user_error(call(browse.main, "--config", config_file, "--run", bare, "--output", tmp_path / "page.html"))
    assert "has no evaluation yet" in message


def test_what_cannot_be_written_is_said(config_file: Path, tmp_path: Path) -> None:
    assert "is a folder" in user_error(call(browse.main, "--config", config_file, "--output", tmp_path))
    message = user_error(call(browse.main, "--config", config_file, "--data.root", tmp_path / "nowhere"))
    assert "nowhere" in message
