"""Detectors over four devices: the same numbers as on one, and nothing travels but gradients, statistics and weights.

The steps run in a process of their own, since the tests' has two devices and float32.
"""

import json
from typing import Any

import pytest

from tests.small import start

SCALARS = 1024  # bytes: numbers of positives, sums of losses


@pytest.fixture(scope="module", params=["a few", pytest.param("all", marks=pytest.mark.slow)])
def measured(request: pytest.FixtureRequest) -> dict[str, Any]:
    more = ["--all"] if request.param == "all" else []
    process = start("tests.training.detector_steps", *more, JAX_NUM_CPU_DEVICES="4", JAX_ENABLE_X64="1")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def travelled(run: dict[str, Any], *kinds: str) -> int:
    return sum(size for kind, _, size in run["collectives"] if kind in kinds)


def runs(measured: dict[str, Any], name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each detector of which there is such a run, and the run."""
    return [(one, one[name]) for one in measured.values() if name in one]


def test_four_devices_say_what_one_says(measured: dict[str, Any]) -> None:
    for one in measured.values():
        assert one["train"]["finite"]
        assert min(value for term, value in one["train"].items() if "loss" in term) > 0
        apart = {run: one[run]["apart"] for run in one if " " in run}
        assert apart
        assert {run: value for run, value in apart.items() if not value < 1e-9} == {}
    assert measured["retinanet"]["predict"]["valid"] >= 20


def test_nothing_travels_but_gradients_and_statistics(measured: dict[str, Any]) -> None:
    assert runs(measured, "train four")
    for one, train in runs(measured, "train four"):
        assert {kind for kind, *_ in train["collectives"]} == {"all-reduce"}
        most = 1.1 * (one["gradients"] + one["statistics"]) + SCALARS
        assert one["gradients"] <= travelled(train, "all-reduce") <= most
    assert all(predict["collectives"] == [] for _, predict in runs(measured, "predict four"))


def test_weights_that_are_cut_travel_to_the_examples(measured: dict[str, Any]) -> None:
    """And their gradients back; never what a layer makes of the examples."""
    for one, run in runs(measured, "train fsdp"):
        state = one["gradients"] + one["statistics"]
        gathered = [shape for kind, shape, _ in run["collectives"] if kind == "all-gather"]
        assert gathered
        assert set(gathered) <= set(one["shapes"])
        assert travelled(run, "all-gather") <= 1.1 * state  # a few are wanted again by the gradient
        assert travelled(run, "all-reduce", "reduce-scatter") <= 1.1 * state + SCALARS
        assert {kind for kind, *_ in run["collectives"]} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert runs(measured, "train fsdp")
