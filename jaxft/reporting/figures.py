"""The tables of an evaluation's details: as files, and on a terminal."""

import json
import math
from pathlib import Path

import rich.table
from rich.text import Text

from jaxft.errors import UserError
from jaxft.reporting.details import Cell, Details, Example, Table, to_csv, to_rows, worst_first

MOST = 30
"""Classes on a terminal at most."""
_JUDGING = ("AP", "F1", "R²")
"""The columns by which a class is worse than another; the first that there is."""


def write_tables(details: Details, folder: Path) -> list[str]:
    """Writes every table as `NAME.csv` and `NAME.json`, the confusion matrix and the examples among them, into a folder
    that is made where it is missing.

    Returns:
        The names.

    Raises:
        UserError: it cannot be written.
    """
    tables = [*details.tables, *([] if details.confusion is None else [details.confusion.table()])]
    if details.examples:
        tables.append(examples_table(details.examples))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables:
            (folder / f"{table.name}.csv").write_text(to_csv(table), encoding="utf-8")
            rows = json.dumps(to_rows(table), ensure_ascii=False, indent=2)
            (folder / f"{table.name}.json").write_text(rows + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); choose another --report.") from error
    return [table.name for table in tables]


def examples_table(examples: tuple[Example, ...]) -> Table:
    """A row an example, the most wrong first; what is not finite is more wrong than all else."""
    rows = [(one.name, one.truth, one.predicted, one.wrong, one.certainty) for one in worst_first(examples)]
    columns = ("file", "truth", "predicted", "wrong", "certainty")
    return Table(name="examples", title="Examples, the most wrong first", columns=columns, rows=tuple(rows))


def on_terminal(table: Table) -> rich.table.Table:
    """A table to be printed; of more than `MOST` rows the worst ones, worst first, and a caption that says so."""
    shown = rich.table.Table(title=Text(table.title))
    for number, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="left" if number == 0 else "right")
    rows = table.rows
    by = next((column for name in _JUDGING for column in table.columns if column == name or name in column.split()), "")
    if len(rows) > MOST and by:
        place = table.columns.index(by)
        rows = tuple(sorted(rows, key=lambda row: _number(row[place])))[:MOST]
        shown.caption = f"the {MOST} worst of {len(table.rows):,} by {by}; --report writes all of them"
    elif len(rows) > MOST:
        rows = rows[:MOST]
        shown.caption = f"the first {MOST} of {len(table.rows):,}; --report writes all of them"
    for row in rows:
        shown.add_row(*(Text(written(cell)) for cell in row))
    return shown


def _number(cell: Cell) -> float:
    """What a cell is sorted by: what is no number comes last."""
    return float(cell) if isinstance(cell, int | float) and not math.isnan(cell) else math.inf


def written(cell: Cell) -> str:
    """A cell for a person: four digits after the point, `-` for a figure that is not defined."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.4f}"
    return f"{cell:,}"
