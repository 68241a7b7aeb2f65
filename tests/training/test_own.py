"""`fit` with what a user brings: a model of plain Flax layers, datasets, a loss and callbacks."""

import itertools
import signal
import sys
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jaxft
from jaxft import ArrayDataset
from jaxft.config import Classification, Config, Data, Images, Optimizer, Phase, Rule, replace
from jaxft.data.dataset import Arrays
from jaxft.errors import UserError
from jaxft.models.paths import values
from jaxft.training.fitted import Event, Fitted
from tests.small import assert_equal_runs, final, lines

CLASSES = ("dark", "bright", "red")
CONFIG = Config(
    task=Classification(images=Images(crop=8, resize=8)),
    data=Data(batch_size=8),
    optimizer=Optimizer(learning_rate=0.05, momentum=0.9),
    phases=(Phase(epochs=2),),
    log_every=2,
)


class Own(nnx.Module):
    """Flax's own layers in a list, a dictionary and a sequence."""

    def __init__(self, outputs: int = 3, *, rngs: nnx.Rngs) -> None:
        first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        second = nnx.Conv(8, 8, (3, 3), feature_group_count=4, rngs=rngs)
        self.convs = nnx.data([first, second])
        batch, group = nnx.BatchNorm(8, momentum=0.5, rngs=rngs), nnx.GroupNorm(8, 2, rngs=rngs)
        self.norms = nnx.data({"first": batch, "second": group})
        self.head = nnx.Sequential(nnx.Linear(8, 8, rngs=rngs), nnx.relu, nnx.Linear(8, outputs, rngs=rngs))
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.norms["first"](self.convs[0](x)))
        x = nnx.relu(self.norms["second"](self.convs[1](x)))
        return self.head(self.dropout(x.mean((1, 2))))


def own(outputs: int = 3) -> Own:
    return Own(outputs, rngs=nnx.Rngs(3))


def dataset(count: int, seed: int) -> ArrayDataset:
    rng = np.random.default_rng(seed)
    colors = np.array([(0, 0, 0), (100, 100, 100), (130, 0, 0)])
    images = [(rng.integers(0, 120, (8, 8, 3)) + colors[i % 3]).astype(np.uint8) for i in range(count)]
    return ArrayDataset([{"image": image, "label": i % 3} for i, image in enumerate(images)], CLASSES, augment=flipped)


def flipped(example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**example, "image": example["image"][:, :: rng.choice([-1, 1])]}


class Plain:
    """A dataset written by hand, which has what `jaxft.data.dataset.Dataset` lists and no more."""

    classes = CLASSES

    def __init__(self, inside: ArrayDataset) -> None:
        self.inside, self.buckets = inside, np.zeros(len(inside), np.int32)

    def __len__(self) -> int:
        return len(self.buckets)

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        return self.inside.training(index, rng)

    def evaluation(self, index: int) -> Arrays:
        return self.inside.evaluation(index)

    def padding(self, bucket: int) -> Arrays:
        return self.evaluation(0)

    def names(self) -> list[str]:
        return list(self.inside.names())

    def check(self) -> None:
        pass

    def report(self, batch_size: int) -> str:
        return "mine"


TRAIN, VALIDATION = dataset(24, 0), Plain(dataset(11, 1))


