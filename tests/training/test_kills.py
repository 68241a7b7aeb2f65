"""A run that is killed at random moments, then finished, ends as if nothing had happened."""

import random
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.small import assert_equal_runs, execute, start, write_config
from tests.training.test_resume import LONG, assert_same_metrics, wait_for

pytest_plugins = ("tests.runs",)


def killed_again_and_again(photos: Path, folder: Path, phases: str, kills: int, rng: random.Random) -> None:
    """A run that is killed at random moments, then finished, next to one that nobody disturbs."""
    config = write_config(folder / "configs" / "long.py", photos, phases=phases)
    calm, run = folder / "calm", folder / "run"
    arguments = ("--config", config, "--checkpoint-every", 1)
    assert execute("tests.small", *arguments, "--workdir", calm).code == 0
    moments: list[int] = []
    for _ in range(kills):
        known = newest(run)
        with start("tests.small", *arguments, "--workdir", run, "--resume") as process:
            wait_for(partial(is_further, run, known, process))
            time.sleep(rng.uniform(0, 0.7))  # perhaps in the middle of a checkpoint, a picture or a line
            assert process.poll() is None, f"the run was over before it could be killed; checkpoints at {moments}"
            process.kill()
            process.communicate()
        moments.append(newest(run))
    result = execute("tests.small", *arguments, "--workdir", run, "--resume")
    assert result.code == 0, (moments, result)
    print("last checkpoint at each kill:", moments)
    assert_equal_runs(run, calm)
    assert_same_metrics(run, calm)


def is_further(run: Path, known: int, process: "subprocess.Popen[str]") -> bool:
    return newest(run) > known or process.poll() is not None


def newest(run: Path) -> int:
    """The step of the last whole checkpoint; 0 where there is none."""
    return max((int(path.name) for path in run.glob("checkpoints/last/*") if path.name.isdigit()), default=0)


def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(photos: Path, tmp_path: Path) -> None:
    killed_again_and_again(photos, tmp_path, LONG.replace("12", "5"), 1, random.Random(0))


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_ends_as_if_nothing_had_happened(photos: Path, tmp_path: Path) -> None:
    killed_again_and_again(photos, tmp_path, LONG, 5, random.Random())
