"""A teacher in training: its step, beside PyTorch; that it is nowhere but in the step; and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import Array
from torch.nn import functional

from jaxft import create_model, save, train
from jaxft.config import Config, Distillation, FeaturePair, Model, load, replace
from jaxft.errors import UserError
from jaxft.models.layers import Conv, Linear
from jaxft.models.layers.pooling import global_average_pool
from jaxft.models.paths import filled, values
from jaxft.pages.run import write_page
from jaxft.run import RunDirectory
from jaxft.tasks import Classification
from jaxft.tasks.classification.task import ClassificationTask
from jaxft.training import layout as layouts
from jaxft.training.loop import fit
from jaxft.training.setup import set_up
from jaxft.training.step import Compiled, Teaching
from jaxft.training.teaching import Teacher, taught
from tests.small import CLASSES, assert_equal_runs, call, final, lines

pytest_plugins = ("tests.runs",)


@pytest.fixture
def config(config_file: Path, small_run: Path) -> Config:
    """The small network and its own finished run as its teacher: outputs, and a layer."""
    return replace(
        load(config_file),
        {
            "distillation": Distillation(
                teacher=f"run://{small_run}", features=(FeaturePair(student="conv2", weight=0.5),)
            ),
            "optimizer.accumulate": 2,
            "ema.decay": 0.9,
        },
    )


def test_a_run_that_goes_on_is_the_same_and_keeps_nothing_of_its_teacher(
    config: Config,
    tmp_path: Path,
    small_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is the teacher evaluated again, as it is where the task is to keep what that knows."""
    monkeypatch.setattr(ClassificationTask, "kept", "balanced_")
    whole = fit(config, tmp_path / "whole")
    said = " ".join(capsys.readouterr().out.split())
    numbers = sum(array.size for array in values(whole.model, nnx.Param).values())
    assert (
        f"distillation from run://{small_run}, a Small of {numbers} parameters: its outputs at temperature 4," in said
    )
    assert "weight 1; conv2 by conv2, weight 0.5; the task's own loss has the weight 1" in said
    fit(config, tmp_path / "cut", stop_after=4)
    with (
        mock.patch("jaxft.training.setup.Setup.names", {"teacher": "12345678"}),
        pytest.raises(UserError, match="teacher has other weights than when"),
    ):
        fit(config, tmp_path / "cut", resume=True)
    assert "The teacher is evaluated on the 10 examples of the validation split, once" in capsys.readouterr().out
    resumed = fit(config, tmp_path / "cut", resume=True)
    assert "The teacher is evaluated" not in capsys.readouterr().out
    assert_equal_runs(whole.path, resumed.path)
    before = max(
        (line for line in lines(small_run) if line["split"] == "validation"), key=lambda line: line["accuracy"]
    )
    for line in (line for line in lines(resumed.path) if line["split"] == "validation"):
        np.testing.assert_allclose(line["teacher/accuracy"], before["balanced_accuracy"])
        np.testing.assert_allclose(line["forgotten/accuracy"], line["teacher/accuracy"] - line["balanced_accuracy"])
    page = write_page(RunDirectory(resumed.path), None).read_text()
    assert "teacher/accuracy" in page
    assert "forgotten/accuracy" in page
    arrays = final(whole.path)[1]
    assert sum(1 for name in arrays if not name.startswith(("ema", "optimizer"))) == len(values(whole.model))
    assert len(arrays) < 4 * len(values(whole.model))
    trained = [line for line in lines(whole.path) if line["split"] == "train"]
    assert all(line["compilations"] == 1 for line in trained)
    for line in trained:
        total = line["task_loss"] + line["response_loss"] + 0.5 * line["feature_loss"]
        np.testing.assert_allclose(line["loss"], total, rtol=1e-5)
        assert line["response_loss"] > 0 < line["feature_loss"]


def test_other_numbers_compile_nothing_and_devices_agree(config: Config) -> None:
    """One device, and two that hold the state and the teacher together."""
    found = []
    other = {"temperature": 2.0, "weight": 3.0, "task_weight": 0.1, "features": (7.0,)}
    with mock.patch.object(layouts, "SMALLEST", 16):
        for devices in (1, 2):
            setup = set_up(replace(config, {"hardware.fsdp": devices}), devices=jax.devices()[:devices]).with_teacher()
            assert setup.teaching is not None
            assert all(array.is_fully_replicated for array in setup.teaching.arrays.values()) == (devices == 1)
            stage = setup.stages[-1]
            step = Compiled(setup.training_step(stage), updates_state=True)
            state = setup.first_state(stage, None)
            inputs = setup.inputs(stage, stage.first)
            with setup.batches() as batches:
                batch = setup.layout.batch(next(batches))
            state, _ = step(state, batch, inputs)
            changed = dataclasses.replace(inputs, teaching=setup.teaching._replace(numbers=other))
            state, second = step(state, batch, changed)
            assert step.compilations == 1
            parts = 0.1 * second["task_loss"] + 3 * second["response_loss"] + 7 * second["feature_loss"]
            np.testing.assert_allclose(second["loss"], parts, rtol=1e-5)
            found.append({path: np.asarray(array) for path, array in state.params.items()})
    for path, array in found[0].items():
        np.testing.assert_allclose(array, found[1][path], rtol=1e-4, atol=1e-5, err_msg=path)


