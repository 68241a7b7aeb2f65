"""Which photos of an evaluation a page shows, and as what."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxft.errors import UserError
from jaxft.reporting.details import Example, worst_first
from jaxft.reporting.page import Photo, embedded, link_to

SHOWN = 24  # photos in a gallery
CELL = 8  # pictures of a cell of the confusion matrix
CELLS = 400  # pictures of all of them
SMALL, LARGE = 200, 640  # pixels of the longest side: of a classified photo, of one with objects
Photos = Callable[[Example], np.ndarray]
"""The photo of an example, uint8 `[H, W, 3]`; a UserError where it is gone or cannot be read."""


def of_cells(examples: Sequence[Example]) -> list[Example]:
    """Some of each cell of the confusion matrix, most wrong first, those off the diagonal before the others."""
    seen: dict[tuple[int, int], int] = {}
    chosen: dict[int, Example] = {}
    ordered = worst_first(examples)
    for diagonal in (False, True):
        for example in ordered:
            for cell in example.cells:
                if (cell[0] == cell[1]) is diagonal and seen.get(cell, 0) < CELL and len(chosen) < CELLS:
                    seen[cell] = seen.get(cell, 0) + 1
                    chosen[example.index] = example
    return list(chosen.values())


def galleries_of(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Which photos are shown, by title."""
    there = [each for each in examples if each.objects] or list(examples)
    worst = worst_first(there)[:SHOWN]
    galleries = {"Most wrong": worst}
    if any(each.certainty is not None for each in there):
        galleries["Least certain"] = sorted(there, key=lambda each: each.certainty or 0.0)[:SHOWN]
    some = np.random.default_rng(0).permutation(len(there))[:SHOWN]
    galleries["At random"] = [there[place] for place in some]
    return {title: chosen for title, chosen in galleries.items() if chosen}


class Shots:
    """Pictures of examples, each read once.

    Attributes:
        gone: names of examples whose photos cannot be read.
    """

    def __init__(self, photos: Photos | None, longest: int) -> None:
        self._photos, self._longest = photos, longest
        self._kept: dict[int, tuple[str, tuple[int, int]]] = {}
        self.gone: list[str] = []

    def _taken(self, example: Example) -> tuple[str, tuple[int, int]]:
        if self._photos is None:
            return "", (0, 0)
        if example.index not in self._kept:
            try:
                pixels = self._photos(example)
                self._kept[example.index] = embedded(pixels, self._longest), (pixels.shape[1], pixels.shape[0])
            except UserError:
                self.gone.append(example.name)
                self._kept[example.index] = "", (0, 0)
        return self._kept[example.index]

    def small(self, example: Example) -> str:
        """The picture alone."""
        return self._taken(example)[0]

    def photo(self, example: Example, over: Mapping[int, str]) -> Photo:
        """The picture with what is said of it."""
        source, size = self._taken(example)
        lines = (example.name, f"is {example.truth}", f"said {example.predicted}")
        wrong = any(row != column for row, column in example.cells)
        return Photo(source, lines, wrong, link_to(example.file), size, example.objects, over.get(example.index, ""))
