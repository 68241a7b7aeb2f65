"""The command that plans a run for a slice that is not here."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from rich.console import Console

from jaxft import plan
from jaxft.planning.chips import parse
from jaxft.planning.program import compiled_for, set_up_for
from tests.planning.test_program import CONFIG, HERE
from tests.small import ROOT, call, execute, user_error

DIGITS = ROOT / "configs" / "digits.py"


def test_what_is_printed() -> None:
    setup, _ = set_up_for(CONFIG, jax.devices(), batch_per_device=None, classes=3)
    (one,) = compiled_for(setup, setup.stages[0], HERE)
    row = [one, one.elsewhere(parse("v6e:4x4")), one.elsewhere(parse("h100:8"))]
    console = Console(width=180)
    with console.capture() as captured:
        plan.show(row, 1, console)
    text = captured.get()
    assert "Phase 1 on here:2: 2 chips, 4 examples a chip and step, 8 in all, float32." in text
    assert "It fits into 1.0 GB." in text
    for words in ("parameters", "temporaries", "all-reduce", "v6e:4x4", "h100:8"):
        assert words in text
    found = json.loads(json.dumps([plan.summary(each) for each in row]))
    assert [(each["chips"], each["batch"]) for each in found] == [(2, 8), (16, 64), (8, 32)]
    assert found[0]["memory_needed"] == sum(found[0]["memory"].values()) == one.memory
    without = replace(one, travels=())
    with console.capture() as captured:
        plan.show([without], 1, console)
    assert "Nothing travels between the chips." in captured.get()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name a configuration with --config FILE"),
        (("--config", DIGITS, "--topology", "v9:2x2"), "There is no chip 'v9'"),
        (("--config", DIGITS, "--topology", "h100:8"), "A step can be compiled for TPUs alone"),
        (("--config", "nowhere.py"), "nowhere.py"),
    ],
)
def test_what_cannot_be_planned(arguments: tuple[object, ...], message: str) -> None:
    assert message in user_error(call(plan.main, *arguments))


@pytest.mark.slow
def test_a_step_for_a_tpu(tmp_path: Path) -> None:
    """With libtpu, which the extra `tpu` brings."""
    pytest.importorskip("libtpu")
    arguments = ("--topology", "v5e:2x2", "--batch-per-device", 4, "--classes", 10, "--task.images.crop", 64)
    result = execute("jaxft.plan", "--config", DIGITS, *arguments, "--json")
    assert result.code == 0, result
    ((one,),) = json.loads(result.out)["programs"]
    assert one["fits"]
    assert one["memory"]["temporaries"] > 1e6
    assert {way["kind"] for way in one["collectives"]} == {"all-reduce"}
    # BatchNorm keeps its statistics there: what travels are the gradients, and two numbers.
    assert sum(way["bytes"] for way in one["collectives"]) == pytest.approx(one["memory"]["parameters"], rel=1e-3)
    wrong = execute("jaxft.plan", "--config", DIGITS, "--topology", "v5e:3x5")
    assert "There is no slice v5e:3x5" in user_error(wrong)