def focal(model: Any, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """A loss that no task has."""
    logits = model(batch["image"].astype(jnp.float32) / 255)
    entropies = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    sure = jnp.exp(-entropies)
    return ((1 - sure) ** 2 * entropies).mean(), {"sure": sure.mean()}


def fit(workdir: Path, **changes: Any) -> Fitted:
    return jaxft.fit(
        changes.pop("config", CONFIG),
        workdir,
        **{"model": own(), "datasets": (TRAIN, VALIDATION), "loss": focal} | changes,
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """An undisturbed run. Its directory is not to be changed."""
    return fit(tmp_path_factory.mktemp("own") / "run")


def test_a_run_of_ones_own_things(calm: Fitted) -> None:
    assert calm.complete
    assert calm.step == 6
    assert calm.classes == CLASSES
    train = [line for line in lines(calm.path) if line["split"] == "train"]
    assert {"loss", "sure"} <= train[0].keys()
    assert "accuracy" not in train[0]  # which is the task's loss's
    assert {"loss", "accuracy"} <= lines(calm.path)[-1].keys()
    _, arrays = final(calm.path)
    assert {"convs.1.kernel", "norms.first.mean", "head.layers.2.bias"} <= arrays.keys()
    before = values(own())
    assert all((np.asarray(before[path]) != arrays[path]).any() for path in before)
    assert all(np.array_equal(value, arrays[path]) for path, value in values(calm.model).items())
    x = jnp.zeros((2, 8, 8, 3))
    np.testing.assert_array_equal(calm.model(x), calm.model(x))  # in evaluation


def test_resuming_with_ones_own_things_gives_the_same_bits(calm: Fitted, tmp_path: Path) -> None:
    stopped = fit(tmp_path / "run", stop_after=2)
    assert (stopped.step, stopped.complete, stopped.signal) == (2, False, None)
    resumed = fit(tmp_path / "run", resume=True)
    assert resumed.complete
    assert_equal_runs(resumed.path, calm.path)
    assert resumed.best == calm.best


def test_a_finished_run_is_opened_with_a_model_like_it(calm: Fitted) -> None:
    with pytest.raises(UserError, match=r"with a model of your own, Own, .* jaxft\.load_run\(path, model=\.\.\.\)"):
        jaxft.load_run(calm.path)
    run = jaxft.load_run(calm.path, checkpoint="last", model=own())
    assert run.classes == CLASSES
    assert run.preprocessing == calm.preprocessing
    assert run.preprocessing.size == 8
    assert all(np.array_equal(value, values(calm.model)[path]) for path, value in values(run.model).items())
    wanted = {name: lines(calm.path)[-1][name] for name in ("loss", "accuracy", "balanced_accuracy")}
    for metrics in (jaxft.evaluate(run, VALIDATION), jaxft.evaluate(calm)):
        assert metrics == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(UserError, match="was trained on datasets of your own; name one to evaluate on"):
        jaxft.evaluate(run)
    entries = jaxft.predict(run, VALIDATION)
    assert [entry["file"] for entry in entries] == [str(index) for index in range(11)]
    right = [entry["class"] == CLASSES[index % 3] for index, entry in enumerate(entries)]
    assert np.mean(right) == pytest.approx(wanted["accuracy"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, r"model: Own there, none here"),
        (
            {"loss": None, "datasets": None},
            r"datasets: ArrayDataset and Plain there, none here; loss: focal there",
        ),
        ({"config": replace(CONFIG, {"optimizer.momentum": 0.5})}, r"optimizer\.momentum: 0\.9 there, 0\.5 here"),
        ({"datasets": (TRAIN, Plain(dataset(12, 1)))}, r"1 of validation new \(11\)"),
        ({"datasets": (dataset(24, 7), VALIDATION)}, r"24 of train with another ground truth"),
    ],
)
def test_going_on_with_other_things_is_refused(calm: Fitted, changes: dict[str, Any], message: str) -> None:
    before = {path: path.read_bytes() for path in calm.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message) as raised:
        fit(calm.path, resume=True, **changes)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        fit(calm.path, **changes)
    assert {path: path.read_bytes() for path in calm.path.rglob("*") if path.is_file()} == before


# Callbacks


def test_callbacks_are_told_of_steps_and_evaluations(calm: Fitted, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    kept: list[np.ndarray] = []

    def callback(event: Event) -> None:
        told.append((event.kind, event.step, event.epoch))
        assert np.isfinite(float(event.metrics["loss"]))
        if event.kind == "step":
            kept.append(np.asarray(event.state.params["head.layers.2.bias"]))

    run = fit(tmp_path / "run", callbacks=[callback])
    assert told == [
        ("step", 1, 0), ("step", 2, 0), ("step", 3, 1), ("evaluation", 3, 1),
        ("step", 4, 1), ("step", 5, 1), ("step", 6, 2), ("evaluation", 6, 2),
    ]  # fmt: skip
    assert all((one != other).any() for one, other in itertools.pairwise(kept))
    assert_equal_runs(run.path, calm.path)


@pytest.mark.parametrize(("kind", "step"), [("step", 2), ("evaluation", 3)])
def test_where_a_callback_raises_the_state_is_saved_first(calm: Fitted, tmp_path: Path, kind: str, step: int) -> None:
    def callback(event: Event) -> None:
        if (event.kind, event.step) == (kind, step):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(tmp_path / "run", callbacks=[callback])
    assert final(tmp_path / "run")[0] == step
    assert_equal_runs(fit(tmp_path / "run", resume=True).path, calm.path)
    assert [line["step"] for line in lines(tmp_path / "run") if line["split"] == "validation"] == [3, 6]


@pytest.mark.parametrize(("kind", "step"), [("step", 4), ("evaluation", 3)])
def test_a_callback_can_stop_a_run_in_order(calm: Fitted, tmp_path: Path, kind: str, step: int) -> None:
    stopped = fit(tmp_path / "run", callbacks=[lambda event: (event.kind, event.step) == (kind, step)])
    assert (stopped.step, stopped.complete) == (step, False)
    assert_equal_runs(fit(tmp_path / "run", resume=True).path, calm.path)


# Threads and notebooks


def test_a_run_in_a_thread_leaves_signals_alone(calm: Fitted, tmp_path: Path) -> None:
    seen: list[Any] = []

    def work() -> None:
        fit(tmp_path / "run", callbacks=[lambda event: seen.append(signal.getsignal(signal.SIGINT))])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)] * 8
    assert_equal_runs(tmp_path / "run", calm.path)


