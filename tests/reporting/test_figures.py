"""An evaluation's tables as files and on a terminal."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from jaxft.errors import UserError
from jaxft.reporting.details import Confusion, Details, Example, Table
from jaxft.reporting.figures import MOST, on_terminal, write_tables

CLASSES = Table(
    name="classes",
    title="Classes",
    columns=("class", "F1", "examples"),
    rows=(("a, [b]", 0.5, 1200), ("c", math.nan, 0)),
)


def printed(table: Table) -> str:
    text = io.StringIO()
    Console(file=text, width=100).print(on_terminal(table))
    return text.getvalue()


def test_every_table_is_written_as_csv_and_json(tmp_path: Path) -> None:
    examples = tuple(
        Example(index=index, name=f"{index}.jpg", truth="c", predicted="c", wrong=wrong)
        for index, wrong in enumerate((0.5, math.nan, 2.0))
    )
    confusion = Confusion(truths=("a", "c"), predictions=("a", "c"), counts=((1, 2), (3, 4)))
    details = Details(tables=(CLASSES,), confusion=confusion, examples=examples)
    assert write_tables(details, tmp_path / "new" / "report") == ["classes", "confusion", "examples"]
    folder = tmp_path / "new" / "report"
    assert {file.name for file in folder.iterdir()} == {
        f"{name}.{kind}" for name in ("classes", "confusion", "examples") for kind in ("csv", "json")
    }
    with (folder / "classes.csv").open(newline="") as text:
        assert list(csv.reader(text)) == [["class", "F1", "examples"], ["a, [b]", "0.5", "1200"], ["c", "", "0"]]
    assert json.loads((folder / "classes.json").read_text())[1] == {"class": "c", "F1": None, "examples": 0}
    assert json.loads((folder / "confusion.json").read_text())[1] == {"truth": "c", "a": 3, "c": 4}
    assert [row["file"] for row in json.loads((folder / "examples.json").read_text())] == ["1.jpg", "2.jpg", "0.jpg"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --report"):
        write_tables(Details(tables=(CLASSES,)), tmp_path / "file")


def test_a_small_table_is_printed_whole_and_as_it_is() -> None:
    text = printed(CLASSES)
    assert "a, [b]" in text
    assert "0.5000" in text
    assert "1,200" in text
    assert "worst" not in text


def test_of_many_classes_the_worst_are_printed() -> None:
    rows = tuple((f"class {number}", math.nan if number == 0 else number / 100, number) for number in range(100))
    text = printed(Table(name="classes", title="Classes", columns=("class", "AP", "examples"), rows=rows))
    assert f"the {MOST} worst of 100 by AP" in text
    assert text.index("class 1 ") < text.index("class 2 ") < text.index(f"class {MOST} ")
    assert "class 0 " not in text
    assert f"class {MOST + 1} " not in text
