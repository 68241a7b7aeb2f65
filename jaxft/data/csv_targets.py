"""A folder of images and a CSV file of their targets: numbers, or labels of which an image may have several.

The file has a header. Its first column, `file`, names a photo; each other column is a target:

    file,height,weight          file,cat,dog          file,labels
    001.jpg,1.81,75.5           001.jpg,1,0           001.jpg,cat
    002.jpg,1.64,61             002.jpg,1,1           002.jpg,cat;dog

The third form is for labels alone. In it labels are separated by `;` or `|`, or, in a file that has neither, by spaces.
A cell that is one of the classes that are asked for is that label, whatever it contains.
"""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.problems import check_photos, refuse
from jaxft.data.shared import Packed
from jaxft.data.source import Example
from jaxft.errors import UserError
from jaxft.fields import Check

FILE, LABELS = "file", "labels"


class TargetSource:
    """Photos with a target of each name.

    Args:
        photos: the folder that `files` are relative to.
        classes: names of the targets.
        targets: float32 `[files, classes]`.

    Attributes:
        check_how: what `check` does.
    """

    check_how: Check = "full"

    def __init__(self, photos: Path, classes: tuple[str, ...], files: Sequence[str], targets: np.ndarray) -> None:
        self.photos, self.classes, self.targets = photos, classes, targets
        self.files: Sequence[str] = tuple(files)
        self._checked = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"files": Packed(self.files)}  # which worker processes share

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(self.photos / self.files[index], self.targets[index], self.files[index])

    def check(self) -> None:
        """Looks at every photo; see `jaxft.data.problems.check_photos`."""
        if not self._checked:  # two parts of one file are checked once
            check_photos([self.photos / name for name in self.files], self.photos, self.check_how)
        self._checked = True


def read_numbers(file: Path, photos: Path, classes: tuple[str, ...] = (), complete: bool = False) -> TargetSource:
    """Targets that are numbers.

    Args:
        file: the CSV file, UTF-8.
        photos: the folder that its file names are relative to; photos are not opened.
        classes: the columns to read, in this order; the others are left out. Empty for all.
        complete: whether a column that `classes` does not name is an error.

    Raises:
        UserError: the file is missing or no such CSV, a column is missing, a target is missing or no number, or a photo
            is listed twice or does not exist; up to 20 problems are named with their line and column.
    """
    return _columns(_read(file, photos), photos, classes, complete, _number)


def read_labels(file: Path, photos: Path, classes: tuple[str, ...] = (), complete: bool = False) -> TargetSource:
    """Labels: a column each with 1 where an image has it and 0 where it does not, or one column `labels`.

    Arguments and errors are those of `read_numbers`. The classes of a column `labels` are those that occur, sorted;
    others than `classes`, where they are given, are an error, but not all of them need to occur.
    """
    table = _read(file, photos)
    if LABELS not in table.columns:
        return _columns(table, photos, classes, complete, _zero_or_one)
    if len(table.columns) > 1:
        raise UserError(
            f"{file}: beside the column {LABELS!r}, which lists an image's labels, it has others "
            f"({', '.join(name for name in table.columns if name != LABELS)}); leave one or the other out."
        )
    cells = [line.cells[0] for line in table.lines]
    separator = "[;|]" if any(";" in cell or "|" in cell for cell in cells) else r"\s"
    found = [
        {cell} if cell in classes else {name.strip() for name in re.split(separator, cell)} - {""} for cell in cells
    ]
    names = classes or tuple(sorted(set().union(*found)))
    if not names:
        raise UserError(f"{file} has no label in its column {LABELS!r}, so there is nothing to learn.")
    if classes:
        table.problems.extend(
            f"line {line.number}, column {LABELS!r}: {unknown!r} is none of the classes {', '.join(classes)}"
            for line, labels in zip(table.lines, found, strict=True)
            for unknown in sorted(labels - set(classes))
        )
    refuse(str(file), table.problems)
    targets = np.array([[name in labels for name in names] for labels in found], np.float32)
    return TargetSource(photos, names, [line.file for line in table.lines], targets)


class _Line(NamedTuple):
    """A photo; `cells` are those of the columns after the first."""

    number: int
    file: str
    cells: tuple[str, ...]


