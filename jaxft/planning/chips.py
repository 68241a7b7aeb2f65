"""Published peaks of accelerators.

Sources, read in November 2026: docs.cloud.google.com/tpu/docs/v4, v5e, v5p and v6e; NVIDIA's H100 data sheet (SXM,
without sparsity) and, between machines of eight, one 400 Gb/s InfiniBand link a GPU, as in DGX H100.
"""

import difflib
import math
import re
from dataclasses import dataclass, replace

from jaxft.errors import UserError

TERA, GIGA, GIBI = 1e12, 1e9, 2**30
PASSES = {"float32": 6, "tensorfloat32": 3, "bfloat16": 1}
"""Multiplications in bfloat16 that a TPU makes of one; see `jaxft.precision`."""


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        flops: products and sums a second, by `precision`.
        memory: bytes.
        bandwidth: bytes a second between memory and chip.
        link: bytes a second that it sends to others while it receives as many: half of what is published as
            bidirectional.
        near: chips that `link` connects; to others it is `far`.
        shapes: of slices, as examples.
        tpu: whether libtpu can compile for it.
        cores: what libtpu calls a chip whose two cores are one device, where it has both ways.
    """

    name: str
    flops: dict[str, float]
    memory: float
    bandwidth: float
    link: float
    near: float = math.inf
    far: float = 0.0
    shapes: tuple[str, ...] = ()
    tpu: bool = True
    cores: str = "default"


def _tpu(
    name: str, bfloat16: float, memory: float, bandwidth: float, both_ways: float, shapes: tuple[str, ...]
) -> Chip:
    flops = {precision: bfloat16 * TERA / passes for precision, passes in PASSES.items()}
    return Chip(name, flops, memory, bandwidth * GIGA, both_ways / 2 * GIGA, shapes=shapes)


FLAT, SOLID = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"), ("2x2x1", "2x2x2", "2x2x4", "4x4x4", "4x4x8")
CHIPS = {
    chip.name: chip
    for chip in (
        replace(_tpu("v4", 275, 32 * GIBI, 1228, 300, SOLID), cores="megacore"),
        _tpu("v5e", 197, 16 * GIGA, 819, 400, FLAT),
        _tpu("v5p", 459, 95 * GIBI, 2765, 1200, SOLID),
        _tpu("v6e", 918, 32 * GIGA, 1638, 800, FLAT),
        Chip(
            "h100",
            {"float32": 67 * TERA, "tensorfloat32": 494.7 * TERA, "bfloat16": 989.4 * TERA},
            80 * GIGA,
            3350 * GIGA,
            450 * GIGA,
            near=8,
            far=50 * GIGA,
            shapes=("8", "64"),
            tpu=False,
        ),
    )
}


@dataclass(frozen=True)
class Topology:
    """A slice: so many chips of a kind in a shape, such as `16x16`."""

    chip: Chip
    shape: str

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"{self.chip.name}:{self.shape}"

    @property
    def count(self) -> int:
        """Chips in it."""
        return math.prod(map(int, self.shape.split("x")))

    @property
    def link(self) -> float:
        """Bytes a second that a chip sends to all others together, by the narrowest link on the way."""
        return self.chip.link if self.count <= self.chip.near else self.chip.far


def parse(text: str) -> Topology:
    """The topology of a name such as `v5e:16x16`.

    Raises:
        UserError: there is no such chip, or it is no shape.
    """
    name, _, shape = text.partition(":")
    if name not in CHIPS:
        near = difflib.get_close_matches(name, CHIPS, n=3, cutoff=0.3) or list(CHIPS)
        raise UserError(f"There is no chip {name!r} in --topology {text}; the nearest are {', '.join(near)}.")
    chip = CHIPS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"--topology {text} names no shape; write {name}:SHAPE, such as {_some(chip)}.")
    return Topology(chip, shape)


def _some(chip: Chip) -> str:
    return ", ".join(f"{chip.name}:{shape}" for shape in chip.shapes)


def unknown_shape(topology: Topology, why: str) -> UserError:
    """What is said where a slice of a shape does not exist."""
    return UserError(f"There is no slice {topology.name} ({why}); slices are {_some(topology.chip)} and the like.")
