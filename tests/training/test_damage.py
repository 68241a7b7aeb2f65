"""A damaged checkpoint: which step it is of, what is wrong, what else there is, and never a wrong model in silence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft import export, load_run, train
from jaxft.errors import UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.models.paths import values
from jaxft.predict import main as predict_main
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.orbax_items import arrays_in
from tests.small import Small, call, execute, final, interrupted, user_error

pytest_plugins = ("tests.runs",)

Harm = Callable[[Path], object]


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run: the last and the best checkpoint are of step 6."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def largest(folder: Path) -> Path:
    """Where the numbers are."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def halved(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


HARMS: dict[str, tuple[Harm, str]] = {
    "numbers emptied": (lambda step: emptied(largest(step / "model" / "ocdbt.process_0")), " has 0 of "),
    "numbers halved": (lambda step: halved(largest(step / "model" / "ocdbt.process_0")), " has "),
    "a bit of the numbers flipped": (
        lambda step: flipped(largest(step / "model" / "ocdbt.process_0")),
        " is not what was written",
    ),
    "numbers gone": (lambda step: largest(step / "model" / "ocdbt.process_0").unlink(), " is missing"),
    "names flipped": (lambda step: flipped(step / "model" / "_METADATA"), "model/_METADATA is not what was written"),
    "checksums gone": (lambda step: (step / "model" / "checksums.txt").unlink(), "model/checksums.txt is missing"),
    "the model gone": (lambda step: shutil.rmtree(step / "model"), "model is missing"),
    "metadata flipped": (lambda step: flipped(step / "metadata" / "metadata"), "metadata is not what was written"),
    "metadata gone": (lambda step: (step / "metadata" / "metadata").unlink(), "metadata/metadata is missing"),
}
OF_THE_OPTIMIZER: dict[str, tuple[Harm, str]] = {
    "the optimizer flipped": (lambda step: flipped(largest(step / "optimizer" / "ocdbt.process_0")), "not what was"),
    "the optimizer gone": (lambda step: shutil.rmtree(step / "optimizer"), "optimizer is missing"),
}


@pytest.mark.parametrize("harm", HARMS | OF_THE_OPTIMIZER)
def test_resuming_says_what_is_damaged_and_what_is_whole(run: Path, harm: str) -> None:
    do, reason = (HARMS | OF_THE_OPTIMIZER)[harm]
    do(run / "checkpoints" / "last" / "6")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert message.startswith(f"The last checkpoint of {run}, of step 6, is damaged: ")
    assert reason in message
    assert "The best one, of step 6, is whole: evaluate, predict and export take it with --checkpoint best" in message
    assert f"`python -m jaxft.export --run {run} --checkpoint best --output model.pth`" in message
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


