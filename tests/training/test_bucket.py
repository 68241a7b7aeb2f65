"""A run in a bucket of Google Cloud Storage is the run on a disk."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxft.errors import UserError
from jaxft.places import place
from jaxft.reporting.lines import Lines
from tests.bucket import Bucket, serving
from tests.small import Result, execute, user_error
from tests.training.test_processes import processes

pytest_plugins = ("tests.runs",)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with serving() as served:
        yield served


def run(bucket: Bucket, module: str, *arguments: object, **changes: str) -> Result:
    return execute(module, *arguments, **bucket.environment, **changes)


def several(bucket: Bucket, *commands: tuple[object, ...]) -> list[Result]:
    """Commands that write nothing, one after the other in one process."""
    ended = run(bucket, "tests.several", json.dumps([[str(part) for part in command] for command in commands]))
    assert ended.code == 0, ended
    return [Result(*found) for found in json.loads(ended.out)]


def names(bucket: Bucket, folder: str) -> set[str]:
    """What lies directly in a folder."""
    return {
        name.removeprefix(f"{folder}/").partition("/")[0] for name in bucket.objects if name.startswith(f"{folder}/")
    }


def losses(metrics: str, split: str) -> list[tuple[int, float]]:
    """By step."""
    lines = map(json.loads, metrics.splitlines())
    return [(line["step"], line["loss"]) for line in lines if line["split"] == split]


def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket: Bucket, config_file: Path, small_run: Path) -> None:
    """Killed in the middle, resumed, evaluated at a step that was kept; all of it in the bucket."""
    where = "gs://bucket/runs/small"
    training = ("--config", config_file, "--workdir", where, "--keep-checkpoints", 2, "--hardware.profile", 2, 3)
    training += ("--pictures", "--report", "photos")
    killed = run(bucket, "tests.failing", *training, FAILS="0:5:killed")
    assert killed.code == -signal.SIGKILL, killed
    resumed = run(bucket, "tests.small", *training, "--resume")
    assert resumed.code == 0, resumed
    assert "Going on from step 3 of 6" in resumed.out
    assert f"--run {where}" in resumed.out

    written = {"config.json", "classes.json", "examples.json.gz", "metrics.jsonl", "checkpoints", "pictures"}
    shown = {"beginning.json", "evaluation.json.gz", "time.json", "report.html"}
    assert names(bucket, "runs/small") == written | shown | {"tensorboard", "profile"}
    assert names(bucket, "runs/small/checkpoints/last") == {"3", "6"}
    assert names(bucket, "runs/small/pictures") == {"inputs.png", "learning_curves.png", "predictions.png"}
    metrics = bucket.objects["runs/small/metrics.jsonl"].data.decode()
    assert losses(metrics, "validation") == losses((small_run / "metrics.jsonl").read_text(), "validation")

    step, loss = losses(metrics, "validation")[0]
    evaluated, missing, again = several(
        bucket,
        ("evaluate", "--run", where, "--json", "--checkpoint", step),
        ("evaluate", "--run", where, "--checkpoint", 4),
        ("train", *training),
    )
    assert evaluated.code == 0, evaluated
    found = json.loads(evaluated.out)
    assert (found["run"], found["step"], found["metrics"]["loss"]) == (where, step, pytest.approx(loss))
    assert "holds no checkpoint of step 4; those that it holds: 3, 6" in user_error(missing)
    assert f"{where} exists already" in user_error(again)


def test_two_processes_share_a_bucket(bucket: Bucket, config_file: Path, small_run: Path) -> None:
    """What both of them write and read there is one run."""
    arguments = ("--config", config_file, "--workdir", "gs://bucket/runs/two")
    for result in processes(*arguments, JAX_NUM_CPU_DEVICES="1", **bucket.environment):
        assert result.code == 0, result
    metrics = bucket.objects["runs/two/metrics.jsonl"].data.decode()
    alone = losses((small_run / "metrics.jsonl").read_text(), "validation")
    assert losses(metrics, "validation") == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in alone]


def test_a_bucket_that_cannot_be_used(bucket: Bucket, config_file: Path) -> None:
    """One sentence, whoever refuses."""
    result = run(bucket, "tests.small", "--config", config_file, "--workdir", "gs://elsewhere/runs/a")
    assert "The run directory gs://elsewhere/runs/a cannot be written" in user_error(result)
    bucket.refuse = True
    try:
        trained, evaluated = several(
            bucket,
            ("train", "--config", config_file, "--workdir", "gs://bucket/runs/new"),
            ("evaluate", "--run", "gs://bucket/runs/small"),
        )
        assert "gs://bucket/runs/new cannot be reached (Forbidden" in user_error(trained)
        assert "gs://bucket/runs/small cannot be reached (Forbidden" in user_error(evaluated)
    finally:
        bucket.refuse = False


@pytest.mark.parametrize("name", ["s3://bucket/run", "az://bucket/run", "http:/host/run"])
def test_other_addresses_are_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name.partition(':')[0]}://.* is no place for a run directory"):
        place(name)


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    for name in (tmp_path, Path("runs/a"), Path("a:b"), Path("c:/windows")):
        assert place(name) == place(str(name)) == name


def test_lines_that_a_kill_has_cut_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("1\n2\n3")
    for cut in ("1\n2\n3", "1\n2\n3\n", ""):
        path.write_text(cut)
        lines = Lines(path, lambda line: line != "2")
        lines.add("4")
        assert path.read_text() == "".join(f"{line}\n" for line in lines)
        assert list(lines) == ([*"134"] if cut else ["4"])
        lines.close()
