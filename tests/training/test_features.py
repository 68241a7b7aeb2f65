"""Training from features that were computed once."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.config import Config, load, replace
from jaxft.dry_run import print_plan
from jaxft.errors import UserError
from jaxft.models import BUILDERS
from jaxft.models.paths import values
from jaxft.planning.program import set_up_for
from jaxft.reporting.console import make_console
from jaxft.training.fitted import Fitted
from jaxft.training.loop import fit
from jaxft.training.split import cut
from tests.small import HEAD_ALONE, Small, assert_equal_runs, final, lines, write_config
from tests.training.test_processes import processes

pytest_plugins = ("tests.runs",)


def still(num_classes: int = 1000, *, rngs: nnx.Rngs) -> Small:
    """The small network without chance."""
    return Small(num_classes, dropout=0.0, rngs=rngs)


BUILDERS["still"] = still


@pytest.fixture
def config(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The head alone, from three views, each of them once and one twice."""
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    settings = load(write_config(tmp_path / "small.py", photos, model="still", phases=HEAD_ALONE))
    return replace(
        settings,
        {"data.views": 3, "phases.0.epochs": 4, "stored_features": True},
    )


def numbers(fitted: Fitted) -> dict[str, np.ndarray]:
    return {path: np.asarray(array) for path, array in values(fitted.model).items()}


def losses(fitted: Fitted) -> list[float]:
    return [line["loss"] for line in lines(fitted.path)]