COMMANDS: dict[str, tuple[Callable[[], int | None], tuple[object, ...]]] = {
    "evaluate": (evaluate_main, ()),
    "predict": (predict_main, ("photo.png", "--output", "found")),
    "export": (export.main, ("--output", "model.pth")),
}


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_reads_a_model_suggests_the_other_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, which: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(b"not looked at")
    flipped(largest(run / "checkpoints" / which / "6" / "model" / "ocdbt.process_0"))
    main, arguments = COMMANDS[command]
    message = user_error(call(main, "--run", run, *arguments, "--checkpoint", which))
    other = {"best": "last", "last": "best"}[which]
    assert message.startswith(f"The {which} checkpoint of {run}, of step 6, is damaged: model/ocdbt.process_0/d/")
    assert f"The {other} one, of step 6, is whole: evaluate, predict and export take it with --checkpoint {other}" in (
        message
    )
    assert not {"found", "model.pth"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("harm", HARMS)
def test_python_gets_the_same_sentence(run: Path, harm: str) -> None:
    HARMS[harm][0](run / "checkpoints" / "last" / "6")
    with pytest.raises(UserError, match=r"^The last checkpoint of .* is damaged.*\(in Python checkpoint='best'\)"):
        load_run(run, checkpoint="last")
    assert load_run(run).step == 6


def test_an_optimizer_that_is_not_needed_may_be_damaged(run: Path) -> None:
    OF_THE_OPTIMIZER["the optimizer gone"][0](run / "checkpoints" / "last" / "6")
    assert load_run(run, checkpoint="last").step == 6


def test_a_damaged_average_is_no_average(tmp_path: Path) -> None:
    model = {"kernel": jnp.arange(6.0), "mean": jnp.ones(2)}
    state = SimpleNamespace(step=jnp.int32(3), model=model, opt_state={}, ema={"kernel": jnp.zeros(6)})
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(state, {"phase": 0})  # type: ignore[arg-type]
        checkpoints.wait()
    flipped(largest(tmp_path / "run" / "checkpoints" / "last" / "3" / "ema" / "ocdbt.process_0"))
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.model(model, "last")[0] == 3
        with pytest.raises(UserError, match=r"of step 3, is damaged: ema/.* No other one is whole; take the directory"):
            checkpoints.model(model, "last", averaged=["kernel"])
        with pytest.raises(UserError, match="is damaged: ema/"):
            checkpoints.check("last")


def test_where_nothing_is_whole_it_is_said(run: Path) -> None:
    for which in ("best", "last"):
        halved(largest(run / "checkpoints" / which / "6" / "model" / "ocdbt.process_0"))
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert message.endswith("No other one is whole; take the directory from a copy, or train again with another "
                            "--workdir.\n")  # fmt: skip


@pytest.mark.parametrize("missing", ["6", "."])
def test_a_run_whose_last_checkpoint_is_gone_does_not_begin_anew(run: Path, missing: str) -> None:
    shutil.rmtree(run / "checkpoints" / "last" / missing)
    metrics = (run / "metrics.jsonl").read_text()
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert message.startswith(f"{run} holds no last checkpoint. The best one, of step 6, is whole: ")
    assert (run / "metrics.jsonl").read_text() == metrics


def test_training_goes_on_without_a_damaged_best_one_as_it_says(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(config_file, run, 5)
    best = run / "checkpoints" / "best"
    flipped(largest(best / "3" / "model" / "ocdbt.process_0"))
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert message.startswith(f"The best checkpoint of {run}, of step 3, is damaged: ")
    assert f"training goes on without the best one after `rm -r {best}`" in message
    shutil.rmtree(best)
    assert call(train.main, "--workdir", run, "--resume").code == 0
    assert load_run(run).step == 6


def test_another_model_is_told_by_its_arrays(run: Path) -> None:
    model = Small(5, rngs=nnx.Rngs(0))
    with pytest.raises(UserError) as caught:
        load_run(run, model=model)
    assert str(caught.value).splitlines() == [
        f"The best checkpoint of {run}, of step 6, is of another model (2 reasons).",
        "  - fc.bias is (3,) there and (5,) here",
        "  - fc.kernel is (8, 3) there and (8, 5) here",
    ]
    model.more = nnx.List([nnx.Param(jnp.ones(1)) for _ in range(12)])
    with pytest.raises(UserError, match=r"\(14 reasons\)") as caught:
        load_run(run, model=model)
    _, *reasons = str(caught.value).splitlines()
    assert len(reasons) == 11
    assert reasons[2:3] == ["  - more.0 is missing there and (1,) here"]
    assert reasons[-1] == "  - ... and 4 more"


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_harmed_at_random_is_refused_or_whole(small_run: Path, tmp_path: Path, count: int) -> None:
    """In a process of its own, because what Orbax leaves unfinished complains until the process ends."""
    result = execute("tests.training.damaged", small_run, tmp_path, count, 17)
    assert result.code == 0, result
    assert result.err == ""
    assert "refused" in result.out


def test_an_older_checkpoint_that_was_kept_is_the_way_back(config_file: Path, small_run: Path, tmp_path: Path) -> None:
    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last"
    training = ("--config", config_file, "--workdir", run, "--keep-checkpoints", 2)
    assert call(train.main, *training).code == 0
    assert sorted(path.name for path in last.iterdir()) == ["3", "6"]
    step, arrays = final(small_run)
    assert step == 6
    assert load_run(run, checkpoint=3).step == 3
    mesh = jax.make_mesh((2,), ("mine",))
    with jax.set_mesh(mesh):  # a mesh of the user's own changes nothing
        kernel = values(load_run(run, checkpoint=6).model)["conv1.kernel"]
    np.testing.assert_array_equal(np.asarray(kernel), arrays["conv1.kernel"])

    flipped(largest(last / "6" / "model" / "ocdbt.process_0"))
    message = user_error(call(train.main, *training, "--resume"))
    assert f"That of step 3 is whole, and the run's last one after `rm -r {last / '6'}`" in message
    shutil.rmtree(last / "6")
    best = run / "checkpoints" / "best"
    (chosen,) = best.iterdir()
    chosen.rename(best / "6")  # as if it had been chosen where the run does not go on
    with jax.set_mesh(mesh):
        assert call(train.main, *training, "--resume").code == 0
    assert final(run, "best")[0] == 6
    assert (best / "6").stat().st_mtime > (last / "3").stat().st_mtime
    flipped(largest(last / "3" / "model" / "ocdbt.process_0"))
    message = user_error(call(evaluate_main, "--run", run, "--checkpoint", 3))
    assert message.rstrip().endswith("That of step 6 is whole: --checkpoint 6.")
    for path, array in arrays_in(last / "6" / "model").items():
        np.testing.assert_array_equal(array, arrays[path[2:-2]])
