"""Slices by name, and what is said of names that mean none."""

import math

import pytest

from jaxft.errors import UserError
from jaxft.planning.chips import CHIPS, parse


@pytest.mark.parametrize(("name", "count"), [("v5e:16x16", 256), ("v4:2x2x4", 16), ("h100:64", 64)])
def test_a_slice_has_so_many_chips(name: str, count: int) -> None:
    topology = parse(name)
    assert (topology.count, topology.name) == (count, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5:4x4", r"no chip 'v5' .* the nearest are v5p, v5e"),
        ("a100:8", r"no chip 'a100' .* the nearest are h100"),
        ("v5e", r"names no shape; write v5e:SHAPE, such as v5e:1x1"),
        ("v5e:4x", "names no shape"),
        ("v5e:0x4", "names no shape"),
    ],
)
def test_what_is_no_slice_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(name)


def test_float32_is_several_multiplications_on_a_tpu() -> None:
    """The passes of `jaxft.precision`."""
    for chip in CHIPS.values():
        assert chip.flops["float32"] < chip.flops["tensorfloat32"] < chip.flops["bfloat16"]
        if chip.tpu:
            assert chip.flops["bfloat16"] / chip.flops["float32"] == pytest.approx(6)


def test_gpus_of_several_machines_have_a_narrower_link() -> None:
    assert parse("h100:8").link > 5 * parse("h100:16").link
    assert parse("v5e:16x16").link == parse("v5e:2x2").link == 200e9
    assert math.isinf(CHIPS["v5e"].near)
