"""What helps with few and uneven photos of classes: weights, the focal loss, mixup, CutMix; beside PyTorch's."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torchvision.transforms import v2

import jaxft
from jaxft import train
from jaxft.config import Classification, Config, Data, Images, Model, Phase, replace
from jaxft.data.mixing import Mixing
from jaxft.data.source import Example, nested_subset, oversampled, split_fold
from jaxft.errors import UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.planning.program import set_up_for
from jaxft.tasks.classification.task import ClassificationTask, cross_entropy
from jaxft.tasks.mixing import mixed_images, mixed_targets
from tests.small import Small, assert_equal_runs, call, interrupted, lines, user_error

pytest_plugins = ("tests.runs",)

ROWS, CLASSES, SIDE = 6, 4, 8
WEIGHTS = (0.5, 1.0, 2.0, 0.25)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, CLASSES)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 2, 2], np.int32)
IMAGES = RNG.normal(size=(ROWS, SIDE, SIDE, 3)).astype(np.float32)


def mean_loss(fields: Classification, mix: np.ndarray | None = None) -> float:
    """The task's loss of a model that puts out LOGITS."""
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
    if mix is not None:
        batch["mix"] = jnp.asarray(mix)
    loss, metrics = ClassificationTask(fields).loss(lambda images: jnp.asarray(LOGITS), batch)
    assert float(metrics["loss"]) == float(loss)
    return float(loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_weights_and_smoothing_equal_pytorch(weights: tuple[float, ...], smoothing: float) -> None:
    reference = torch.nn.CrossEntropyLoss(torch.tensor(weights) if weights else None, label_smoothing=smoothing)
    expected = float(reference(torch.tensor(LOGITS), torch.tensor(LABELS).long()))
    assert mean_loss(Classification(class_weights=weights, label_smoothing=smoothing)) == pytest.approx(expected, 1e-6)


def mixtures(mixup: float, cutmix: float) -> np.ndarray:
    """One mixture, the same for all examples, as torchvision draws one for a batch."""
    drawn = Mixing(mixup, cutmix, SIDE).draw(np.random.default_rng(3))
    return np.broadcast_to(drawn, (ROWS, 6))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_and_targets_equal_torchvision(kind: str) -> None:
    mix = mixtures(1.0, 0.0) if kind == "mixup" else mixtures(0.0, 1.0)
    share, _, left, top, right, bottom = (float(value) for value in mix[0])
    assert 0 < share < 1
    transform: Any = (v2.MixUp if kind == "mixup" else v2.CutMix)(num_classes=CLASSES)
    box = tuple(map(int, (left, top, right, bottom)))
    drawn = {"lam": share} if kind == "mixup" else {"box": box, "lam_adjusted": share}
    with mock.patch.object(type(transform), "make_params", return_value=drawn):
        images, targets = transform(torch.tensor(IMAGES).permute(0, 3, 1, 2), torch.tensor(LABELS).long())
    ours = np.asarray(mixed_images(jnp.asarray(IMAGES), jnp.asarray(mix)))
    np.testing.assert_allclose(ours, images.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    onehot = jnp.asarray(np.eye(CLASSES, dtype=np.float32)[LABELS])
    np.testing.assert_allclose(np.asarray(mixed_targets(onehot, jnp.asarray(mix))), targets.numpy(), atol=1e-6)
    for weights in ((), WEIGHTS):
        reference = torch.nn.CrossEntropyLoss(torch.tensor(weights) if weights else None, label_smoothing=0.1)
        expected = float(reference(torch.tensor(LOGITS), targets))
        found = mean_loss(Classification(class_weights=weights, label_smoothing=0.1), mix)
        assert found == pytest.approx(expected, 1e-5)


def test_mixtures_are_drawn_as_they_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    both = np.array([Mixing(0.4, 1.0, 32).draw(rng) for _ in range(4000)])
    boxes = both[:, 4] > 0
    assert 0.45 < boxes.mean() < 0.55
    assert (both[~boxes, 0] == both[~boxes, 1]).all()
    assert abs(both[~boxes, 0].mean() - 0.5) < 0.02
    assert abs(both[~boxes, 0].var() - 0.25 / (2 * 0.4 + 1)) < 0.01  # of a symmetric beta distribution
    inside = (both[:, 4] - both[:, 2]) * (both[:, 5] - both[:, 3]) / 32**2
    np.testing.assert_allclose(both[boxes, 0], 1 - inside[boxes], atol=1e-6)
    assert (both[:, 2:] >= 0).all()
    assert (both[:, 2:] <= 32).all()


def test_the_focal_loss_is_its_formula() -> None:
    targets = np.eye(CLASSES)[LABELS] * 0.9 + 0.1 / CLASSES
    p = np.exp(LOGITS.astype(float)) / np.exp(LOGITS.astype(float)).sum(1, keepdims=True)
    expected = -(np.array(WEIGHTS) * targets * (1 - p) ** 2 * np.log(p)).sum(1)
    found = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(targets, jnp.float32), jnp.asarray(WEIGHTS), 2.0)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5)
    sure = jnp.asarray([[100.0, 0.0]])
    assert float(cross_entropy(sure, jnp.asarray([[1.0, 0.0]]), jnp.ones(2), 2.0)[0]) == 0


