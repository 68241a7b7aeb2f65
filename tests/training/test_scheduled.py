"""MMEngine's schedulers against MMEngine's own, driven as its loops drive them: the rate of every step."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft import train
from jaxft.cli import parse
from jaxft.config import Optimizer, Phase, Rule, Schedule, from_json, load, replace, to_json
from jaxft.errors import UserError
from jaxft.fields import explain
from jaxft.schedulers import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, Scheduler, StepLR
from jaxft.training.optim import parameter_groups
from jaxft.training.scheduled import scheduled
from jaxft.training.schedules import schedule
from tests.mmdet_live import quiet
from tests.small import call

with quiet():
    from mmengine.registry import PARAM_SCHEDULERS

EPOCHS, LENGTH = 12, 10
RATES = (0.02, 0.0013)  # of two groups
Arguments = Mapping[str, Any]
READER = pydantic.TypeAdapter(Scheduler)


def mmengine_rates(listed: list[Arguments], epochs: int = EPOCHS, length: int = LENGTH, parts: int = 1) -> np.ndarray:
    """The rates of both groups at each optimizer step `[2, steps]`, of epochs of so many iterations, as the runner
    builds the schedulers and its epoch-based loop and its hook drive them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*step\\(\\)")  # of the first micro-batches, after which no step is taken
        return _driven(listed, epochs, length, parts)


def _driven(listed: list[Arguments], epochs: int, length: int, parts: int) -> np.ndarray:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in RATES])
    built = []
    for arguments in listed:
        end = epochs if arguments.get("by_epoch", True) else epochs * length
        built.append(
            PARAM_SCHEDULERS.build(
                {"end": end, **arguments}, default_args={"optimizer": optimizer, "epoch_length": length}
            )
        )
    rates = []
    for iteration in range(epochs * length):
        if (iteration + 1) % parts == 0:
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch:
                scheduler.step()
        if (iteration + 1) % length == 0:
            for scheduler in built:
                if scheduler.by_epoch:
                    scheduler.step()
    return np.array(rates).T


def our_rates(listed: list[Arguments], epochs: int = EPOCHS, length: int = LENGTH, parts: int = 1) -> np.ndarray:
    """The same by ours; `length` is in iterations, too."""
    read = tuple(READER.validate_python(arguments) for arguments in listed)
    steps = length // parts
    return np.stack([scheduled(read, rate, epochs * steps, steps, parts) for rate in RATES])


