"""Plots as Plotly's data and layout; the page's script adds the colors of its theme."""

import html
import math
from typing import Any

from jaxft.reporting.details import Curve, Plot

KINDS: dict[str, dict[str, Any]] = {
    "lines": {"mode": "lines", "line": {"width": 2}},
    "faint": {"mode": "lines", "line": {"width": 1}, "opacity": 0.35},
    "markers": {"mode": "markers", "marker": {"size": 7, "opacity": 0.8}},
    "points": {"mode": "lines+markers", "line": {"width": 2}, "marker": {"size": 6}},
    "star": {"mode": "markers", "marker": {"size": 14, "symbol": "star"}},
}

LONGEST = 40  # letters of a label


def to_plotly(plot: Plot) -> dict[str, Any]:
    """`data` and `layout`."""
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": _text(plot.x)}, "automargin": True},
        "yaxis": {"title": {"text": _text(plot.y)}, "automargin": True},
        "showlegend": len(plot.curves) > 1,
        "bargap": 0.05,
    }
    if plot.unit_square:
        layout["xaxis"]["range"] = layout["yaxis"]["range"] = [-0.02, 1.02]
    if plot.diagonal:
        layout["shapes"] = [_diagonal(plot)]
    layout["shapes"] = [*layout.get("shapes", ()), *map(_boundary, plot.lines)]
    return {"data": [_trace(curve) for curve in plot.curves], "layout": layout}


def _trace(curve: Curve) -> dict[str, Any]:
    shared = {"name": _text(curve.label), "x": list(map(_finite, curve.x)), "y": list(map(_finite, curve.y))}
    if curve.kind == "bars":
        return {"type": "bar", "opacity": 0.6, **shared}
    kind = "markers" if curve.kind == "lines" and len(curve.x) == 1 else curve.kind  # a line needs two points
    return {"type": "scatter", **KINDS[kind], **shared}


def _text(label: str) -> str:
    """A label as text alone: Plotly takes some of HTML for what it means, and gives a long one the plot's room."""
    half = LONGEST // 2
    return html.escape(label if len(label) <= LONGEST else f"{label[: half - 1]}…{label[-half:]}", quote=False)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _diagonal(plot: Plot) -> dict[str, Any]:
    found = (_finite(value) for curve in plot.curves for value in (*curve.x, *curve.y))
    values = [value for value in found if value is not None]
    low, high = (0.0, 1.0) if plot.unit_square else (min(values, default=0.0), max(values, default=1.0))
    ends = {"x0": low, "y0": low, "x1": high, "y1": high}
    return {"type": "line", "layer": "below", "line": {"dash": "dash", "width": 1}, **ends}


def _boundary(place: float) -> dict[str, Any]:
    """A line from bottom to top."""
    return {
        "type": "line",
        "x0": place,
        "x1": place,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"dash": "dot", "width": 1},
    }
