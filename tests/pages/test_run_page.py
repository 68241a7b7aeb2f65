"""The page of a run, and of several."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from jaxft import train
from jaxft.pages.making import report_of
from jaxft.pages.photos import galleries_of, of_cells
from jaxft.report import main as report_main
from jaxft.reporting.details import Example
from jaxft.run import RunDirectory
from tests.pages.opened import Opened
from tests.small import CLASSES, TEST_EACH, call

pytest_plugins = ("tests.runs",)

SECTIONS = ["run", "data", "weights", "curves", "results", "photos", "next"]


@pytest.fixture(scope="module")
def finished(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run that may be changed, with a page."""
    run = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(small_run, run)
    result = call(report_main, "--run", run)
    assert result.code == 0, result
    assert "report.html" in result.out
    return run


def test_a_runs_page_has_every_section(finished: Path, browser: Any) -> None:
    opened = Opened(browser, finished / "report.html", 1400)
    opened.scroll()
    page = opened.page
    assert [section.get_attribute("id") for section in page.locator("section").all()] == SECTIONS
    text = page.locator("main").inner_text()
    assert "Small" in text or "small" in text
    evaluations = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    best = max(line["accuracy"] for line in evaluations if line["split"] == "validation")
    assert f"best accuracy {best:.4f}" in page.locator(".subtitle").inner_text()
    cells = [int(each) for each in page.locator(".matrix td button").all_inner_texts()]
    assert sum(cells) == sum(TEST_EACH)
    page.locator(".matrix td button").first.click()
    assert page.locator(".chosen figure img").count() == cells[0]
    assert page.locator(".gallery .over").count() > 0
    assert page.locator("#photos figure").count() == 3 * sum(TEST_EACH)
    assert opened.said == []
    page.close()


def test_what_was_changed_in_the_parent_configuration_is_listed(config_file: Path, tmp_path: Path) -> None:
    child = config_file.with_name("child.py")
    child.write_text(
        "from configs.small import config as parent\nfrom jaxft.config import replace\n\n"
        'config = replace(parent, {"optimizer.learning_rate": 0.0625})\n'
    )
    run = tmp_path / "run"
    result = call(train.main, "--config", child, "--workdir", run, "--seed", 4, "--report", "plain")
    assert result.code == 0, result
    changed = json.loads((run / "beginning.json").read_text())["changed"]
    assert changed.keys() == {"optimizer.learning_rate", "seed", "report"}
    assert changed["seed"] == [0, 4]
    assert changed["optimizer.learning_rate"][1] == 0.0625
    page = (run / "report.html").read_text()
    assert re.search(r"parent configuration.*optimizer\.learning_rate.*0\.0625.*seed", page, re.DOTALL)


def test_runs_side_by_side(finished: Path, small_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"seed": 7}))
    file = tmp_path / "page.html"
    result = call(report_main, "--compare", finished, other, "--output", file)
    assert result.code == 0, result
    text = file.read_text()
    for said in ("2 runs", "<td>seed</td>", "say different things of 0 of 10", "validation: accuracy"):
        assert said in text
    refused = call(report_main, "--compare", finished)
    assert refused.code == 2
    assert "at least two" in refused.err
    nothing = call(report_main)
    assert nothing.code == 2
    assert "--run" in nothing.err


def test_a_page_is_made_of_whatever_there_is(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    # A kill in the middle of a line, a damaged file, photos that are gone
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[: text.rindex("{") + 9])
    (run / "beginning.json").write_text("{")
    config = json.loads((run / "config.json").read_text())
    config["data"]["root"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config))
    assert call(report_main, "--run", run).code == 0
    page = (run / "report.html").read_text()
    assert "beginning.json does not say how a run began" in page
    assert 'id="results"' in page
    assert "The photos cannot be shown: " in page
    assert "of these photos are gone: " in page
    # Nothing but a configuration yet
    for name in ("metrics.jsonl", "evaluation.json.gz", "beginning.json"):
        (run / name).unlink()
    assert call(report_main, "--run", run).code == 0
    assert "holds no metrics yet" in (run / "report.html").read_text()
    (run / "evaluation.json.gz").write_bytes(b"no gzip")
    assert call(report_main, "--run", run).code == 0
    assert "evaluation.json.gz cannot be read" in (run / "report.html").read_text()


def test_photos_that_are_gone_are_named(finished: Path, photos: Path, tmp_path: Path) -> None:
    run, root = tmp_path / "run", tmp_path / "photos"
    shutil.copytree(finished, run)
    shutil.copytree(photos, root)
    config = json.loads((run / "config.json").read_text())
    config["data"]["root"] = str(root)
    (run / "config.json").write_text(json.dumps(config))
    lost = sorted((root / "test" / CLASSES[0]).iterdir())[0]
    lost.unlink()  # so that all others move
    assert call(report_main, "--run", run, "--how", "photos").code == 0
    page = (run / "report.html").read_text()
    assert f"1 of these photos are gone: {lost.parent.name}/{lost.name}" in page
    assert page.count('<div class="gone">') == 3  # in each gallery, and no other photo in its place


def test_a_run_that_was_stopped_gets_no_page(tmp_path: Path) -> None:
    for fitted in (
        SimpleNamespace(config=SimpleNamespace(report="none"), complete=True),
        SimpleNamespace(config=SimpleNamespace(report="full"), complete=False),
    ):
        report_of(cast(Any, fitted), Console())
    result = call(report_main, "--run", tmp_path)
    assert result.code == 2
    assert "not a whole run directory" in result.err


def test_the_most_wrong_of_each_cell_are_shown() -> None:
    cells = ((0, 0), (0, 1), (1, 1))
    shared = {"truth": "a", "predicted": "b"}
    examples = [
        Example(index=i, name=f"{i}", wrong=float(i % 50), cells=(cells[i % 3],), certainty=i / 150, **shared)
        for i in range(150)
    ]
    chosen = of_cells(examples)
    assert len(chosen) == 24
    assert all(each.cells == ((0, 1),) for each in chosen[:8])
    assert chosen[0].wrong == max(each.wrong for each in examples if each.cells == ((0, 1),))
    galleries = galleries_of(examples)
    assert list(galleries) == ["Most wrong", "Least certain", "At random"]
    assert [each.index for each in galleries["Least certain"][:2]] == [0, 1]
    assert RunDirectory(Path("x")).page_file == Path("x/report.html")
