"""What a split holds before anything is trained, and what is odd in it, as plain data: tasks make it, pages show it."""

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic.dataclasses import dataclass

from jaxft.reporting.details import PLAIN, Curve, Example, Plot, Table

SHOWN = 24
"""Examples that a remark shows at most."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Remark:
    """Something in a split that a person should look at.

    Attributes:
        name: a word for it, such as `tiny`.
        title: a sentence without its full stop.
        count: how many examples it concerns; 0 where it concerns the split as a whole.
        examples: the first, or the most striking, `SHOWN` of them.
    """

    name: str
    title: str
    count: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Survey:
    """A split as its annotations and the headers of its photos show it.

    Attributes:
        truths: what each example is, in words.
        tables: `classes` first, a row a class, or `targets`, a row a target.
    """

    truths: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    remarks: tuple[Remark, ...] = ()


def remark(name: str, title: str, examples: Sequence[Example]) -> list[Remark]:
    """A remark on examples; none where there are none."""
    if not examples:
        return []
    return [Remark(name=name, title=title, count=len(examples), examples=tuple(examples[:SHOWN]))]


def unbalanced(names: Sequence[str], counts: Sequence[int], what: str) -> list[Remark]:
    """Remarks on classes that have no example, or ten times as many as another one.

    Args:
        what: is counted, such as `examples`.
    """
    found = dict(zip(names, counts, strict=True))
    none = [name for name, count in found.items() if not count]
    remarks = [Remark(name="empty", title=f"Without {what}: {', '.join(none)}")] if none else []
    some = {name: count for name, count in found.items() if count}
    if some and max(some.values()) >= 10 * min(some.values()):
        most, least = max(some, key=some.__getitem__), min(some, key=some.__getitem__)
        title = f"{most} has {some[most]:,} {what}, {least} only {some[least]:,}"
        remarks.append(Remark(name="unbalanced", title=title))
    return remarks


def histogram(name: str, title: str, label: str, values: Iterable[float], what: str, *, whole: bool = False) -> Plot:
    """How often numbers occur, as bars.

    Args:
        label: of the horizontal axis.
        what: is counted, such as `photos`.
        whole: the numbers are whole, and few of them get a bar each.
    """
    numbers = np.asarray(list(values), np.float64)
    if whole:
        top = int(numbers.max(initial=0))
        width = top // 30 + 1
        edges = np.arange(0, top + width + 1, width) - 0.5
    else:
        edges = np.histogram_bin_edges(numbers, 30)
    heights, _ = np.histogram(numbers, edges)
    middles = (edges[1:] + edges[:-1]) / 2
    bars = Curve(label=what, x=tuple(middles.tolist()), y=tuple(heights.tolist()), kind="bars")
    return Plot(name=name, title=title, x=label, y=what, curves=(bars,))