class _Table(NamedTuple):
    """What is in a file: names of the columns after the first, a line a photo, and what is wrong with lines."""

    file: Path
    columns: tuple[str, ...]
    lines: list[_Line]
    problems: list[str]


class _Wrong(ValueError):
    """Says what is wrong with a cell."""


def _columns(
    table: _Table, photos: Path, classes: tuple[str, ...], complete: bool, value: Callable[[str], float]
) -> TargetSource:
    """A table whose columns are the targets, by `value` from text to number."""
    names = classes or table.columns
    there = set(table.columns)
    if there != set(names) if complete else not there.issuperset(names):
        raise UserError(
            f"{table.file} has the columns {', '.join(table.columns)}, but {', '.join(names)} are expected; every "
            "split, the run and --data.classes must use the same names."
        )
    places = [table.columns.index(name) for name in names]
    targets = np.zeros((len(table.lines), len(names)), np.float32)
    problems = []
    for row, line in enumerate(table.lines):
        for column, place in enumerate(places):
            try:
                targets[row, column] = value(line.cells[place])
            except _Wrong as error:
                problems.append(f"line {line.number}, column {names[column]!r}: {error}")
    refuse(str(table.file), table.problems + problems)
    return TargetSource(photos, names, [line.file for line in table.lines], targets)


def _read(file: Path, photos: Path) -> _Table:
    """The cells of a file, without the blanks around them.

    Raises:
        UserError: there is no such file, it is no CSV in UTF-8, or its header is not of the form that is expected.
    """
    records = _records(file)
    if not records:
        raise UserError(f"{file} is empty; expected a header such as '{FILE},TARGET' and a line for each photo.")
    (number, header), lines, problems = records[0], list[_Line](), list[str]()
    _check_header(f"{file}, line {number}", header)
    seen: dict[str, int] = {}
    for number, cells in records[1:]:
        if len(cells) != len(header):
            problems.append(f"line {number} has {len(cells)} cell(s), but there are {len(header)} columns")
            continue
        name = os.path.normpath(cells[0]) if cells[0] else ""
        if problem := _file_problem(name, photos, seen):
            problems.append(f"line {number}, column {FILE!r}: {problem}")
        seen.setdefault(name, number)
        lines.append(_Line(number, name, tuple(cells[1:])))
    if not lines and not problems:
        raise UserError(f"{file} lists no photos; expected a line for each after the header.")
    return _Table(file, tuple(header[1:]), lines, problems)


def _records(file: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number in the file, from 1."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except FileNotFoundError as error:
        raise UserError(f"There is no CSV file {file}; check --data.root and --data.annotation-file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8 ({error.reason}); save it as 'CSV UTF-8'.") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as CSV: {error}.") from error


def _check_header(where: str, header: Sequence[str]) -> None:
    if header[0] != FILE:
        raise UserError(
            f"{where}: its first column is called {header[0]!r}, but {FILE!r} is expected, the name of a photo; "
            "the first line is a header, and its columns are separated by commas."
        )
    if len(header) == 1:
        raise UserError(f"{where}: it has no column but {FILE!r}; expected one for each target.")
    if "" in header:
        raise UserError(f"{where}: column {header.index('') + 1} has no name; every target needs one.")
    if twice := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{where}: it has two columns {twice[0]!r}; every target needs a name of its own.")


def _file_problem(name: str, photos: Path, seen: Mapping[str, int]) -> str | None:
    if not name:
        return "is empty; every line needs the name of a photo"
    if name in seen:
        return f"{name} is listed in line {seen[name]} already"
    if not os.path.isfile(photos / name):
        return f"the photo {photos / name} does not exist"
    return None


def _number(cell: str) -> float:
    if not cell:
        raise _Wrong("is empty; every photo needs every target")
    try:
        value = float(cell)
    except ValueError as error:
        raise _Wrong(f"{cell!r} is no number") from error
    if "_" in cell:  # which Python takes for a separator of digits
        raise _Wrong(f"{cell!r} is no number")
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise _Wrong(f"{cell!r} is not a finite number of 32 bits")
    return value


def _zero_or_one(cell: str) -> float:
    value = _number(cell)
    if value not in (0, 1):
        raise _Wrong(f"{cell!r} is neither 0 nor 1")
    return value
