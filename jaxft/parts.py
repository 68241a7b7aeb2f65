"""What a split is made of where it says so itself: a tree of files, repeated, balanced and joined.

The wrappers mean what MMEngine's and MMDetection's data sets of those names do: `Repeat` is `RepeatDataset`,
`ClassBalanced` is `ClassBalancedDataset`, `Concat` is `ConcatDataset`. They are about training: an evaluation takes
each photo of a part once.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Files:
    """The photos of one annotation file."""

    type: Literal["files"] = "files"
    source: Literal["coco", "voc"] | None = None
    """None takes `data.source`."""
    root: str = "."
    """The folder of this part, below `data.root` unless it is absolute."""
    annotation_file: str
    """coco: the JSON file; voc: the list of photos, ImageSets/Main/NAME.txt. Below root unless it is absolute."""
    image_folder: str = "."
    """coco: the folder of the photos, below root unless it is absolute."""
    keep_empty: bool = True
    """Whether photos without objects are taken."""
    min_side: int = pydantic.Field(default=0, ge=0)
    """Photos with a shorter side, pixels, are left out."""
    min_box_side: int = pydantic.Field(default=0, ge=0)
    """Objects narrower or lower than this, pixels, are neither to be found nor background in training."""
    indices: int | tuple[int, ...] | None = None
    """Of what is left: the first so many photos, the last where negative, or those at these positions, in this
    order."""

    @property
    def below_root(self) -> bool:
        """Whether something of it is looked for below `data.root`."""
        inner = self.annotation_file if self.source == "voc" else self.image_folder
        paths = Path(self.root).expanduser(), Path(self.annotation_file), Path(inner)
        return not (paths[0].is_absolute() or all(path.is_absolute() for path in paths[1:]))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Repeat:
    """Every photo of a part several times in an epoch."""

    type: Literal["repeat"] = "repeat"
    times: int = pydantic.Field(ge=1)
    part: "Part"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassBalanced:
    """Photos with rare classes several times in an epoch."""

    type: Literal["class_balanced"] = "class_balanced"
    oversample_threshold: float = pydantic.Field(gt=0)
    """A class that a smaller share of the photos has is rare."""
    part: "Part"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Concat:
    """One part after the other; all have the same classes."""

    type: Literal["concat"] = "concat"
    parts: Annotated[tuple["Part", ...], pydantic.Field(min_length=1)]


Part = Annotated[Files | Repeat | ClassBalanced | Concat, pydantic.Field(discriminator="type")]


def class_range(name: str) -> slice | None:
    """Which of a file's classes `0:40`, `40:` or `:40` among the names of classes means; None of a name."""
    found = re.fullmatch(r"(\d*):(\d*)", name)
    return slice(*(int(number) if number else None for number in found.groups())) if found else None


def files_of(part: Part) -> tuple[Files, ...]:
    """The files at the leaves of a part, in their order."""
    match part:
        case Files():
            return (part,)
        case Concat():
            return tuple(files for inner in part.parts for files in files_of(inner))
    return files_of(part.part)


for _kind in (Repeat, ClassBalanced, Concat):
    pydantic.dataclasses.rebuild_dataclass(_kind)  # type: ignore[arg-type]