def test_evaluation_weighs_no_class(photos: Path) -> None:
    task = ClassificationTask(Classification(class_weights=WEIGHTS, focal=2.0, mixup=0.2))
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
    found = task.predict(lambda images: jnp.asarray(LOGITS), batch)["loss"]
    expected = torch.nn.functional.cross_entropy(torch.tensor(LOGITS), torch.tensor(LABELS).long(), reduction="none")
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), rtol=1e-5)


def test_balanced_weights_count_the_training_examples(photos: Path) -> None:
    task = ClassificationTask(Classification(class_weights="balanced"))
    with pytest.raises(UserError, match=r"balanced, which counts .* give a number for each class"):
        task.loss(lambda images: jnp.asarray(LOGITS), {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)})
    task.datasets(Data(root=str(photos)), 0)
    assert task.class_weights == (1.0, 1.0, 1.0)
    task.datasets(replace(Data(root=str(photos)), {"holdout": 0.3}), 0)
    assert len(task.class_weights) == 3


def test_what_would_mix_nothing_is_refused() -> None:
    task = ClassificationTask(Classification(mixup=0.2))
    with pytest.raises(UserError, match='let each example have an array "mix"'):
        task.loss(lambda images: jnp.asarray(LOGITS), {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)})
    single = {"image": jnp.asarray(IMAGES[:1]), "label": jnp.asarray(LABELS[:1]), "mix": jnp.ones((1, 6))}
    with pytest.raises(UserError, match="with each other, but there is only one"):
        task.loss(lambda images: jnp.asarray(LOGITS[:1]), single)


def test_balanced_weights_can_be_planned() -> None:
    config = Config(
        task=Classification(class_weights="balanced", images=Images(crop=32)),
        data=Data(batch_size=2),
        model=Model(name="squeezenet1_1"),
    )
    setup, _ = set_up_for(config, jax.devices()[:1], batch_per_device=None, classes=3)
    batch = {"image": jnp.zeros((2, 32, 32, 3)), "label": jnp.zeros(2, jnp.int32)}
    assert jax.eval_shape(lambda: setup.loss(lambda images: jnp.zeros((2, 3)), batch)[0]).shape == ()


def test_a_run_with_all_of_it_resumes_bit_for_bit(config_file: Path, tmp_path: Path) -> None:
    flags = ("--task.mixup", 0.2, "--task.cutmix", 1.0, "--task.focal", 1.0, "--task.class-weights", "balanced")
    calm, broken = tmp_path / "calm", tmp_path / "broken"
    result = call(train.main, "--config", config_file, "--workdir", calm, *flags)
    assert result.code == 0, result
    interrupted(config_file, broken, 5, *flags)
    assert call(train.main, "--config", config_file, "--workdir", broken, "--resume", *flags).code == 0
    assert_equal_runs(calm, broken)


def test_weights_of_another_length_are_refused(config_file: Path, tmp_path: Path) -> None:
    flags = ("--task.class-weights", 1.0, 2.0)
    message = user_error(call(train.main, "--config", config_file, "--workdir", tmp_path / "run", *flags))
    assert "task.class_weights has 2 weight(s), but there are 3 classes" in message


