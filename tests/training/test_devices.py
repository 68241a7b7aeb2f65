"""A step is compiled once for each shape, and gives the same on one device, on two, and with parameters sharded."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.config import Config, Optimizer, Phase
from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.layers.per_image import COPIES
from jaxft.models.paths import values
from jaxft.training import layout as layouts
from jaxft.training.layout import DATA, FSDP, Layout, abstract, device_layout, one_device
from jaxft.training.stages import lay_out
from jaxft.training.state import TrainState, abstract_state
from jaxft.training.step import Compiled, RecompilationError, StepInputs, key_data
from tests.training.test_step import ROWS, assert_close, batch, prepared, small, step_function


def test_a_step_is_compiled_once() -> None:
    model, layout = small(), device_layout(ROWS)
    state, stage = prepared(model, layout=layout)
    compiled = Compiled(step_function(model, stage), updates_state=True)
    for seed in range(4):
        # Another key, rate, decay and momentum at each step: they are inputs.
        numbers = jax.tree.map(lambda number, factor=seed + 1: number / factor, stage.numbers(seed))
        state, _ = compiled(state, layout.batch(batch(seed)), StepInputs(key_data(seed), numbers))
    inputs = StepInputs(key_data(0), stage.numbers(4))
    assert compiled.compilations == 1
    with pytest.raises(RecompilationError, match=r"compiled 1 time.*image \(8, 24, 16, 3\) uint8\. Pad"):
        compiled(state, layout.batch(batch() | {"image": np.zeros((ROWS, 24, 16, 3), np.uint8)}), inputs)
    with pytest.raises(RecompilationError, match=r"label \(8,\) float32"):
        compiled(state, layout.batch(batch() | {"label": np.zeros(ROWS, np.float32)}), inputs)
    state, _ = compiled(state, layout.batch(batch()), inputs)
    assert compiled.compilations == 1
    assert int(state.step) == 5


def test_the_budget_allows_so_many_shapes() -> None:
    compiled = Compiled(lambda state, batch: state + batch["x"].sum(), budget=2)
    zero = jnp.zeros(())
    assert float(compiled(zero, {"x": jnp.ones(3)})) == 3
    assert float(compiled(zero, {"x": jnp.ones(4)})) == 4
    assert float(compiled(zero, {"x": jnp.ones(3)})) == 3
    with pytest.raises(RecompilationError, match=r"x \(5,\)"):
        compiled(zero, {"x": jnp.ones(5)})


def test_what_was_prepared_is_not_compiled_again() -> None:
    """From shapes alone, while the arrays may be given away."""
    layout, traced = device_layout(ROWS), list[str]()

    def function(state: dict[str, Array], batch: dict[str, Array]) -> Array:
        traced.append("")
        return state["w"] * batch["x"].sum()

    compiled = Compiled(function, budget=2)
    state = layout.place({"w": np.full((), 2, np.float32)})
    compiled.prepare(abstract(state), layout.abstract_batch({"x": np.zeros(3, np.float32)}, ROWS))
    compiled.prepare(abstract(state), layout.abstract_batch({"x": np.zeros(3, np.float32)}, ROWS))
    assert (len(traced), compiled.compilations) == (1, 0)
    assert float(compiled(state, layout.batch({"x": np.ones((ROWS, 3), np.float32)}))) == 2 * 3 * ROWS
    assert (len(traced), compiled.compilations) == (1, 1)
    assert float(compiled(state, layout.batch({"x": np.ones((ROWS, 4), np.float32)}))) == 2 * 4 * ROWS
    assert (len(traced), compiled.compilations) == (2, 2)


def laid_out(layout: Layout, steps: int = 3) -> tuple[TrainState, list[float]]:
    """The state and the losses after some steps in a layout."""
    model = small(dropout=0.2)
    state, stage = prepared(model, layout=layout)
    compiled = Compiled(step_function(model, stage), updates_state=True)
    losses = []
    for seed in range(steps):
        state, metrics = compiled(state, layout.batch(batch(seed, 16)), StepInputs(key_data(0), stage.numbers(seed)))
        losses.append(float(metrics["loss"]))
    return state, losses


def test_one_device_two_devices_and_sharded_parameters_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(jax.devices()) == 2
    monkeypatch.setattr(layouts, "SMALLEST", 100)
    one, losses = laid_out(one_device())
    for fsdp in (1, 2):
        two, others = laid_out(device_layout(16, fsdp=fsdp))
        assert others == pytest.approx(losses, rel=1e-5)
        assert_close(two.model, one.model, 1e-5)
        kernel = two.params["conv2.kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // fsdp
        moments = [leaf for leaf in jax.tree.leaves(two.opt_state) if leaf.shape == kernel.shape]
        assert moments
        assert all(leaf.sharding == kernel.sharding for leaf in moments)


def test_a_batch_lies_on_all_devices() -> None:
    layout = device_layout(ROWS)
    data = batch()
    for name, array in layout.batch(data).items():
        assert array.sharding == NamedSharding(layout.mesh, PartitionSpec((DATA,)))
        for index, shard in enumerate(array.addressable_shards):
            np.testing.assert_array_equal(shard.data, data[name][4 * index : 4 * index + 4])


@pytest.mark.parametrize(("rows", "parts", "multiple"), [(7, 1, 2), (6, 2, 4), (3, 3, 6)])
def test_a_batch_that_cannot_be_cut_is_refused(rows: int, parts: int, multiple: int) -> None:
    with pytest.raises(UserError, match=rf"batch of {rows} .* 2 device.* multiple of {multiple}\."):
        device_layout(rows, parts)


def test_a_run_that_goes_on_takes_as_many_copies_as_it_must() -> None:
    """Batches of 8 on 6 devices: two parts of the examples, three devices for each; groups of fsdp stay."""
    chips = [Chip(number, slice_index=0, process_index=0, platform="cpu") for number in range(6)]
    with pytest.raises(UserError, match=r"batch of 8 .* 6 device.* multiple of 6\."):
        device_layout(8, devices=chips)  # type: ignore[arg-type]
    layout = device_layout(8, devices=chips, copies=True)  # type: ignore[arg-type]
    assert dict(layout.mesh.shape) == {DATA: 2, COPIES: 3}
    assert (layout.parts, layout.idle) == (2, 4)
    layout = device_layout(8, fsdp=2, devices=chips, copies=True)  # type: ignore[arg-type]
    assert dict(layout.mesh.shape) == {DATA: 1, COPIES: 3, FSDP: 2}
    assert layout.examples.spec == PartitionSpec((DATA, FSDP))
    with pytest.raises(UserError, match="batch of 7"):
        device_layout(7, fsdp=2, devices=chips, copies=True)  # type: ignore[arg-type]


def test_devices_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(UserError, match=r"fsdp is 3, but 2 device\(s\) cannot be cut into groups of 3\."):
        device_layout(6, fsdp=3)
    assert dict(device_layout(6, fsdp=0).mesh.shape) == {DATA: 1, FSDP: 2}


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16"])
def test_eight_devices_hold_an_eighth_each(name: str) -> None:
    """Parameters, statistics and Adam's moments; what is too small to be cut is less than a fifth of that."""
    layout = device_layout(8, fsdp=8, devices=[Chip(number, 0, 0, "cpu") for number in range(8)])  # type: ignore[arg-type]
    model = abstract_model(name)
    params, stats = values(model, nnx.Param), values(model, nnx.BatchStat)
    config = Config(optimizer=Optimizer(name="adamw"), phases=(Phase(),))
    (stage,) = lay_out(config, {path: tuple(value.shape) for path, value in params.items()}, 10)
    state = abstract_state(stage, params, stats, ema=True)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert whole > 3.9 * 4 * sum(leaf.size for leaf in params.values())
    assert layout.bytes_per_device(state) <= 1.2 * whole / 8


