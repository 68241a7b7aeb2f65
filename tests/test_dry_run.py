"""What a dry run prints: a row a part of the model, sizes, and what it takes to compile."""

from pathlib import Path
from typing import Any
from unittest import mock

import jax
import pytest

from jaxft import train
from jaxft.config import load, replace
from jaxft.dry_run import Leaf, compiled, parts
from jaxft.models import create_model
from jaxft.models.paths import values
from jaxft.reporting.written import written
from jaxft.training.setup import set_up
from jaxft.training.step import Compiled
from tests.small import Result, call, user_error, write_config

pytest_plugins = ("tests.runs",)

COUNT = 24 // 8  # steps an epoch


def dry(config: Path, *arguments: object) -> Result:
    """A dry run, which must not fail, nor write anything."""
    result = call(train.main, "--config", config, "--workdir", config.parent / "nothing", "--dry-run", *arguments)
    assert result.code == 0, result
    assert not (config.parent / "nothing").exists()
    return result


def rows(text: str) -> list[list[str]]:
    """The cells of all tables."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def leaf(path: str, *rates: float, size: int = 1) -> Leaf:
    kind = "trained" if rates else "frozen"
    return Leaf(path, "", (size,), size, 4 * size, kind, rates)


def test_parts_are_cut_where_they_are_not_treated_alike() -> None:
    leaves = [
        leaf("conv1.kernel"),
        leaf("layer1.0.conv1.kernel"),
        leaf("layer1.1.conv1.kernel", 0.1),
        leaf("layer1.1.conv2.kernel", 0.2),
        leaf("layer2.0.conv1.kernel", 0.1),
        leaf("layer2.1.conv1.kernel", 0.1),
    ]
    assert [(name, len(members)) for name, members in parts(leaves)] == [
        ("conv1", 1),
        ("layer1.0", 1),
        ("layer1.1", 2),
        ("layer2", 2),
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (46_800, "46.8 kB"), (46_800_000, "46.8 MB"), (7.2e10, "72.0 GB")]
)
def test_bytes_are_written_for_people(count: float, text: str) -> None:
    assert written(count) == text


def test_a_row_a_part_says_what_becomes_of_it(two_phases: Path) -> None:
    text = dry(two_phases, "--optimizer.no-decay-bias-and-norm").out
    assert f"{COUNT} steps an epoch, {3 * COUNT} in all, on 2 device(s)" in text
    first, second = text.split("phase 2: 2 epoch(s), 6 steps")
    assert "phase 1: 1 epoch(s), 3 steps" in first
    arrays = values(create_model("small", 3))
    sizes = {name: sum(value.size for path, value in arrays.items() if path.startswith(f"{name}.")) for name in
             ("conv1", "bn1", "conv2", "bn2", "fc")}  # fmt: skip
    table = {row[0]: row for row in rows(first) if len(row) == 9}
    assert table.keys() == sizes.keys()
    # Parameters, bytes, state, rates of the first and the last step, decay, values, BatchNorm.
    assert table["conv1"] == ["conv1", str(sizes["conv1"]), "864 B", "frozen", "", "", "", "new", ""]
    assert table["bn1"][1:4] == ["16", "132 B", "frozen"]  # with two statistics and a counter
    assert table["bn1"][8] == "running"
    assert table["fc"] == ["fc", "27", "108 B", "trained", "0.05", "0.05", "0 to 0.0001", "new", ""]
    table = {row[0]: row for row in rows(second) if len(row) == 9}
    assert table["bn1"][3:] == ["trained", "0.0005", "0.0005", "0", "new", "batch"]
    assert table["fc"][4] == "0.005"


def test_sizes_are_those_of_the_state(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = values(create_model("small", 3))
    whole = {row[0]: row[1:] for row in rows(dry(config_file, "--ema.decay", 0.9).out) if len(row) == 4}
    setup = set_up(load(config_file))
    state = setup.abstract_state(setup.stages[0])
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert whole["parameters"] == [f"{count:,}", written(4 * count), written(4 * count)]
    assert whole["moving average"] == whole["parameters"]
    assert whole["statistics"][0] == str(sum(value.size for value in arrays.values()) - count)
    assert whole["optimizer state"][0] == str(count)  # SGD with momentum
    numbers = {name: int(cells[0].replace(",", "")) for name, cells in whole.items()}
    assert numbers.pop("in all") == sum(numbers.values())
    monkeypatch.setattr("jaxft.training.layout.SMALLEST", 100)
    cut = {row[0]: row[1:] for row in rows(dry(config_file, "--hardware.fsdp", 2).out) if len(row) == 4}
    on_each = setup.layout.bytes_per_device(state.params)
    assert on_each == 4 * count  # a copy on each
    half = set_up(replace(load(config_file), {"hardware.fsdp": 2})).layout.bytes_per_device(state.params)
    assert half < 0.6 * on_each
    assert cut["parameters"][1:] == [written(on_each), written(half)]


def test_full_has_a_row_a_leaf(two_phases: Path) -> None:
    first, _ = dry(two_phases, "--full").out.split("phase 2: ")
    arrays = values(create_model("small", 3))
    assert [row[0] for row in rows(first) if row[0] in arrays] == sorted(arrays)
    (kernel,) = [row for row in rows(first) if row[0] == "fc.kernel"]
    assert kernel == ["fc.kernel", "(new)", "8x3", "0.05", "0.05", "0.0001", "trained"]


def test_compiling_says_seconds_and_bytes(two_phases: Path) -> None:
    lines = [line for line in dry(two_phases, "--compile").out.splitlines() if line.startswith("the training step")]
    assert len(lines) == 2
    for phase, line in enumerate(lines, 1):
        assert line.startswith(f"the training step of phase {phase}, program 1 of 1: traced in ")
        assert " s, compiled in " in line
        assert line.endswith(" of temporaries a device")
        assert "0 B of temporaries" not in line


def test_what_is_compiled_is_the_program_of_the_run(config_file: Path, tmp_path: Path) -> None:
    """So that the run finds it in the cache."""
    texts: list[str] = []
    real = Compiled.lowered

    def lowered(step: Compiled, *arguments: Any) -> Any:
        program = real(step, *arguments)
        if step._updates_state:
            texts.append(program.as_text())
        return program

    with mock.patch.object(Compiled, "lowered", lowered):
        setup = set_up(load(config_file))
        list(compiled(setup, setup.stages[0]))
        assert call(train.main, "--config", config_file, "--workdir", tmp_path / "run").code == 0
    assert len(texts) == 2
    assert texts[0] == texts[1]


def test_rates_fall_towards_the_input_where_they_are_to(config_file: Path, photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "configs" / "resnet.py", photos, model="resnet18")
    flags = ("--dry-run", "--optimizer.layer-decay", 0.5, "--phases.0.schedule.decay", "constant")
    result = call(train.main, "--config", config, *flags, "--phases.0.schedule.warmup", 0)
    assert result.code == 0, result
    rows = [[cell.strip() for cell in line.split("│")] for line in result.out.splitlines() if "│ trained │" in line]
    rates = {row[1]: float(row[5]) for row in rows}
    assert rates["layer4.1"] == pytest.approx(0.05 / 2, rel=1e-2)
    assert rates["layer1.0"] == pytest.approx(0.05 / 2**8, rel=1e-2)
    assert rates["conv1"] == pytest.approx(0.05 / 2**9, rel=1e-2)
    message = user_error(call(train.main, "--config", config_file, *flags))
    assert message.startswith("optimizer.layer_decay is 0.5, but the Small has no blocks to count")