class Labelled:
    """A source of examples with these labels and nothing else."""

    classes = ("a", "b", "c")

    def __init__(self, labels: list[int]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(b"", self.labels[index], str(index))

    def check(self) -> None:
        """Nothing is there."""


UNEVEN = Labelled([0] * 20 + [1] * 5 + [2] * 10)


def labels(source: Any) -> list[int]:
    return [source[index].label for index in range(len(source))]


def test_folds_cover_everything_once_and_keep_classes_in_proportion() -> None:
    held = []
    for fold in range(5):
        rest, part = split_fold(UNEVEN, 5, fold, 0, by_class=True)
        assert sorted(labels(part)) == [0] * 4 + [1] + [2] * 2
        assert sorted([*rest.indices, *part.indices]) == list(range(35))
        held += part.indices
    assert sorted(held) == list(range(35))
    with pytest.raises(UserError, match=r"Class 'b' has 5 example\(s\), too few for 6 folds"):
        split_fold(UNEVEN, 6, 0, 0, by_class=True)
    parts = [split_fold(UNEVEN, 4, fold, 0, by_class=False)[1].indices for fold in range(4)]
    assert sorted(index for part in parts for index in part) == list(range(35))


def test_smaller_shares_are_parts_of_larger_ones() -> None:
    before: set[int] = set()
    for share, counts in ((0.1, (2, 1, 1)), (0.25, (5, 2, 3)), (0.5, (10, 3, 5)), (1.0, (20, 5, 10))):
        part = nested_subset(UNEVEN, share, 0, by_class=True)
        assert tuple(np.bincount(labels(part))) == counts
        assert before <= set(part.indices)
        before = set(part.indices)


def test_rarer_classes_are_repeated() -> None:
    part = oversampled(UNEVEN)
    assert tuple(np.bincount(labels(part))) == (20, 20, 20)
    assert set(part.indices) == set(range(35))
    assert max(np.bincount(part.indices)[20:25]) == 4
    with pytest.raises(UserError, match="class 'c' has no training example"):
        oversampled(Labelled([0, 1]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.folds", 3, "--data.fold", 3), "fold is 3 of 3 folds"),
        (("--data.fold", 1), "fold is 1 of 0 folds"),
        (("--data.folds", 2, "--data.holdout", 0.2), "folds and holdout both"),
        (("--data.folds", 9), "Class 'blue' has 8 example(s), too few for 9 folds"),
    ],
)
def test_folds_that_cannot_be(flags: tuple[object, ...], message: str, config_file: Path, tmp_path: Path) -> None:
    result = call(train.main, "--config", config_file, "--workdir", tmp_path / "run", *flags)
    assert result.code == 2
    assert message in result.out + result.err


def test_a_run_on_a_fold_of_a_share_is_evaluated_again_on_the_same_photos(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--data.folds", 4, "--data.fold", 2, "--data.subset", 0.7, "--data.balance", "oversample")
    result = call(train.main, "--config", config_file, "--workdir", run, *flags, "--data.batch-size", 4)
    assert result.code == 0, result
    assert "15 images of 3 classes" in result.out  # ceil(0.7 * 6) of each class
    assert "6 images of 3 classes" in result.out
    last = [line for line in lines(run) if line["split"] == "validation"][-1]
    found = call(evaluate_main, "--run", run, "--json", "--checkpoint", "last")
    assert json.loads(found.out)["metrics"]["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert json.loads(found.out)["examples"] == 6


def test_a_model_of_ones_own_and_datasets_that_bring_mixtures_are_trained(photos: Path, tmp_path: Path) -> None:
    settings = Config(
        task=Classification(mixup=0.2, images=Images(crop=8, resize=8)),
        data=Data(root=str(photos), batch_size=4),
        phases=(Phase(epochs=1),),
    )
    mine = Small(3, rngs=nnx.Rngs(0))
    assert jaxft.fit(settings, tmp_path / "own", model=mine).step == 6
    draw = Mixing(0.2, 0.0, 8).draw
    example = {"image": np.zeros((8, 8, 3), np.uint8), "label": 1}
    mixed = jaxft.ArrayDataset([example | {"mix": draw(np.random.default_rng(i))} for i in range(8)], ["a", "b", "c"])
    own = replace(settings, {"data.validation": None})
    assert jaxft.fit(own, tmp_path / "both", model=Small(3, rngs=nnx.Rngs(0)), datasets=(mixed, None)).step == 2