def test_it_is_the_run_on_the_same_views(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses, the evaluation's too, and parameters; and a second run finds what the first one has computed."""
    plain = fit(replace(config, {"stored_features": False}), tmp_path / "plain")
    capsys.readouterr()
    stored = fit(config, tmp_path / "stored")
    said = capsys.readouterr().out
    assert re.search(r"features of 24 examples in 3 view\(s\): [\d.]+ kB in .*cache/features/\w{24}\n", said)
    assert re.search(r"features of 10 examples: [\d.]+ k?B in ", said)
    np.testing.assert_allclose(losses(stored), losses(plain), rtol=1e-5)
    for path, array in numbers(plain).items():
        np.testing.assert_allclose(numbers(stored)[path], array, rtol=1e-5, atol=1e-6, err_msg=path)
    again = fit(config, tmp_path / "again")
    assert capsys.readouterr().out.count(", computed before") == 2
    assert_equal_runs(stored.path, again.path)
    assert sorted(path.name[0] != "." for path in (tmp_path / "cache" / "features").iterdir()) == [True, True]


def test_a_resumed_run_is_the_same_run(config: Config, tmp_path: Path) -> None:
    config = replace(config, {"seed": 11})
    whole = fit(config, tmp_path / "whole")
    fit(config, tmp_path / "cut", stop_after=5)
    resumed = fit(config, tmp_path / "cut", resume=True)
    assert_equal_runs(whole.path, resumed.path)


@pytest.mark.parametrize("changed", ["weights", "photo", "transform"])
def test_what_changes_the_features_computes_them_anew(
    changed: str, config: Config, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, {"phases.0.epochs": 1, "data.views": 1})
    fit(config, tmp_path / "first")
    if changed == "photo":
        file = next((photos / "train" / "red").iterdir())
        file.touch()
    else:
        config = replace(config, {"seed": 4} if changed == "weights" else {"task.images.flip": 0.0})
    capsys.readouterr()
    fit(config, tmp_path / "second")
    assert capsys.readouterr().out.count(", computed before") == (1 if changed == "photo" else 0)  # the test photos


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "small"}, "stored_features would keep 4,096 numbers an image, no fewer than its own 3,072"),
        ({"task.mixup": 0.2}, "something that trains, or is random in training"),
        ({"phases.0.rules.1.batch_norm": "batch"}, "set batch_norm of the phases to running"),
    ],
)
def test_what_gains_nothing_is_refused(changes: dict[str, Any], message: str, config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fit(replace(config, changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_views_must_be_said_and_phases_alike(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set data\.views, to 1 without any augmentation"):
        fit(replace(config, {"data.views": 0}), tmp_path / "run")
    second = replace(config.phases[0], {"rules.1.frozen": False})
    with pytest.raises(UserError, match="the phases train different parts"):
        fit(replace(config, {"phases": (config.phases[0], second)}), tmp_path / "run")


def test_views_come_one_after_the_other(config: Config, tmp_path: Path) -> None:
    """The first epoch of any number of views is that of none, and the fourth of three the first one again."""
    config = replace(config, {"stored_features": False, "data.shuffle": False, "optimizer.learning_rate": 1e-12})
    three = losses(fit(replace(config, {"log_every": 3}), tmp_path / "three"))
    endless = losses(fit(replace(config, {"log_every": 3, "data.views": 0}), tmp_path / "endless"))
    assert len(three) == 8  # a line of training and one of evaluation an epoch
    assert three[:6] == endless[:6]
    assert three[6] == three[0] != endless[6]


def test_a_function_is_cut_where_something_changes() -> None:
    """Through calls and custom derivatives; what depends on weights alone is computed anew."""

    @jax.jit
    def inner(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ w)  # which has a derivative of its own

    def function(head: jax.Array, fixed: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        features = inner(inner(images, fixed), fixed * 2)
        return ((jax.nn.silu(features @ head) - labels) ** 2 * fixed.sum()).mean()

    rng = np.random.default_rng(0)
    head, fixed, images, labels = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 1), (4, 4), (6, 4), (6, 1))
    )
    split = cut(function, head, fixed, images, labels)
    assert [kept.shape for kept in split.kept] == [(6, 4)]
    kept = split.first(fixed, images)
    np.testing.assert_allclose(split.rest(head, fixed, kept, labels), function(head, fixed, images, labels), rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(split.rest)(head, fixed, kept, labels), jax.grad(function)(head, fixed, images, labels), rtol=1e-5
    )


@pytest.mark.slow
def test_two_processes_share_the_work(photos: Path, tmp_path: Path) -> None:
    """Each computes its share; the run is that of one process, which finds what they have kept."""
    config = write_config(tmp_path / "resnet.py", photos, model="resnet18", phases=HEAD_ALONE)
    flags = ("--config", config, "--stored-features", "--data.views", 2)
    cache = str(tmp_path / "cache")
    results = processes(*flags, "--workdir", tmp_path / "two", JAXFT_CACHE=cache)
    assert [result.code for result in results] == [0, 0], results
    one = processes(*flags, "--workdir", tmp_path / "one", count=1, JAXFT_CACHE=cache)[0]
    assert one.out.count(", computed before") == 2
    for path, array in final(tmp_path / "one")[1].items():
        np.testing.assert_allclose(final(tmp_path / "two")[1][path], array, rtol=1e-5, atol=1e-6, err_msg=path)


def test_what_no_key_can_tell_is_computed_anew(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a loss of one's own, whose code nobody compares; nothing stays on disk."""

    def loss(model: Any, batch: Any) -> jax.Array:
        return jnp.square(model(batch["image"].astype(jnp.float32) / 255)).mean()

    config = replace(config, {"phases.0.epochs": 1, "data.views": 1, "data.validation": None})
    for name in ("one", "two"):
        fit(config, tmp_path / name, loss=loss)
    said = capsys.readouterr().out
    assert said.count("features of 24 examples in 1 view(s): ") == 2
    assert "computed before" not in said
    assert not list((tmp_path / "cache" / "features").iterdir())


def test_a_dry_run_and_a_plan_know_of_it(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(config, make_console())
    assert "features: 8 numbers of each of 3 view(s) of an image are computed once" in capsys.readouterr().out
    with pytest.raises(UserError, match="something that trains"):
        print_plan(replace(config, {"model.name": "small"}), make_console())
    with pytest.raises(UserError, match="a plan is of the step on images"):
        set_up_for(config, jax.devices(), batch_per_device=None, classes=3)
