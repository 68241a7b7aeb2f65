"""Annotation files with anything at any place, for `test_generated_files.py`: `python -m ... COUNT`.

Each is read within 2 GB; what can be read is filled in and reported. Only a UserError may be raised.
"""

import copy
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxft.errors import UserError
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.report import describe
from jaxft.tasks.detection.scene import bitmaps
from jaxft.tasks.detection.voc import read_voc
from tests.scenes import run_lengths, write_voc
from tests.tasks.detection.test_coco_fields import CONTENT

LIMIT = 2 * 2**30
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([0, -1, 1e8, -1e9, 1e12, 2**31, 2**63, 10**400, 0.5, float("nan"), float("inf"), 1e-300]),
    st.integers(),
    st.floats(),
)
TEXTS = st.one_of(st.sampled_from(["", "0", "1", "false", "a.jpg", "\x00", "../x", "é", "PPP", "NaN"]), st.text())
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OUTLINES = st.one_of(
    st.lists(st.lists(NUMBERS, max_size=8), max_size=3),
    st.fixed_dictionaries(
        {"size": st.just([48, 64]) | st.lists(NUMBERS, max_size=3), "counts": st.lists(NUMBERS, max_size=4) | TEXTS}
    ),
    st.fixed_dictionaries({"size": st.just([48, 64]), "counts": st.text("0123456789PQRSTUabcdefo", max_size=12)}),
)


def core() -> dict[str, Any]:
    """A file that is right, with outlines of both kinds."""
    content = copy.deepcopy(CONTENT)
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 4:24] = 1
    content["annotations"][1] |= {"segmentation": run_lengths(mask), "iscrowd": 1}
    return content


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@st.composite
def coco_files(draw: st.DrawFn) -> Any:
    content: Any = core()
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(places(content)[1:] or [(0,)]))
        place = content
        for key in path:
            place = place[key]
        how = draw(st.sampled_from(["value", "value", "number", "outline", "drop", "twice"]))
        if how == "drop":
            del place[last]
        elif how == "twice" and isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
        else:
            place[last] = draw({"number": NUMBERS, "outline": OUTLINES}.get(how, VALUES))
    return content


def use(read: Callable[[], ObjectSource]) -> None:
    """Reads a file; where that is possible, what was read must be of use."""
    try:
        source = read()
    except UserError:
        return
    describe(source, 100, ((64, 64),), np.zeros(len(source), np.int32), 1)
    for example in source.examples:
        objects = example.objects
        assert np.isfinite(objects.boxes).all()
        assert (objects.boxes >= 0).all()
        assert (objects.boxes <= np.array([example.width, example.height] * 2)).all()
        assert (objects.labels >= 0).all()
        assert (objects.labels < len(source.classes)).all()
        for shape in objects.shapes:
            assert bitmaps((shape,), example.height, example.width).max(initial=0) <= 1


def main(count: int) -> None:
    """Reads so many COCO files, texts, and VOC folders."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    folder = Path(tempfile.mkdtemp())
    chosen = settings(
        max_examples=count,
        deadline=5000,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @chosen
    @given(coco_files(), st.booleans())
    def coco(content: Any, masks: bool) -> None:
        file = folder / "annotations.json"
        file.write_text(json.dumps(content) if len(repr(content)) < 10**6 else "{}", errors="replace")
        use(lambda: read_coco(file, folder, masks=masks))

    @chosen
    @given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
    def anything(content: bytes) -> None:
        file = folder / "annotations.json"
        file.write_bytes(content)
        use(lambda: read_coco(file, folder, masks=True))

    root = write_voc(folder, {"a": [("disc", 0, (2, 2, 10, 20))], "b": [("square", 1, (5, 5, 30, 30))]})
    file, listing = root / "Annotations" / "a.xml", root / "ImageSets" / "Main" / "train.txt"
    right = file.read_text()
    parts = [">2<", ">10<", ">20<", ">0<", ">disc<", ">a.jpg<", ">40<", "<bndbox>", "</object>", "<size>", "<name>"]
    new = NUMBERS.map(lambda number: f">{number:.9g}<" if abs(number) < 1e300 else ">1e999<") | TEXTS

    @chosen
    @given(st.lists(st.tuples(st.sampled_from(parts), new), max_size=3), st.none() | st.binary(max_size=40), TEXTS)
    def voc(changes: list[tuple[str, str]], whole: bytes | None, stem: str) -> None:
        text = right
        for old, put in changes:
            text = text.replace(old, put, 1)
        file.write_bytes(text.encode(errors="replace") if whole is None else whole)
        listing.write_text(f"a\nb\n{stem if len(stem) % 5 == 4 else ''}\n", errors="replace")
        use(lambda: read_voc(root, "train"))

    for run in (coco, anything, voc):
        run()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} COCO files, {count} texts, {count} VOC folders; at most {most:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]))
