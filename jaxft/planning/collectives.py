"""What travels between devices in a compiled program, read from its text."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32}
BITS |= {"u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}
_CALL = re.compile(rf"\s*(?:ROOT )?%?\S+ = (.*?) ({'|'.join(KINDS)})(-start)?\((.*)")
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?(\S+) \(.*\{$")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")


class Array(NamedTuple):
    """An array that a collective operation gives: its dimensions with commas, and its bytes."""

    shape: str
    bytes: int


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
        arrays: what a device has of it in the end.
        devices: how many take part with each other; 0 where the program does not say.
    """

    kind: str
    arrays: tuple[Array, ...]
    devices: int

    @property
    def bytes(self) -> int:
        """What a device has of it in the end."""
        return sum(array.bytes for array in self.arrays)

    def seconds(self, devices: int, link: float) -> float:
        """How long it takes where each device sends `link` bytes a second and receives as many, without latency.

        In a ring, or in several at once, each device sends what the others lack, `(n - 1) / n` of the whole; a
        reduction that everybody has in the end is a scattered one and a gather (Patarasuk and Yuan, 2009, section 3).
        """
        others = (devices - 1) / devices
        whole = self.bytes * devices if self.kind == "reduce-scatter" else self.bytes
        sent = {"all-reduce": 2 * whole * others, "collective-permute": float(whole)}.get(self.kind, whole * others)
        return sent / link


def collectives(text: str, turns: int = 1) -> Iterator[Collective]:
    """Every collective operation in the text of a compiled program.

    Args:
        turns: how often what stands in a loop is done, each time an operation of its own.
    """
    loops, computation = set(_BODY.findall(text)), ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[1]
        if match := _CALL.match(line):
            result, kind, begins, rest = match.groups()
            found = [_array(*each) for each in _SHAPE.findall(result)]
            if begins and kind in ("all-gather", "collective-permute"):  # what goes in stands before what comes out
                found = [_array(*each) for each in _SHAPE.findall(result) if each != ("u32", "")]  # but for the context
                found = found[len(found) // 2 :]
            for _ in range(turns if computation in loops else 1):
                yield Collective(kind, tuple(found), _participants(rest))


def _array(dtype: str, shape: str) -> Array:
    return Array(shape, math.prod(int(side) for side in shape.split(",") if side) * BITS.get(dtype, 32) // 8)


def _participants(text: str) -> int:
    if match := _MESH.search(text):
        sizes = dict(axis.split("=") for axis in match[1].split(","))
        return math.prod(int(sizes[axis]) for axis in match[2].split(","))
    if match := _COUNTED.search(text):
        return int(match[1])
    match = _LISTED.search(text)
    return len(match[1].split(",")) if match and match[1] else 0


def by_kind(found: Iterable[Collective]) -> dict[str, list[Collective]]:
    """Those of each kind there is."""
    found = list(found)
    kinds = {kind: [one for one in found if one.kind == kind] for kind in KINDS}
    return {kind: ones for kind, ones in kinds.items() if ones}
