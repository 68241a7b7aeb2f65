"""PASCAL VOC's XML of photos and objects.

VOC counts pixels from 1, and its corners are the first and the last pixel of an object. Boxes here are MMDetection's
(`XMLDataset`): whole numbers, cut off after the point, minus 1, so that the `bbox` x, y, width, height of an entry of
`Annotated.truth` is xmin - 1, ymin - 1, xmax - xmin, ymax - ymin. MMDetection's `VOCMetric` compares such corners by
VOC's rule, which adds the last pixel again: an intersection from x0 to x1 is x1 - x0 + 1 wide.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from jaxft.data.problems import refuse
from jaxft.errors import UserError
from jaxft.tasks.detection.objects import Annotated, Entry, ObjectSource, box_problem, file_size, gather

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
Row = tuple[tuple[float, ...], str, bool, float]
Thing = tuple[str, tuple[float, ...], bool]  # class, corners as they stand, difficult


def read_voc(root: Path, split: str, classes: tuple[str, ...] = ()) -> ObjectSource:
    """Read one split: `root/ImageSets/Main/SPLIT.txt` names the photos, `root/Annotations` has an XML file for each.

    Difficult objects are to be ignored.

    Args:
        classes: names in the order of the labels; objects of other names are an error. Empty for all names that the
            split has, sorted.

    Raises:
        UserError: the split or a file is missing, a photo is named twice, an XML file is broken or lacks an element, a
            box is reversed or outside its photo, or an object is of another class.
    """
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"There is no list of the split, {listing}; check --data.root and the split.") from error
    stems = [words[0] for words in lines if words]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []:
        raise UserError(f"{listing}: the image {twice[0]} is listed twice.")
    problems: list[str] = []
    found = [_read(root, stem, problems) for stem in stems]
    refuse(str(root / "Annotations"), problems)
    names = classes or tuple(sorted({name for *_, things in found for name, _, _ in things}))
    if not names:
        raise UserError(f"No object is annotated in the split {split!r} of {root}, so there is nothing to find.")
    problems = [
        f"{stem}.xml: an object is of the class {name!r}, but only {', '.join(names)} are expected"
        for stem, (_, _, rows, *_) in zip(stems, found, strict=True)
        for name in dict.fromkeys(row[1] for row in rows)
        if name not in names
    ]
    refuse(str(root / "Annotations"), problems)
    ids = count(1)
    examples = tuple(
        Annotated(
            image=file,
            width=size[0],
            height=size[1],
            objects=gather([(box, names.index(name), hard, area) for box, name, hard, area in rows], ()),
            number=number,
            name=file.name,
            truth=_truth(number, things, names, ids),
        )
        for number, (file, size, rows, _, _, things) in enumerate(found, 1)
    )
    outside, flat = sum(entry[3] for entry in found), sum(entry[4] for entry in found)
    return ObjectSource(str(listing), names, examples, outside, flat, tuple(range(1, len(names) + 1)))


def _truth(number: int, things: list[Thing], names: tuple[str, ...], ids: Iterator[int]) -> tuple[Entry, ...]:
    """Every object of photo `number` in COCO's form, with `difficult`; category ids count the names from 1."""
    return tuple(
        {
            "id": next(ids),
            "image_id": number,
            "category_id": names.index(name) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
            "difficult": int(difficult),
        }
        for name, (x0, y0, x1, y1), difficult in things
    )


def _read(root: Path, stem: str, problems: list[str]) -> tuple[Path, tuple[int, int], list[Row], int, int, list[Thing]]:
    """The photo of one XML file, its width and height, its objects, and how many boxes were clipped or left out."""
    file, photo = root / "Annotations" / f"{stem}.xml", root / "JPEGImages" / f"{stem}.jpg"
    rows: list[Row] = []
    things: list[Thing] = []
    outside = flat = 0
    try:
        tree = ET.parse(file).getroot()
        photo = photo.with_name(tree.findtext("filename") or photo.name)
        if not photo.is_file():
            photo = photo.with_name(f"{stem}.jpg")
        width, height = _size(tree) or file_size(photo)
        for number, element in enumerate(tree.iter("object"), 1):
            name, corners = element.findtext("name"), [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
            if name is None or None in corners:
                problems.append(f"{file.name}: object {number} has no name or no whole bndbox")
                continue
            x0, y0, x1, y1 = (float(corner or "") for corner in corners)
            box = (int(x0) - 1, int(y0) - 1, int(x1) - 1, int(y1) - 1)
            if problem := box_problem(box, width, height):
                problems.append(f"{file.name}: object {number} ({name}) {problem}")
                continue
            difficult = (element.findtext("difficult") or "0").strip() == "1"
            things.append((name.strip(), box, difficult))
            clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height))
            if clipped[2] - clipped[0] < 1 or clipped[3] - clipped[1] < 1:
                flat += 1
                continue
            outside += clipped != box
            area = (box[2] - box[0]) * (box[3] - box[1])
            rows.append((clipped, name.strip(), difficult, area))
        return photo, (width, height), rows, outside, flat, things
    except FileNotFoundError:
        problems.append(f"{file.name} does not exist, but the split names {stem}")
    except ET.ParseError as error:
        problems.append(f"{file.name} is broken in line {error.position[0]}, column {error.position[1]}: {error.msg}")
    except UserError as error:
        problems.append(f"{file.name}: {error}")
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read ({error})")
    return photo, (0, 0), [], 0, 0, []


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """What the file says of the photo's width and height; some say nothing or 0."""
    width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    return (width, height) if width > 0 and height > 0 else None