def test_what_is_small_is_copied() -> None:
    layout = device_layout(8, fsdp=2)
    assert layout.sharding((64, 64)).spec == PartitionSpec(FSDP, None)
    assert layout.sharding((32, 256)).spec == PartitionSpec(None, FSDP)
    assert (
        layout.sharding((63, 64)).spec
        == layout.sharding((63, 65)).spec
        == layout.sharding((2,)).spec
        == PartitionSpec()
    )


@dataclass(frozen=True)
class Chip:
    """A device of a slice that is not here."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "tpu"
    device_kind: str = "TPU of a test"
    core_on_chip: int = 0

    @property
    def coords(self) -> tuple[int, int, int]:
        return self.id // 4, 0, 0


def test_a_group_lies_within_a_slice() -> None:
    """Four slices of two devices each, which the runtime lists in no order."""
    chips = [Chip(number, slice_index=number % 4, process_index=number % 4) for number in range(8)]
    mesh = device_layout(16, fsdp=2, devices=chips).mesh  # type: ignore[arg-type]
    assert dict(mesh.shape) == {DATA: 4, FSDP: 2}
    for group in mesh.devices:
        assert len({chip.slice_index for chip in group}) == 1
    with pytest.raises(UserError, match=r"groups of 4 devices, more than one of the 4 slices has"):
        device_layout(16, fsdp=4, devices=chips)  # type: ignore[arg-type]