LINEAR = {"type": "LinearLR", "start_factor": 0.001}
COSINE = {"type": "CosineAnnealingLR"}
CASES: dict[str, list[Arguments]] = {
    "a ramp of one epoch, converted": [LINEAR | {"end": 1, "convert_to_iter_based": True}],
    "a ramp of three epochs, converted": [LINEAR | {"end": 3, "convert_to_iter_based": True}],
    "a ramp by epoch": [LINEAR | {"end": 3}],
    "one epoch of a ramp by epoch": [LINEAR | {"end": 1}],
    "a ramp by step that begins late": [LINEAR | {"by_epoch": False, "begin": 7, "end": 31, "end_factor": 0.8}],
    "two ramps": [LINEAR | {"by_epoch": False, "end": 20}, LINEAR | {"by_epoch": False, "begin": 30, "end": 60}],
    "a constant by step": [{"type": "ConstantLR", "factor": 0.1, "by_epoch": False, "end": 15}],
    "a constant by epoch": [{"type": "ConstantLR", "begin": 2, "end": 5}],
    "milestones": [{"type": "MultiStepLR", "milestones": [8, 11]}],
    "milestones after a ramp": [
        LINEAR | {"by_epoch": False, "end": 50},
        {"type": "MultiStepLR", "begin": 0, "end": 12, "milestones": [8, 11], "gamma": 0.1},
    ],
    "an end before a milestone": [{"type": "MultiStepLR", "milestones": [4, 9], "end": 7}],
    "two lists of milestones": [
        {"type": "MultiStepLR", "milestones": [4, 9]},
        {"type": "MultiStepLR", "milestones": [6], "gamma": 0.5, "convert_to_iter_based": True},
    ],
    "a milestone named twice": [{"type": "MultiStepLR", "milestones": [4, 4, 9], "gamma": 0.3}],
    "steps": [{"type": "StepLR", "step_size": 3, "begin": 1}],
    "steps, converted": [{"type": "StepLR", "step_size": 2, "gamma": 0.5, "convert_to_iter_based": True, "end": 9}],
    "exponential": [{"type": "ExponentialLR", "gamma": 0.97, "by_epoch": False, "begin": 10, "end": 90}],
    "cosine by epoch": [COSINE],
    "cosine by epoch over its own epochs": [COSINE | {"begin": 3, "end": 9, "eta_min": 0.0001}],
    "cosine, converted": [COSINE | {"T_max": 12, "convert_to_iter_based": True}],
    "cosine to a share": [COSINE | {"T_max": 8, "eta_min_ratio": 0.05, "begin": 4, "convert_to_iter_based": True}],
    "cosine longer than the phase": [COSINE | {"T_max": 50, "by_epoch": False, "end": 10**9}],
    "cosine and back, twice": [COSINE | {"T_max": 25, "by_epoch": False, "eta_min": 0.0005}],
    "poly": [{"type": "PolyLR", "power": 0.9, "eta_min": 0.0001}],
    "poly, converted": [{"type": "PolyLR", "power": 2.0, "begin": 2, "end": 10, "convert_to_iter_based": True}],
    "one cycle": [{"type": "OneCycleLR", "eta_max": 0.1, "total_steps": 150, "by_epoch": False}],
    "one cycle in three parts, converted": [
        {"type": "OneCycleLR", "eta_max": 0.1, "three_phase": True, "pct_start": 0.25, "convert_to_iter_based": True}
    ],
    "one cycle in lines that begins late": [
        {"type": "OneCycleLR", "eta_max": 0.1, "anneal_strategy": "linear", "begin": 30, "by_epoch": False}
    ],
    "restarts": [
        {"type": "CosineRestartLR", "periods": [30, 40, 20], "restart_weights": [1, 0.5, 0.25], "eta_min": 1e-5}
        | {"by_epoch": False}
    ],
    "restarts, converted": [
        {"type": "CosineRestartLR", "periods": [4, 4], "restart_weights": [1, 0.5], "eta_min_ratio": 0.1}
        | {"convert_to_iter_based": True, "begin": 1}
    ],
    "a ramp, half a run at the full rate, a cosine": [
        LINEAR | {"by_epoch": False, "begin": 0, "end": 10},
        COSINE | {"eta_min": 0.001, "begin": 6, "end": 12, "T_max": 6, "by_epoch": True, "convert_to_iter_based": True},
    ],
    "all at once": [
        LINEAR | {"end": 2, "convert_to_iter_based": True},
        {"type": "MultiStepLR", "milestones": [3, 3, 7]},
        COSINE | {"begin": 2, "eta_min_ratio": 0.01, "convert_to_iter_based": True},
        {"type": "ExponentialLR", "gamma": 0.9, "begin": 5},
        {"type": "ConstantLR", "by_epoch": False, "begin": 40, "end": 55},
        {"type": "PolyLR", "by_epoch": False, "begin": 60, "eta_min": 1e-5},
    ],
    "a cosine before and one after one cycle": [
        COSINE | {"eta_min_ratio": 0.2},
        {"type": "OneCycleLR", "eta_max": 0.05, "begin": 2, "end": 6},
        COSINE | {"eta_min_ratio": 0.2, "begin": 6},
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_every_step_has_mmengines_rate(name: str) -> None:
    np.testing.assert_allclose(our_rates(CASES[name]), mmengine_rates(CASES[name]), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_are_mmengines_iterations(name: str) -> None:
    theirs = mmengine_rates(CASES[name], length=12, parts=4)
    assert theirs.shape == (2, 36)
    np.testing.assert_allclose(our_rates(CASES[name], length=12, parts=4), theirs, rtol=1e-13, atol=0)


@st.composite
def listed(draw: st.DrawFn) -> list[Arguments]:
    """One to four schedulers with any arguments that MMEngine takes."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        by = draw(st.sampled_from(["epoch", "iteration", "converted"]))
        most = EPOCHS * LENGTH if by == "iteration" else EPOCHS
        begin = draw(st.integers(0, most))
        kind = draw(st.sampled_from(sorted(KINDS)))
        found.append(
            {"type": kind, "begin": begin, "end": draw(st.integers(begin + 1, 2 * most + 1) | st.just(10**9))}
            | {"by_epoch": by != "iteration", "convert_to_iter_based": by == "converted"}
            | {name: draw(values) for name, values in KINDS[kind].items()}
        )
    return found


SHARE, NUMBER = st.floats(0.05, 1.0), st.integers(1, 40)
KINDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "LinearLR": {"start_factor": SHARE, "end_factor": SHARE},
    "ConstantLR": {"factor": SHARE},
    "MultiStepLR": {"milestones": st.lists(NUMBER, max_size=5), "gamma": st.floats(0.1, 1.5)},
    "StepLR": {"step_size": NUMBER, "gamma": st.floats(0.1, 1.5)},
    "ExponentialLR": {"gamma": st.floats(0.9, 1.05)},
    "CosineAnnealingLR": {"T_max": st.none() | NUMBER, "eta_min_ratio": st.floats(0, 0.5)},
    "PolyLR": {"power": st.floats(0.1, 3), "eta_min": st.floats(0, 0.01)},
    "OneCycleLR": {"eta_max": st.floats(0.001, 1), "pct_start": st.floats(0.15, 0.9), "three_phase": st.booleans()},
    "CosineRestartLR": {
        "periods": st.just([5, 20]),
        "restart_weights": st.just([1, 0.5]),
        "eta_min": st.floats(0, 0.01),
    },
}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(listed())
def test_any_list_of_schedulers_has_mmengines_rates(arguments: list[Arguments]) -> None:
    try:
        theirs = mmengine_rates(arguments)
    except (ZeroDivisionError, ValueError):  # a cycle of which no step is left for a part
        with pytest.raises((UserError, pydantic.ValidationError)):
            our_rates(arguments)
        return
    np.testing.assert_allclose(our_rates(arguments), theirs, rtol=1e-9, atol=1e-300)


def test_a_phase_that_ends_in_the_middle_of_an_epoch() -> None:
    cosine = CosineAnnealingLR(T_max=5, eta_min=0.001)
    np.testing.assert_array_equal(scheduled((cosine,), 0.1, 33, 10), scheduled((cosine,), 0.1, 50, 10)[:33])


def test_a_year_of_training_is_tabulated_in_seconds() -> None:
    rates = scheduled((LinearLR(by_epoch=False, end=1000), MultiStepLR(milestones=(200,))), 0.1, 10**7, 40_000)
    assert rates[0] == pytest.approx(0.1 / 3)
    assert rates[-1] == pytest.approx(0.01)


# Schedules of a configuration


def test_a_phase_and_a_rule_with_schedulers() -> None:
    late = Schedule(schedulers=(MultiStepLR(milestones=(2,)),), micro_batches=True)
    own = Schedule(schedulers=(LinearLR(by_epoch=False, end=9),), micro_batches=True)
    phase = Phase(
        epochs=3, lr_scale=0.5, schedule=late, rules=(Rule(pattern="fc", schedule=own), Rule(pattern="*", lr_scale=3))
    )
    shapes = {"fc.kernel": (2, 3), "body.kernel": (3, 2)}
    groups = parameter_groups(shapes, Optimizer(learning_rate=0.1, accumulate=4), phase, 5)
    rates = [groups.group("body.kernel").lr(step) for step in range(15)]
    assert rates == pytest.approx([0.15] * 10 + [0.015] * 5)
    fc = [groups.group("fc.kernel").lr(step) for step in range(15)]
    # Iterations 3, 7, 11, ... of a ramp over 8; after its end the rate stays.
    assert fc == pytest.approx([0.05 * (1 / 3 + 2 / 3 * min(4 * step + 3, 8) / 8) for step in range(15)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Schedule(schedulers=(StepLR(step_size=1),), warmup=2, decay="cosine"), "schedulers and decay, warmup, which"),
        (Schedule(micro_batches=True), "micro_batches is for MMEngine's schedulers"),
        (
            Schedule(schedulers=(StepLR(step_size=1, begin=5),)),
            "phase of 2 epoch.*end is 2 and begin is 5",
        ),
        (
            Schedule(schedulers=(OneCycleLR(eta_max=1, total_steps=5, by_epoch=False),)),
            "OneCycleLR has total_steps=5, but goes on until 20",
        ),
        (Schedule(schedulers=(OneCycleLR(eta_max=1, pct_start=0.5),)), "cannot be computed at its count 0"),
        (
            Schedule(schedulers=(StepLR(step_size=1, gamma=1e300, by_epoch=False),)),
            "rate inf at its step 3",
        ),
    ],
)
def test_schedulers_that_do_not_fit_are_refused(settings: Schedule, message: str) -> None:
    with pytest.raises(UserError, match=message):
        schedule(settings, 0.1, 20, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (LINEAR | {"start_factor": 1.5}, r"LinearLR\.start_factor: .*less than or equal to 1, found 1\.5"),
        (LINEAR | {"begin": 5, "end": 5}, "end is 5 and begin is 5"),
        (LINEAR | {"begin": -1}, r"begin: .*found -1"),
        (LINEAR | {"by_epoch": False, "convert_to_iter_based": True}, "but by_epoch is false"),
        (LINEAR | {"end": 0.5}, "must be whole numbers"),
        (LINEAR | {"stop": 5}, "unknown field .*stop"),
        ({"type": "MultiStepLR", "milestones": [1.5]}, r"milestones\.0: .*found 1\.5"),
        ({"type": "MultiStepLR"}, "milestones"),
        ({"type": "StepLR", "step_size": 0}, "step_size: .*found 0"),
        (COSINE | {"eta_min": 0.1, "eta_min_ratio": 0.1}, "eta_min and eta_min_ratio both"),
        ({"type": "OneCycleLR", "eta_max": 1, "anneal_strategy": "cosine"}, "anneal_strategy: .*found 'cosine'"),
        ({"type": "OneCycleLR", "eta_max": 1, "pct_start": 1.1}, r"pct_start: .*found 1\.1"),
        ({"type": "CosineRestartLR", "periods": [3], "restart_weights": [1, 2], "eta_min": 0}, "there are 1 and 2"),
        ({"type": "CosineRestartLR", "periods": [3]}, "one of eta_min and eta_min_ratio must be given"),
        ({"type": "ReduceOnPlateauLR"}, "ReduceOnPlateauLR"),
    ],
)
def test_arguments_that_mmengine_refuses_are_explained(arguments: Arguments, message: str) -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        READER.validate_python(arguments)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(explain(error.value, {}))


def test_a_scheduler_is_changed_by_its_path() -> None:
    base = Phase(schedule=Schedule(schedulers=(LinearLR(end=3), MultiStepLR(milestones=(8,)))))
    changed = replace(base, {"schedule.schedulers.1.milestones": (6, 9)})
    assert changed.schedule.schedulers == (LinearLR(end=3), MultiStepLR(milestones=(6, 9)))
    with pytest.raises(UserError, match="end is 3 and begin is 4"):
        replace(base, {"schedule.schedulers.0.begin": 4})


CONFIG = """
from jaxft.config import Config, Phase, Schedule
from jaxft.schedulers import CosineRestartLR, LinearLR, OneCycleLR

ramp = LinearLR(start_factor=0.1, by_epoch=False, end=500)
restarts = CosineRestartLR(periods=(4, 8), restart_weights=(1, 0.5), eta_min_ratio=0.1, convert_to_iter_based=True)
config = Config(phases=(Phase(schedule=Schedule(schedulers=(ramp, restarts, OneCycleLR(eta_max=0.1, begin=0.5,
    convert_to_iter_based=True)), micro_batches=True)),))
"""


def test_schedulers_of_a_file_are_saved_and_changed_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "listed.py"
    file.write_text(CONFIG)
    config = load(file)
    assert from_json(to_json(config), file) == config
    path = "phases.0.schedule.schedulers.0"
    options, _ = parse(["--config", str(file), f"--{path}.end", "300", f"--{path}.start-factor", "0.5"])
    assert options.settings == replace(config, {f"{path}.end": 300, f"{path}.start_factor": 0.5})
    result = call(train.main, "--config", file, f"--{path}.begin", 500)
    assert result.code == 2
    assert "end is 500 and begin is 500" in result.err
    assert "Traceback" not in result.err
