"""The batch on the devices there are, and the rate for it; as MMDetection counts and scales them."""

import dataclasses
from pathlib import Path

import pytest

from jaxft import train
from jaxft.config import Config, Data, Optimizer, Phase, Rule, load, replace
from jaxft.errors import UserError
from jaxft.run import RunDirectory
from jaxft.training.batch import resolved
from jaxft.training.stages import lay_out
from tests.small import call, execute, lines, user_error

pytest_plugins = ("tests.runs",)

PER_DEVICE = Config(
    data=Data(batch_size=2, batch_per_device=True), optimizer=Optimizer(learning_rate=0.02, base_batch_size=16)
)


@pytest.mark.parametrize(("devices", "batch", "rate"), [(1, 2, 0.0025), (2, 4, 0.005), (4, 8, 0.01), (8, 16, 0.02)])
def test_a_batch_of_each_device(devices: int, batch: int, rate: float) -> None:
    config, remark = resolved(PER_DEVICE, devices)
    assert config.data.batch_size == batch
    assert config.optimizer.learning_rate == 0.02
    assert not config.data.batch_per_device
    said = f"A step takes {batch} examples, but the learning rate 0.02 is meant for 16 (optimizer.base_batch_size)"
    assert remark == ("" if batch == 16 else f"{said}; --auto-scale-lr makes it {rate}.")
    scaled, remark = resolved(replace(PER_DEVICE, {"auto_scale_lr": True}), devices)
    assert scaled.optimizer.learning_rate == pytest.approx(rate, rel=1e-12)
    assert remark == f"The learning rate is {rate:g} for {batch} examples a step, scaled from 0.02 for 16."
    assert not scaled.auto_scale_lr


@pytest.mark.parametrize("scale", [True, False])
def test_what_is_resolved_stays(scale: bool) -> None:
    config, _ = resolved(replace(PER_DEVICE, {"auto_scale_lr": scale, "optimizer.accumulate": 3}), 4)
    assert config.data.batch_size == 24
    assert resolved(config, 4)[0] == config
    assert resolved(replace(config, {"auto_scale_lr": scale}), 2)[0] == config


def test_the_parts_of_a_step_count() -> None:
    config, _ = resolved(replace(PER_DEVICE, {"auto_scale_lr": True, "optimizer.accumulate": 4}), 2)
    assert (config.data.batch_size, config.optimizer.learning_rate) == (16, 0.02)


def test_a_batch_of_all_devices_is_scaled_too() -> None:
    """The command line has said its batch before: 0.01 for 16 of 32, whatever the file's batch was."""
    data, optimizer = Data(batch_size=16), Optimizer(learning_rate=0.02, base_batch_size=32)
    config, _ = resolved(Config(data=data, optimizer=optimizer, auto_scale_lr=True), 4)
    assert (config.data.batch_size, config.optimizer.learning_rate) == (16, 0.01)


def test_every_rate_scales() -> None:
    phases = (Phase(epochs=1, rules=(Rule(pattern="fc", lr_scale=5), Rule(pattern="*"))), Phase(epochs=1, lr_scale=0.1))
    config = dataclasses.replace(PER_DEVICE, phases=phases, auto_scale_lr=True)
    shapes = {"fc.kernel": (2, 2), "body.kernel": (2, 2)}
    first, second = lay_out(resolved(config, 4)[0], shapes, 3)
    rates = [values[0] for stage in (first, second) for values in stage.learning_rates.values()]
    assert rates == pytest.approx([0.05, 0.01, 0.001])


def test_a_rate_that_is_meant_for_nothing_cannot_be_scaled(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for more in ((), ("--dry-run",)):
        message = user_error(call(train.main, "--config", config_file, "--workdir", run, "--auto-scale-lr", *more))
        assert "optimizer.base_batch_size" in message
    assert not run.exists()
    with pytest.raises(UserError, match="auto_scale_lr"):
        resolved(Config(auto_scale_lr=True), 1)


def test_a_run_on_two_devices_and_its_resumption(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--config", config_file, "--workdir", run, "--data.batch-per-device", "--data.batch-size", 2)
    flags += ("--optimizer.base-batch-size", 16, "--auto-scale-lr", "--phases.0.epochs", 1)
    result = call(train.main, *flags)
    assert result.code == 0, result
    assert "The learning rate is 0.0125 for 4 examples a step, scaled from 0.05 for 16." in result.out
    saved = RunDirectory(run).config()
    assert (saved.data.batch_size, saved.data.batch_per_device, saved.auto_scale_lr) == (4, False, False)
    assert (saved.optimizer.learning_rate, saved.optimizer.base_batch_size) == (0.0125, 4)
    before = lines(run)
    assert before[-1]["step"] == 6
    for again in (flags, ("--workdir", run), ("--workdir", run, "--auto-scale-lr")):
        result = call(train.main, *again, "--resume")
        assert result.code == 0, result
        assert lines(run) == before
        assert RunDirectory(run).config() == saved
    assert "data.batch_size: 4 there, 6 here" in user_error(
        call(train.main, *flags, "--resume", "--data.batch-size", 3)
    )
    other = call(train.main, *flags, "--resume", "--data.batch-size", 1)  # four devices had begun it, for all one knows
    assert "The run goes on with batches of 4, as it began." in other.out


def test_a_dry_run_on_four_devices(config_file: Path) -> None:
    flags = ("--dry-run", "--data.batch-per-device", "--data.batch-size", 1, "--optimizer.base-batch-size", 8)
    result = execute("tests.small", "--config", config_file, *flags, JAX_NUM_CPU_DEVICES="4")
    assert result.code == 0, result
    assert "A step takes 4 examples, but the learning rate 0.05 is meant for 8" in result.out
    assert "--auto-scale-lr makes it 0.025." in result.out
    assert "6 steps an epoch, 12 in all, on 4 device(s)" in result.out


def test_a_rate_that_fits_its_batch_needs_no_word(config_file: Path) -> None:
    config, remark = resolved(replace(load(config_file), {"optimizer.base_batch_size": 8}), 2)
    assert config.optimizer.base_batch_size == 8
    assert remark == ""
