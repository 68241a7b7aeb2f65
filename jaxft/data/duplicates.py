"""Photos that are nearly the same, within a split and across splits: re-encoded, resized or mirrored copies, too.

Each photo gets a perceptual hash of 64 bits. Photos whose hashes differ in few bits are compared as small pictures, so
that two different photos with a like hash are no duplicates.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image, ImageOps

from jaxft.data.cores import on_all_cores
from jaxft.data.photo import ImageData, Photo
from jaxft.errors import UserError

MOST_BITS = 10
"""Bits in which the hashes of duplicates differ at most. Copies in half the quality and at 0.7 of the size differ in up
to 8; of a million pairs of different photos, each in four turns, none in less than 12."""
LEAST_CORRELATION = 0.7
"""Of two duplicates as small pictures. Copies are above 0.95, and the next photo of a burst at 0.71; nine in ten pairs
of others, whose hashes are nearly as close, below 0.6."""
FLAT = 2.0
"""Levels of 255: a photo that varies less has nothing to be told by, and is a duplicate of none."""
_SMALL, _SMALLER = 32, 16  # pixels: of what is hashed, and of what is compared
_DECODED = 64  # pixels of the shorter side that are enough to decode
_COMPARED = 2**22  # pairs of hashes at a time, on each core
_TURNS = (lambda image: image, ImageOps.mirror, ImageOps.flip, lambda image: ImageOps.mirror(ImageOps.flip(image)))
HOW = ("", "mirrored", "upside down, mirrored", "upside down")
"""In words, what makes the second photo of a pair the first."""


class Member(NamedTuple):
    """A photo of a group: its split, its position in it, and how it is turned against the first one (see `HOW`)."""

    split: str
    position: int
    how: str = ""


@dataclass(frozen=True)
class Looks:
    """What photos are told apart by.

    Attributes:
        hashes: uint64 `[N, 4]`, of the photo as it is and turned as `HOW` says.
        pictures: float32 `[N, 16, 16]`, gray, of the mean 0 and the length 1; zeros where there is nothing to compare.
    """

    hashes: np.ndarray
    pictures: np.ndarray


def find_duplicates(splits: Mapping[str, Sequence[ImageData]]) -> list[tuple[Member, ...]]:
    """Groups of photos that are nearly the same, in the order of their first members.

    A file that a split lists several times counts once in it. What cannot be read is a duplicate of none.

    Args:
        splits: the photos by the name of their split.
    """
    places: list[Member] = []
    images: list[ImageData] = []
    for split, listed in splits.items():
        once = {image if not isinstance(image, np.ndarray) else index: index for index, image in enumerate(listed)}
        for index in sorted(once.values()):
            places.append(Member(split, index))
            images.append(listed[index])
    seen = look(images)
    return [
        tuple(places[index]._replace(how=HOW[turn]) for index, turn in group.items())
        for group in _groups(near_pairs(seen))
    ]


def look(images: Sequence[ImageData]) -> Looks:
    """Hashes and small pictures of photos, which are decoded no larger than needed, on all cores."""
    found = on_all_cores(_look, images, "comparing photos")
    hashes = np.array([bits for bits, _ in found], np.uint64).reshape(-1, len(_TURNS))
    return Looks(hashes, np.array([picture for _, picture in found], np.float32).reshape(-1, _SMALLER, _SMALLER))


def _look(image: ImageData) -> tuple[list[int], np.ndarray]:
    try:
        photo = Photo(image)
        pixels, _ = photo.pixels(max_shrink=min(photo.width, photo.height) / _DECODED)
    except UserError:
        return [0] * len(_TURNS), np.zeros((_SMALLER, _SMALLER), np.float32)
    small = cv2.resize(pixels, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
    gray = Image.fromarray(small).convert("L")
    hashes = [int(str(imagehash.phash(turn(gray))), 16) for turn in _TURNS]
    picture = cv2.resize(np.asarray(gray), (_SMALLER, _SMALLER), interpolation=cv2.INTER_AREA).astype(np.float32)
    picture -= picture.mean()
    if picture.std() < FLAT:
        return hashes, np.zeros_like(picture)
    return hashes, picture / np.linalg.norm(picture)


class Pair(NamedTuple):
    """Two photos, the second of which is nearly the first when it is turned as `HOW[turn]` says."""

    first: int
    second: int
    turn: int


def near_pairs(looks: Looks) -> list[Pair]:
    """The pairs of photos that are nearly the same, in order; of several turns the one that fits best. Each is compared
    with each, so that ten times the photos take a hundred times as long."""
    there = np.flatnonzero(looks.pictures.any(axis=(1, 2)))
    hashes, rows = looks.hashes[there], max(_COMPARED // max(len(there), 1), 1)

    def beside(start: int) -> dict[tuple[int, int], tuple[float, int]]:
        """How much alike, and turned how, each near pair is whose first photo is one of some rows."""
        best = dict[tuple[int, int], tuple[float, int]]()
        for turn in range(len(_TURNS)):
            apart = np.bitwise_count(hashes[start : start + rows, :1] ^ hashes[None, start:, turn])
            first, second = (there[start + found] for found in np.nonzero(apart <= MOST_BITS))
            later = second > first
            first, second = first[later], second[later]
            alike = (looks.pictures[first] * _turned(looks.pictures[second], turn)).sum(axis=(1, 2))
            for one, other, much in zip(first.tolist(), second.tolist(), alike.tolist(), strict=True):
                if much >= LEAST_CORRELATION:
                    best[one, other] = max((much, -turn), best.get((one, other), (0.0, 0)))
        return best

    found = on_all_cores(beside, range(0, len(there), rows), "looking for photos that are nearly the same")
    pairs = {pair: how for block in found for pair, how in block.items()}
    return [Pair(*pair, -turn) for pair, (_, turn) in sorted(pairs.items())]


def _turned(pictures: np.ndarray, turn: int) -> np.ndarray:
    """Pictures `[N, H, W]` turned as the hash of that position is."""
    down, across = (slice(None, None, -1 if on else 1) for on in (turn >= 2, turn % 2 == 1))
    return pictures[:, down, across]


def _groups(pairs: Sequence[Pair]) -> list[dict[int, int]]:
    """What hangs together by pairs: by the position of a photo, its turn against the first one of its group."""
    beside: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for first, second, turn in pairs:
        beside[first].append((second, turn))
        beside[second].append((first, turn))
    groups: list[dict[int, int]] = []
    reached: set[int] = set()
    for start in sorted(beside):
        if start in reached:
            continue
        group, todo = {start: 0}, [start]
        for here in todo:
            for other, turn in beside[here]:
                if other not in group:
                    group[other] = group[here] ^ turn  # mirrored twice is not mirrored
                    todo.append(other)
        reached |= group.keys()
        groups.append(dict(sorted(group.items())))
    return groups
