"""Where the time of a run goes."""

from unittest import mock

import pytest

from jaxft.reporting.time_spent import TimeSpent


def test_what_no_cause_takes_is_spent_in_steps() -> None:
    with mock.patch("time.perf_counter", side_effect=[100.0, 190.0, 190.0]):
        spent = TimeSpent(starting=10.0)  # 100 s in all
        spent.activity("compiling the training step of phase 1, program 1", 20)
        spent.activity("evaluating epoch 1", 5)
        spent.activity("evaluating epoch 2", 5)
        spent.activity("saving", 0.1)
        spent.activity("tidying up", 2)
        spent.add("input", 7.9)
        shares = spent.shares()
        assert spent.sentence() == ("Time: 50% steps, 20% compilation, 10% start, 10% evaluation, 8% input, 2% other.")
    assert shares["steps"] == pytest.approx(0.5)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["checkpoints"] == pytest.approx(0.001)
