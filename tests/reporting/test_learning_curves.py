"""The picture of learning curves: what is in it, over epochs."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxft.reporting.details import Curve, Plot
from jaxft.reporting.history import History
from jaxft.reporting.learning_curves import draw_learning_curves, draw_plot, learning_plots

TRAIN = [
    {"step": step, "split": "train", "loss": 1 / step, "loss_cls": 0.5 / step, "loss_bbox": 0.5 / step,
     "learning_rate": 0.1}
    for step in range(1, 31)
]  # fmt: skip
VALIDATION = [
    {"step": 10 * epoch, "split": "validation", "mAP": value} for epoch, value in enumerate((0.2, 0.5, 0.4), 1)
]


def test_what_is_drawn() -> None:
    plots = {plot.name: plot for plot in learning_plots(History(TRAIN, VALIDATION), "mAP", greater=True)}
    assert list(plots) == ["loss", "metric", "parts", "rate"]
    assert [curve.kind for curve in plots["loss"].curves] == ["faint", "lines"]
    best = plots["metric"].curves[1]
    assert (best.kind, best.x, best.y) == ("star", (20,), (0.5,))
    assert [curve.label for curve in plots["parts"].curves] == ["loss_cls", "loss_bbox"]
    alone = learning_plots(History(TRAIN[:1], []), "mAP", greater=True)
    assert [plot.name for plot in alone] == ["loss", "parts", "rate"]


@pytest.mark.parametrize(("history", "size"), [(History(TRAIN, VALIDATION), (2, 2)), (History([], []), (1, 1))])
def test_the_picture_has_room_for_all(history: History, size: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "new" / "curves.png"
    draw_learning_curves(history, "mAP", file, greater=True, steps_per_epoch=10, phases=(10, 30))
    with Image.open(file) as picture:
        assert picture.size == tuple(
            round(inches * count * 110) for inches, count in zip((5.4, 3.7), size, strict=True)
        )


def test_epochs_are_on_the_axis_and_phases_are_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("jaxft.reporting.learning_curves.save", lambda figure, _: drawn.append(figure))
    draw_learning_curves(
        History(TRAIN, VALIDATION), "mAP", tmp_path / "x.png", greater=True, steps_per_epoch=10, phases=(10, 30, 60)
    )
    axes = drawn[0].axes[0]
    assert axes.get_xlabel() == "epoch (10 steps each)"
    assert axes.lines[0].get_xdata()[-1] == 3
    assert [note.get_text() for note in axes.texts] == [" phase 2"]  # the third one has not begun
    assert axes.get_yscale() == "log"  # 1 to 1/30


def test_a_curve_with_gaps_and_formulas_in_its_name_is_drawn() -> None:
    axes = Figure().subplots()
    lines = (Curve(label="$x^{", x=(1, 2), y=(None, 0.5)), Curve(label="b" * 80, x=(1,), y=(0.0,)))
    draw_plot(axes, Plot(name="a", title="$", x="step", y="loss", curves=lines))
    axes.figure.canvas.draw()
    assert axes.get_yscale() == "linear"
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()[1].get_text()) == 40