def test_a_run_in_a_notebook_leaves_signals_alone(tmp_path: Path) -> None:
    before, seen = signal.getsignal(signal.SIGINT), list[Any]()

    def callback(event: Event) -> bool:
        seen.append(signal.getsignal(signal.SIGINT))
        return True

    with mock.patch.dict(sys.modules, {"ipykernel": types.ModuleType("ipykernel")}):
        fit(tmp_path / "notebook", callbacks=[callback])
    assert seen == [before]
    fit(tmp_path / "terminal", callbacks=[callback])
    assert seen[1] != before
    assert signal.getsignal(signal.SIGINT) == before


# What cannot be


def shared() -> Own:
    model = own()
    model.convs.append(model.convs[1])
    return model


def cached() -> Own:
    model = own()
    model.memory = nnx.Cache(jnp.zeros(3))
    return model


def one_too_high() -> ArrayDataset:
    return ArrayDataset([*TRAIN.examples, {"image": np.zeros((9, 8, 3), np.uint8), "label": 0}], CLASSES)


HEAD = replace(CONFIG, {"phases.0.rules": (Rule(pattern="@head"), Rule(pattern="*"))})
CANNOT: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "shared": (lambda: {"model": shared()}, r"convs\.1\.kernel and convs\.2\.kernel of your Own are one array"),
    "cached": (lambda: {"model": cached()}, r"memory of the model is a Cache, whose arrays jaxft does not see"),
    "abstract": (lambda: {"model": nnx.eval_shape(own)}, r"of your Own has no value; give a model with its values"),
    "outputs": (
        lambda: {"model": own(4), "loss": None},
        r"puts out an array of the shape \(4,\) for an image, but the data have 3 classes",
    ),
    "classes": (
        lambda: {"datasets": (TRAIN, ArrayDataset(TRAIN.examples, ("a", "b", "c")))},
        r"the classes \('dark', .* the other one",
    ),
    "shapes": (
        lambda: {"datasets": (one_too_high(), VALIDATION)},
        r"Example 24: image is uint8 \[9, 8, 3\], but uint8 \[8, 8, 3\]",
    ),
    "head": (lambda: {"config": HEAD}, r"@head stands for .* name those of this Own by their paths"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path: Path, name: str) -> None:
    changes, message = CANNOT[name]
    with pytest.raises(UserError, match=message) as raised:
        fit(tmp_path / "run", **changes())
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_scalar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The loss of a batch is a scalar, yours has the shape \(8,\); take its mean"):
        fit(tmp_path / "run", loss=lambda model, batch: model(batch["image"] / 255.0).sum(-1))


def test_a_frozen_batch_norm_of_flaxs_keeps_its_statistics(tmp_path: Path) -> None:
    phases = (Phase(epochs=1, rules=(Rule(pattern="norms", frozen=True), Rule(pattern="*"))),)
    run = fit(tmp_path / "run", config=replace(CONFIG, {"phases": phases}), loss=lambda *given: focal(*given)[0])
    before, after = values(own()), values(run.model)
    assert {path for path in before if np.array_equal(before[path], after[path])} == {
        path for path in before if path.startswith("norms.")
    }
    assert "loss" in lines(run.path)[0]
    running = (Phase(epochs=1, batch_norm="running"),)
    run = fit(tmp_path / "running", config=replace(CONFIG, {"phases": running}))
    after = values(run.model)
    assert {path for path in before if np.array_equal(before[path], after[path])} == {
        "norms.first.mean", "norms.first.var"
    }  # fmt: skip
