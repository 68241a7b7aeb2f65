"""The details of an evaluation as plain data: tasks make them of predictions; pages, terminals and files show them."""

import csv
import io
import math
from collections.abc import Collection, Iterable
from typing import Annotated, Literal, TypeVar

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.errors import UserError

T = TypeVar("T")
Cell = str | int | float | None
"""A cell of a table; None is empty, NaN a figure that the examples do not define."""
Kind = Literal["lines", "faint", "markers", "points", "star", "bars"]
"""How a curve is drawn: as a line (a faint one is thin), as markers, as points (markers on a line), as a star, or as
bars that stand on the axis."""
PLAIN = pydantic.ConfigDict(extra="forbid", ser_json_inf_nan="constants")


def printable(name: str) -> str:
    """A name of a file as text that can be written: what is no UTF-8 in it is replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


Text = Annotated[str, pydantic.AfterValidator(printable)]


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Table:
    """A table with a name for its file, such as `classes`."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Curve:
    """Points of a plot, `x` and `y` of one length."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    kind: Kind = "lines"


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Plot:
    """Curves over one axis. `diagonal` adds the line on which both axes are equal, `lines` some from bottom to top."""

    name: str
    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    diagonal: bool = False
    lines: tuple[float, ...] = ()
    unit_square: bool = False
    """Both axes go from 0 to 1."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Confusion:
    """How often each truth (rows) is taken for what (columns)."""

    truths: tuple[str, ...]
    predictions: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def table(self) -> Table:
        """With the names of the truths in the first column."""
        rows: list[tuple[Cell, ...]] = [(truth, *row) for truth, row in zip(self.truths, self.counts, strict=True)]
        return Table(name="confusion", title="Confusion", columns=("truth", *self.predictions), rows=tuple(rows))


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Object:
    """An object in a photo, in pixels of the photo as it is stored.

    Attributes:
        score: None of the ground truth.
        box: left, top, right, bottom.
        outline: polygons of its mask, x and y in turn.
        verdict: what it is to the ground truth, such as right, duplicate, background, missed.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float | None = None
    outline: tuple[tuple[float, ...], ...] = ()
    verdict: str = ""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Example:
    """An example of the split, and what the model says of it.

    Attributes:
        index: its position in the dataset.
        name: as `Dataset.names` has it, without the ground truth.
        truth, predicted: in words, or numbers.
        file: the photo's path; empty where it has none.
        wrong: how wrong the prediction is, such as its loss; the larger the worse.
        certainty: 0..1; None where the task has none.
        cells: rows and columns of `Details.confusion` in which it counts.
    """

    index: int
    name: Text
    truth: Text
    predicted: Text
    wrong: float
    certainty: float | None = None
    cells: tuple[tuple[int, int], ...] = ()
    file: Text = ""
    objects: tuple[Object, ...] = ()


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Details:
    """All that an evaluation says beyond its metrics.

    Attributes:
        tables: `classes`, a row a class, first where there are classes.
        examples: all of them, or where each is long, those that are shown.
    """

    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    confusion: Confusion | None = None
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Evaluation:
    """An evaluation of a run as its directory keeps it."""

    step: int
    epoch: int
    split: str
    examples: int
    metrics: dict[str, float]
    details: Details


ADAPTER = pydantic.TypeAdapter(Evaluation)


def whole(names: Collection[str]) -> list[str]:
    """The names of figures of all classes, or of a group of them (GROUP/NAME), and not of a single class (NAME/CLASS),
    which may be many."""
    return [name for name in names if "/" not in name or name.partition("/")[2] in names]


def worst_first(examples: Iterable[Example]) -> list[Example]:
    """The most wrong example first; what is not finite is more wrong than all else."""
    return sorted(examples, key=lambda each: -each.wrong if math.isfinite(each.wrong) else -math.inf)


def to_json(evaluation: Evaluation) -> bytes:
    """As JSON; NaN is written as such."""
    return ADAPTER.dump_json(evaluation)


def from_json(content: bytes, where: str) -> Evaluation:
    """The inverse of `to_json`.

    Raises:
        UserError: `content`, from the file `where`, is not that.
    """
    return validated(
        ADAPTER, content, f"{where} is not an evaluation of this version; `jaxft evaluate` makes another one."
    )


def validated(adapter: pydantic.TypeAdapter[T], content: bytes, complaint: str) -> T:
    """What JSON means; raises a UserError with the complaint where it is not that."""
    try:
        return adapter.validate_json(content)
    except pydantic.ValidationError as error:
        raise UserError(complaint) from error


def to_csv(table: Table) -> str:
    """A table as CSV with a line of column names; figures that are not defined are empty."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(["" if cell is None or cell != cell else cell for cell in row] for row in table.rows)
    return written.getvalue()


def to_rows(table: Table) -> list[dict[str, Cell]]:
    """A table as plain values for JSON: a dictionary a row; figures that are not finite are None."""
    return [
        {
            column: None if isinstance(cell, float) and not math.isfinite(cell) else cell
            for column, cell in zip(table.columns, row, strict=True)
        }
        for row in table.rows
    ]
