"""A page of every kind of block, opened in a browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft.reporting.details import Confusion, Curve, Example, Object, Plot, Table
from jaxft.reporting.page import (
    Facts,
    Gallery,
    Matrix,
    Note,
    Page,
    Photo,
    Picture,
    Section,
    cell,
    embedded,
    embedded_overlay,
    plain,
    render,
)
from jaxft.reporting.page.plots import to_plotly
from tests.pages.opened import Opened

NASTY = """<b id=injected>"x"'</b></script><script>window.injected = 1</script>"""
LONG = "a class with a very long name " * 10
QUOTED = '/tmp/a "quoted" #1.jpg'
PIXELS = np.full((40, 60, 3), 90, np.uint8)


def everything() -> Page:
    source = embedded(PIXELS, 60)
    objects = (
        Object(label=NASTY, box=(5, 5, 30, 30), verdict="missed"),
        Object(label="cat", box=(8, 8, 30, 30), score=0.9, outline=((8, 8, 30, 8, 30, 30),)),
        Object(label="dog", box=(1, 1, 10, 10), score=0.4),
        Object(label=LONG, box=(1, 1, 12, 12), score=0.1),
    )
    examples = [
        Example(index=0, name=NASTY, truth="a", predicted="b", wrong=2.0, cells=((0, 1),), file=QUOTED),
        Example(index=1, name="without a picture", truth="a", predicted="b", wrong=1.0, cells=((0, 1),)),
    ]
    confusion = Confusion(
        truths=("a", NASTY, LONG), predictions=("a", NASTY, LONG), counts=((0, 2, 0), (0, 0, 0), (0, 0, 0))
    )
    overlay = embedded_overlay(np.full((4, 4, 4), 128, np.uint8))
    plot = Plot(
        name="p",
        title="Plot",
        x="x",
        y="y",
        curves=(
            Curve(label=NASTY, x=(1, 2), y=(float("nan"), 3)),
            Curve(label=LONG, x=(1, 2), y=(None, 3), kind="bars"),
        ),
        diagonal=True,
        lines=(1.5,),
    )
    table = Table(
        name="t", title="Table", columns=("name", "n"), rows=(("b", 2), (NASTY, float("nan")), ("a", 10), (LONG, 3))
    )
    blocks = (
        Facts({NASTY: NASTY, LONG: LONG, "long": "x" * 400}, "Facts"),
        Note(NASTY, NASTY, warning=True),
        Picture("Picture", source),
        table,
        plot,
        Matrix(confusion, examples, {0: source}),
        Gallery("Classified", [Photo(source, (NASTY, "is a"), True, "file:///x", over=overlay), Photo("", ("gone",))]),
        Gallery("Objects", [Photo(source, ("photo",), size=(60, 40), objects=objects)]),
    )
    return Page(NASTY, "everything", [Section("one", "One", blocks), Section("two", NASTY, [Note("x")])])


@pytest.mark.parametrize("width", [400, 1400])
def test_every_block_works_and_nothing_is_injected(browser: Any, width: int, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(render(everything()), encoding="utf-8")
    opened = Opened(browser, file, width)
    page = opened.page
    opened.scroll()
    assert opened.overflow <= 0
    assert page.evaluate("window.injected") is None
    assert opened.count("#injected") == 0
    assert page.locator("section").count() == 2
    assert page.locator(".plot .main-svg").count() >= 1
    # A cell of the confusion matrix
    page.click(".matrix td[data-cell='0,1'] button")
    assert page.locator(".chosen .photos figure").count() == 1
    assert page.locator(".chosen .photos a").get_attribute("href") == "file:///tmp/a%20%22quoted%22%20%231.jpg"
    assert page.locator(".chosen .links li").all_inner_texts() == ["without a picture"]
    # The slider: ground truth, and objects from its score on
    shown = page.locator(".gallery svg g")
    assert shown.count() == 3
    page.locator(".slider input").fill("0.05")
    assert shown.count() == 4
    page.locator(".slider input").fill("0.95")
    assert shown.count() == 1
    page.locator(".heat input").check()
    assert page.locator(".gallery.heated .over").count() == 1
    # A column that sorts, and the theme
    page.locator("table.sortable th").nth(1).click()
    order = page.locator("table.sortable td:nth-child(2)").all_inner_texts()
    assert order.index("2") < order.index("10")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert opened.said == []
    assert {address.partition(":")[0] for address in opened.requested} <= {"file", "data", "blob"}  # no network
    page.close()


def test_cells_are_words() -> None:
    assert [cell(value) for value in (None, 1234, 0.5, 12345.6, float("nan"), "<x>")] == [
        *("", "1,234", "0.5", "1.235e+04", "n/a", "<x>"),
    ]
    assert "</script" not in plain({"a": "</script>"})


def test_a_line_of_one_point_can_be_seen() -> None:
    curves = tuple(Curve(label="loss", x=tuple(range(count)), y=(1.0,) * count) for count in (1, 2))
    plotted = to_plotly(Plot(name="p", title="Plot", x="x", y="y", curves=curves))["data"]
    assert [trace["mode"] for trace in plotted] == ["markers", "lines"]
