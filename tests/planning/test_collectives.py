"""What travels, read from the text of compiled programs."""

import pytest

from jaxft.planning.collectives import Array, Collective, by_kind, collectives

TEXT = """
  %all-reduce.3 = (f32[64]{0:T(128)}, bf16[3,3,8]{2,1,0}) all-reduce(%a, %b), replica_groups=[1,256]<=[256]
  ROOT %ag = (f32[4]{0}, f32[16]{0}) all-gather-start(%c), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done = f32[16]{0} all-gather-done(%ag)
  reduce-scatter.1 = s8[2,5]{1,0} reduce-scatter(%d), replica_groups={}, to_apply=%add
  %all-reduce.7 = f32[8]{0} all-reduce(%e), channel_id=9, replica_groups=mesh['data'=4,'fsdp'=2] {'data','fsdp'}
  %fusion = f32[9]{0} fusion(%all-reduce.3), kind=kLoop
  %permuted = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
"""


def test_every_operation_is_found_once_with_its_bytes_and_devices() -> None:
    found = list(collectives(TEXT))
    assert [(one.kind, one.bytes, one.devices) for one in found] == [
        ("all-reduce", 4 * 64 + 2 * 72, 256),
        ("all-gather", 64, 4),
        ("reduce-scatter", 10, 0),
        ("all-reduce", 32, 8),
        ("collective-permute", 32, 0),
    ]
    assert [array.shape for array in found[0].arrays] == ["64", "3,3,8"]
    assert {kind: len(ones) for kind, ones in by_kind(found).items()} == {
        **{"all-gather": 1, "all-reduce": 2, "reduce-scatter": 1, "collective-permute": 1},
    }


LOOP = """
%body.3 (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-gather.1 = f32[8]{0} all-gather(%a), replica_groups={{0,1}}, dimensions={0}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %while.1 = (s32[], f32[4]{0}) while(%init), condition=%cond.2, body=%body.3
  ROOT %all-reduce.1 = f32[4]{0} all-reduce(%b), replica_groups={{0,1}}, to_apply=%add
}
"""


def test_what_stands_in_a_loop_is_done_at_every_turn() -> None:
    assert [one.kind for one in collectives(LOOP, turns=3)] == [*["all-gather"] * 3, "all-reduce"]


@pytest.mark.parametrize(
    ("kind", "own", "seconds"),
    [
        ("all-reduce", 800, 2 * 800 * 3 / 4 / 100),
        ("all-gather", 800, 800 * 3 / 4 / 100),
        ("reduce-scatter", 200, 800 * 3 / 4 / 100),
        ("all-to-all", 800, 800 * 3 / 4 / 100),
        ("collective-permute", 800, 8),
    ],
)
def test_time_is_what_a_device_sends(kind: str, own: int, seconds: float) -> None:
    """Four devices, 800 bytes that all of them have or want, 100 bytes a second."""
    assert Collective(kind, (Array("", own),), 4).seconds(4, 100.0) == pytest.approx(seconds)
