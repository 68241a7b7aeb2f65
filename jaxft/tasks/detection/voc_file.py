"""One XML file of PASCAL VOC, every element of which is what it must be."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

import pydantic

from jaxft.errors import UserError
from jaxft.tasks.detection.entries import FARTHEST, Form

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_Coordinate = Annotated[
    float, pydantic.Field(allow_inf_nan=False, ge=-FARTHEST, le=FARTHEST, description="a number of pixels")
]
_Side = Annotated[
    float, pydantic.Field(multiple_of=1, ge=0, le=1_000_000, description="a whole number of pixels up to 1,000,000")
]


class _Size(pydantic.BaseModel):
    width: _Side = 0
    height: _Side = 0


class _Object(pydantic.BaseModel):
    name: str = pydantic.Field(description="a class")
    xmin: _Coordinate
    ymin: _Coordinate
    xmax: _Coordinate
    ymax: _Coordinate
    difficult: Literal["0", "1"] = pydantic.Field(default="0", description="0 or 1")


_SIZE, _OBJECT = Form(_Size), Form(_Object)


class Thing(NamedTuple):
    """An object: its position in the file, from 1; its class; its corners x0, y0, x1, y1 as the file has them."""

    number: int
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class Described(NamedTuple):
    """What a file says of its photo; `size` is its width and height where it says both."""

    filename: str | None
    size: tuple[int, int] | None
    things: tuple[Thing, ...]


def describe(file: Path) -> tuple[Described, list[str]]:
    """Reads a file; elements that are empty count as missing.

    Returns:
        What it says, and what is wrong with it, each the rest of a sentence about the file.

    Raises:
        UserError: it is no XML, no annotation, or has a document type, in which entities could be defined.
        OSError, ValueError, LookupError: it cannot be read.
    """
    tree = _parse(file.read_bytes())
    if tree.tag.lower() != "annotation":
        raise UserError(f"is no annotation of VOC: its outermost element is <{tree.tag[:60]}>, not <annotation>")
    size, problem = _SIZE.read(_texts(tree, ("width", "height"), "size/"))
    mistakes = [f": its size {problem}"] if problem else []
    things = []
    for number, element in enumerate(tree.findall("object"), 1):
        texts = _texts(element, ("name", "difficult")) | _texts(element, _CORNERS, "bndbox/")
        found, problem = _OBJECT.read(texts)
        if problem:
            named = f" ({texts['name']})" if "name" in texts else ""
            mistakes.append(f": object {number}{named} {problem}")
            continue
        corners = (found.xmin, found.ymin, found.xmax, found.ymax)
        things.append(Thing(number, found.name, corners, found.difficult == "1"))
    whole = (int(size.width), int(size.height)) if size and size.width and size.height else None
    return Described(_texts(tree, ("filename",)).get("filename"), whole, tuple(things)), mistakes


def _texts(element: ElementTree.Element, names: tuple[str, ...], path: str = "") -> dict[str, str]:
    texts = {name: (element.findtext(path + name) or "").strip() for name in names}
    return {name: text for name, text in texts.items() if text}


def _parse(content: bytes) -> ElementTree.Element:
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        message = expat.ErrorString(error.code)
        raise UserError(f"is broken in line {error.lineno}, column {error.offset}: {message}") from error
    return builder.close()


def _refuse_document_type(*_: Any) -> None:
    # Entities of entities would fill the memory, and VOC has none.
    raise UserError("has a document type (<!DOCTYPE ...>), which annotations do without; remove it")
