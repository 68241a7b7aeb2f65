"""The range test of learning rates."""

import json
import math
from pathlib import Path

import jax
import pytest

from jaxft import lr_find
from jaxft.lr_find import Point, suggested
from tests.small import call, user_error

pytest_plugins = ("tests.runs",)


def test_the_steepest_place_is_suggested() -> None:
    """A loss that falls along a logistic curve around 1e-2, and then grows."""
    points = []
    for number in range(60):
        rate = 10 ** (-5 + number / 12)
        loss = 2 - 1 / (1 + math.exp(-3 * math.log10(rate / 1e-2))) + 100 * max(rate - 0.5, 0)
        points.append(Point(rate, loss, loss))
    found = suggested(points)
    assert found is not None
    assert found == pytest.approx(1e-2, rel=0.15)
    assert suggested([Point(rate, rate, rate) for rate in (0.1, 0.2, 0.3, 0.4)]) is None
    assert suggested([]) is None


def test_a_rate_is_found_and_nothing_is_saved(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--config", config_file, "--steps", 30, "--lowest", 1e-3, "--highest", 100)
    result = call(lr_find.main, *flags, "--json", "--picture", "lr.png")
    assert result.code == 0, result
    found = json.loads(result.out)
    rates = [point["rate"] for point in found["points"]]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[1] / rates[0] == pytest.approx((100 / 1e-3) ** (1 / 29))
    assert 1e-3 < found["suggested"] < 100
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]
    shown = call(lr_find.main, *flags)
    assert f"--optimizer.learning-rate {found['suggested']:.2g}" in shown.out


def test_the_batch_is_that_of_a_run(config_file: Path) -> None:
    """Counted a device and a part of accumulate where the configuration does so; what nothing reads is refused."""
    flags = ("--config", config_file, "--steps", 10, "--json")
    each = ("--data.batch-per-device", "--data.batch-size", 2, "--optimizer.accumulate", 2)
    result = call(lr_find.main, *flags, *each)
    assert result.code == 0, result
    assert json.loads(result.out)["batch_size"] == 2 * 2 * jax.device_count()
    scaled = ("--auto-scale-lr", "--optimizer.base-batch-size", 80)
    found, other = (json.loads(call(lr_find.main, *flags, *more).out)["suggested"] for more in ((), scaled))
    assert other == pytest.approx(10 * found)  # a tenth of which is what eight examples a step get
    message = user_error(call(lr_find.main, *flags, "--optimizer.name", "adam", "--optimizer.momentum", 0.9))
    assert "optimizer.momentum is 0.9" in message


def test_what_is_out_of_range_is_refused(config_file: Path) -> None:
    for flags in (("--lowest", 1, "--highest", 0.1), ("--steps", 5), ("--lowest", 0)):
        assert "in at least 10 steps" in user_error(call(lr_find.main, "--config", config_file, *flags))
