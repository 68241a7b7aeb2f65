"""A folder of images, one sub-folder a class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.problems import check_photos
from jaxft.data.shared import Packed
from jaxft.data.source import Example
from jaxft.errors import UserError
from jaxft.fields import Check

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's list
_SPLITS = {"train", "val", "valid", "validation", "test"}


class ImageFolder:
    """Labelled images under `root`, one sub-folder a class.

    Classes are the sub-folders' sorted names, and the files are found and ordered as torchvision's `ImageFolder` does:
    by suffix, recursively, so labels and positions agree. Other files (`.DS_Store`, `.txt`) are ignored. Unlike there,
    the EXIF orientation is applied (see `Photo`).

    Attributes:
        root: the folder.
        classes: names of the classes, in the order of the labels.
    """

    def __init__(self, root: Path, classes: tuple[str, ...] | None = None, check_how: Check = "full") -> None:
        """List the files; none is opened.

        Args:
            root: the folder of one split, such as `photos/train`.
            classes: those that must be there, so that two splits number them alike; None takes what is found.
            check_how: what `check` does.

        Raises:
            UserError: the folder is missing, has no, only one, or other classes than asked for, or a class is empty.
        """
        self.root = Path(root)
        self.classes = _find_classes(self.root)
        if classes is not None and classes != self.classes:
            raise UserError(
                f"{self.root} has the classes {', '.join(self.classes)}, but {', '.join(classes)} were expected; "
                "every split needs one sub-folder for each class, under the same names."
            )
        files = [_find_images(self.root, name) for name in self.classes]
        empty = [name for name, found in zip(self.classes, files, strict=True) if not found]
        if empty:
            raise UserError(
                f"No images were found in {self.root} for: {', '.join(empty)}; add files ({' '.join(SUFFIXES)}) "
                "or remove the sub-folder."
            )
        self._files: Sequence[str] = tuple(path for found in files for path in found)
        self._labels = np.repeat(np.arange(len(files)), [len(found) for found in files])
        self._check_how, self._checked = check_how, False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": Packed(self._files)}  # which worker processes share

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        name = self._files[index]
        return Example(self.root / name, int(self._labels[index]), name)

    def check(self) -> None:
        """Look at every file, so that a bad one is found before training; see `jaxft.data.photo_check.stored_sizes`.

        Raises:
            UserError: some files are empty, truncated, corrupt, too large, or no images; up to 20 are named.
        """
        if self._checked:  # two parts of one folder are checked once
            return
        check_photos([self.root / name for name in self._files], self.root, self._check_how)
        self._checked = True


def _find_classes(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise UserError(f"There is no folder {root}; expected one with a sub-folder of images for each class.")
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not classes:
        raise UserError(f"{root} has no sub-folders; expected one sub-folder of images for each class.")
    if set(classes) <= _SPLITS:
        raise UserError(f"{root} holds splits ({', '.join(classes)}), not classes; choose one: {root / classes[0]}.")
    if len(classes) == 1:
        raise UserError(f"{root} has only one class, {classes[0]}; a classifier needs at least two sub-folders.")
    return classes


def _find_images(root: Path, folder: str) -> list[str]:
    """The images in a folder below `root`, relative to `root`."""
    found: list[str] = []
    # os.walk and this sort give torchvision's order, which follows links and sorts by folder, then by file name.
    for parent, _, names in sorted(os.walk(root / folder, followlinks=True)):
        below = os.path.relpath(parent, root)
        found += [os.path.join(below, name) for name in sorted(names) if name.lower().endswith(SUFFIXES)]
    return found
