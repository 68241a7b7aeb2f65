"""Which photo belongs to an annotation of PASCAL VOC."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxft.data.folder import SUFFIXES


def find_photos(folder: Path, stems: Sequence[str], filenames: Sequence[str | None], problems: list[str]) -> list[Path]:
    """The photo of each annotation of a split.

    It is the one of the annotation's own name, as everybody reads VOC: annotations that were copied and renamed often
    still name the first photo. Only where there is none, it is the one that the annotation names, if that is nobody
    else's in the split. Of several with the same name and other suffixes it is the named one, or else the JPEG.

    Args:
        stems: the names of the annotations.
        filenames: what each annotation says itself.
        problems: takes a sentence for each annotation without a photo.
    """
    there = _photos(folder)
    owned = [there.get(stem, []) for stem in stems]
    names = {name for group in there.values() for name in group}
    claims = [photo for photos in owned for photo in photos]
    claims += [name for photos, name in zip(owned, filenames, strict=True) if not photos and name in names]
    taken = {name for name, count in Counter(claims).items() if count > 1}
    return [
        folder / _photo(folder, stem, photos, name, name in names, taken, problems)
        for stem, photos, name in zip(stems, owned, filenames, strict=True)
    ]


def _photo(
    folder: Path, stem: str, photos: list[str], named: str | None, exists: bool, taken: set[str], problems: list[str]
) -> str:
    jpegs = [photo for photo in photos if photo.lower().endswith((".jpg", ".jpeg"))]
    for some in (photos, [photo for photo in photos if photo == named], jpegs):
        if len(some) == 1:
            return some[0]
    if photos:
        problems.append(f"{stem}.xml has several photos in {folder}, {', '.join(photos)}; leave one")
    elif named is not None and exists and named not in taken:
        return named
    elif exists:
        problems.append(
            f"{stem}.xml has no photo of its name in {folder}, and {named}, which it names, is another annotation's"
        )
    else:
        problems.append(f"{stem}.xml has no photo in {folder}: {stem} and {', '.join(SUFFIXES)} were looked for")
    return f"{stem}.jpg"


def _photos(folder: Path) -> dict[str, list[str]]:
    """The photos below a folder by their names without the suffix."""
    found: dict[str, list[str]] = {}
    for name in sorted(_files(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            found.setdefault(stem, []).append(name)
    return found


def _files(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        below = os.path.relpath(parent, folder)
        yield from (name if below == "." else f"{below}/{name}" for name in names)