class Net(nnx.Module):
    """A convolution and a linear layer."""

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(3, 5, 3, padding=1, rngs=rngs)
        self.fc = Linear(5, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc(global_average_pool(nnx.relu(self.conv(x))))


def torch_net(arrays: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the convolution and the network put out."""
    kernel = arrays["conv.kernel"].permute(3, 2, 0, 1)
    maps = functional.conv2d(images, kernel, arrays["conv.bias"], padding=1)
    return maps, maps.relu().mean((2, 3)) @ arrays["fc.kernel"] + arrays["fc.bias"]


def test_loss_and_gradients_are_those_of_pytorch() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.normal(0, 1, (4, 6, 6, 3)), np.array([0, 2, 1, 2])
    models = [Net(3, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    own, other = ({path: np.asarray(leaf, np.float64) for path, leaf in values(model).items()} for model in models)
    points = ((("conv", 0), ("conv", 0)),)
    teacher = Teacher(Distillation(teacher="x", features=(FeaturePair(student="conv"),)), models[1], points)
    numbers = {"temperature": 3.0, "weight": 0.7, "task_weight": 0.3, "features": (0.2,)}
    with jax.enable_x64(True):
        task = Classification(label_smoothing=0.1).task("float64")
        function = taught(task, teacher, precision="float64", gathered=dict)

        def loss(arrays: dict[str, Array]) -> Array:
            batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
            return function(filled(models[0], arrays), batch, Teaching(other, numbers))[0]

        value, gradients = jax.jit(jax.value_and_grad(loss))(own)
    leaves = {path: torch.tensor(array, requires_grad=True) for path, array in own.items()}
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    maps, logits = torch_net(leaves, pixels)
    their_maps, theirs = torch_net({path: torch.tensor(array) for path, array in other.items()}, pixels)
    expected = (
        0.3 * functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=0.1)
        + 0.7 * 9 * functional.kl_div((logits / 3).log_softmax(-1), (theirs / 3).softmax(-1), reduction="batchmean")
        + 0.2 * functional.mse_loss(maps, their_maps)
    )
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-9)
    for path, leaf in leaves.items():
        np.testing.assert_allclose(gradients[path], leaf.grad, rtol=1e-9, atol=1e-12, err_msg=path)


REFUSED = {
    r"compares bn1, which puts out \(8, 16, 16, 8\), with the teacher's fc, which puts out \(8, 3\)": {
        "features": (FeaturePair(student="bn1", teacher="fc"),)
    },
    r"There is no layer conv9 in the Small": {"features": (FeaturePair(student="conv9"),)},
    r"names no layers, so that nothing is learned": {"weight": 0.0},
    r"a run, which says itself what its model is": {"teacher_model": Model(name="small")},
    r"distillation.temperature is 2.0, but there is no teacher": {"teacher": None, "temperature": 2.0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_teacher_that_does_not_fit_is_refused(
    message: str, config_file: Path, small_run: Path, tmp_path: Path
) -> None:
    config = replace(
        load(config_file), {"distillation": Distillation(**{"teacher": f"run://{small_run}"} | REFUSED[message])}
    )
    with pytest.raises(UserError, match=message):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_or_pixels_is_refused(
    config_file: Path, small_run: Path, photos: Path, tmp_path: Path
) -> None:
    config = replace(load(config_file), {"distillation.teacher": f"run://{small_run}"})
    for name in ("blue", "green"):
        for split in ("train", "test"):
            (tmp_path / "photos" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / split / name).symlink_to(photos / split / name)
    fewer = {"data.root": str(tmp_path / "photos")}
    with pytest.raises(
        UserError, match=r"knows the classes blue, green, red \(3\), but the data have blue, green \(2\)"
    ):
        set_up(replace(config, fewer))
    features = {"distillation.weight": 0.0, "distillation.features": (FeaturePair(student="conv2"),)}
    assert set_up(replace(config, fewer | features)).teacher is not None
    with pytest.raises(UserError, match=r"normalized with \(mean, std, bgr\)"):
        set_up(replace(config, {"task.images.mean": (0.5, 0.5, 0.5)}))
    with pytest.raises(UserError, match="yours is your own; call your teacher there"):
        fit(config, tmp_path / "run", loss=lambda model, batch: model(batch["image"]).sum())


def test_features_of_a_block_that_is_rematerialized_are_refused(config_file: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "resnet.safetensors"
    save(create_model("resnet18", 3), teacher, classes=CLASSES)
    changes = {"model.name": "resnet18", "hardware.rematerialize": True, "distillation.teacher": str(teacher)}
    inside = {"distillation.features": (FeaturePair(student="layer1"), FeaturePair(student="layer1.1"))}
    with pytest.raises(UserError, match=r"layer1.1 is called inside of a loop, a rematerialized block"):
        set_up(replace(load(config_file), changes | inside))


def test_a_dry_run_says_what_is_learned(config_file: Path, small_run: Path) -> None:
    found = call(train.main, "--config", config_file, "--dry-run", "--distillation.teacher", f"run://{small_run}")
    assert found.code == 0, found
    assert f"distillation from run://{small_run}" in found.out
    assert "│ teacher " in found.out
