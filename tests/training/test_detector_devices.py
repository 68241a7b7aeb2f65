"""Detectors over four devices: the same numbers as on one, and nothing travels but gradients, statistics and weights.

The steps run in a process of their own, since the tests' has two devices and float32.
"""

import json
from typing import Any

import pytest

from tests.small import start

DETECTORS = ("retinanet", "mask_rcnn")
SCALARS = 1024  # bytes: numbers of positives, sums of losses


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    process = start("tests.training.detector_steps", JAX_NUM_CPU_DEVICES="4", JAX_ENABLE_X64="1")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def travelled(run: dict[str, Any], *kinds: str) -> int:
    return sum(size for kind, _, size in run["collectives"] if kind in kinds)


@pytest.mark.parametrize("name", DETECTORS)
def test_four_devices_say_what_one_says(measured: dict[str, Any], name: str) -> None:
    one = measured[name]
    assert one["train"]["finite"]
    assert min(value for term, value in one["train"].items() if "loss" in term) > 0
    assert one["predict"]["valid"] >= 20
    apart = {run: one[run]["apart"] for run in one if " " in run}
    assert len(apart) == (3 if name == "mask_rcnn" else 2)
    assert {run: value for run, value in apart.items() if not value < 1e-9} == {}


@pytest.mark.parametrize("name", DETECTORS)
def test_nothing_travels_but_gradients_and_statistics(measured: dict[str, Any], name: str) -> None:
    one = measured[name]
    train = one["train four"]
    assert {kind for kind, *_ in train["collectives"]} == {"all-reduce"}
    assert one["gradients"] <= travelled(train, "all-reduce") <= 1.1 * (one["gradients"] + one["statistics"]) + SCALARS
    assert one["predict four"]["collectives"] == []


def test_weights_that_are_cut_travel_to_the_examples(measured: dict[str, Any]) -> None:
    """And their gradients back; never what a layer makes of the examples."""
    one = measured["mask_rcnn"]
    run, state = one["train fsdp"], one["gradients"] + one["statistics"]
    gathered = [shape for kind, shape, _ in run["collectives"] if kind == "all-gather"]
    assert gathered
    assert set(gathered) <= set(one["shapes"])
    assert travelled(run, "all-gather") <= 1.1 * state  # a few are wanted again by the gradient
    assert travelled(run, "all-reduce", "reduce-scatter") <= 1.1 * state + SCALARS
    assert {kind for kind, *_ in run["collectives"]} <= {"all-gather", "all-reduce", "reduce-scatter"}
