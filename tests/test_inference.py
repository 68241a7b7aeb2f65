"""Test-time augmentation of images, against PyTorch and torchvision on the same photos."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import CenterCrop as TheirCenterCrop
from torchvision.transforms import FiveCrop, Resize, TenCrop

import jaxft
from converters import to_torch
from jaxft import ArrayDataset
from jaxft.config import Images
from jaxft.data.dataset import ImageDataset
from jaxft.errors import UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.inference import through_views
from jaxft.predict import main as predict_main
from jaxft.tasks.classification import Classification
from jaxft.tasks.image_views import image_views
from jaxft.tasks.multilabel import Multilabel
from jaxft.tasks.photos import Photos
from jaxft.tasks.regression import Regression
from jaxft.tasks.views import Viewing, viewing
from jaxft.training.evaluation import run_predictor
from jaxft.training.finished import FinishedRun, open_run
from tests.small import CLASSES, TEST_EACH, call, user_error

pytest_plugins = ("tests.runs",)


@pytest.fixture(scope="module")
def finished(resnet_run: Path) -> FinishedRun:
    return open_run(resnet_run)


@pytest.fixture(scope="module")
def network(finished: FinishedRun) -> torch.nn.Module:
    """PyTorch's ResNet with the run's weights, in float64."""
    network = torchvision.models.resnet18(num_classes=len(CLASSES))
    network.load_state_dict({name: torch.tensor(array) for name, array in to_torch(finished.model).items()})
    return network.double().eval()


def their_softmax(network: torch.nn.Module, images: Images, pixels: np.ndarray) -> torch.Tensor:
    """Of uint8 `[..., H, W, 3]`."""
    normalized = (pixels.reshape(-1, *pixels.shape[-3:]) / 255 - np.array(images.mean)) / np.array(images.std)
    with torch.no_grad():
        found = network(torch.tensor(normalized.transpose(0, 3, 1, 2))).softmax(-1)
    return found.reshape(*pixels.shape[:-3], -1)


def photos_of(folder: Path) -> list[Path]:
    return [file for name in CLASSES for file in sorted((folder / "test" / name).iterdir())]


def test_flipped_views_are_pytorchs_mean_of_both_softmaxes(
    finished: FinishedRun, network: torch.nn.Module, photos: Path
) -> None:
    assert isinstance(finished.config.task, Classification)
    images = finished.config.task.images
    pixels = np.stack([images.center_crop()(file) for file in photos_of(photos)])
    views = their_softmax(network, images, np.stack([pixels, pixels[:, :, ::-1]]))
    theirs = views.mean(0)
    entries = jaxft.predict(finished, photos_of(photos), tta="flip")
    ours = np.array([[entry["probabilities"][name] for name in CLASSES] for entry in entries])
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert float((views[0] - views[1]).abs().max()) > 1e-3  # so that they are two views
    assert len(entries) == sum(TEST_EACH)


def test_crops_and_scales_are_torchvisions_bit_for_bit(photos: Path) -> None:
    images = Images(crop=31, resize=36)
    files = photos_of(photos)[:4]
    dataset = ImageDataset(Photos(tuple(files), CLASSES, -1), images.augment(), images.center_crop())
    for index, file in enumerate(files):
        picture = Image.open(file).convert("RGB")
        for word, crops in (("five", FiveCrop(31)), ("ten", TenCrop(31))):
            ours = image_views(dataset, viewing([word], [], None))
            theirs = crops(Resize(36)(picture))
            assert len(ours) == len(theirs)
            for view, cut in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(view.evaluation(index)["image"], np.asarray(cut))
        scaled = image_views(dataset, viewing(["flip"], [1, 1.5], None))
        for view, flip, side in zip(scaled, (1, 1, -1, -1), (36, 54, 36, 54), strict=True):
            cut = np.asarray(TheirCenterCrop(31)(Resize(side)(picture)))
            np.testing.assert_array_equal(view.evaluation(index)["image"], cut[:, ::flip])


def test_all_views_of_a_shape_go_through_one_program(finished: FinishedRun, network: torch.nn.Module) -> None:
    """Ten views of a dataset, batched together, in no more programs than one view; merged in the example's order."""
    task = finished.config.task.task()
    _, dataset = task.datasets(finished.config.data, 0)
    assert dataset is not None
    predictor, arrays = run_predictor(finished, task)
    asked = viewing(["five", "flip"], [], None)
    found = dict(through_views(predictor, task, dataset, asked)(arrays, dataset))
    dict(predictor(arrays, dataset))
    assert predictor._step.compilations == 1
    predictor.close()
    assert sorted(found) == list(range(sum(TEST_EACH)))
    assert isinstance(finished.config.task, Classification)
    images = finished.config.task.images
    views = image_views(dataset, asked)
    pixels = np.stack([[view.evaluation(index)["image"] for index in range(len(dataset))] for view in views])
    theirs = their_softmax(network, images, pixels).mean(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(TEST_EACH))
    wanted = torch.nn.functional.nll_loss(theirs.log(), labels, reduction="none")
    for index, prediction in found.items():
        np.testing.assert_allclose(prediction["probabilities"], theirs[index], atol=2e-6)
        assert prediction["label"] == int(labels[index])
        assert float(prediction["loss"]) == pytest.approx(float(wanted[index]), rel=1e-5)


def test_labels_are_averaged_each_for_itself_and_weighed_in_the_loss() -> None:
    fields = Multilabel(positive_weight=(1.0, 3.0))
    logits = np.array([[3.0, -200.0], [-1.0, 0.5]], np.float32)
    labels = np.array([1.0, 0.0], np.float32)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (4, 4, 3), np.uint8)
    dataset = ArrayDataset([{"image": image, "label": labels}], ("a", "b"))
    views, merge = fields.task().viewed(dataset, Viewing(flip=True, temperature=2.0))
    np.testing.assert_array_equal(views[1].evaluation(0)["image"], image[:, ::-1])
    found = merge(0, [{"logits": row, "label": labels} for row in logits])
    mean = torch.tensor(logits / 2, dtype=torch.float64).sigmoid().mean(0)
    np.testing.assert_allclose(found["probabilities"], mean, rtol=1e-6)
    weight = torch.tensor([1.0, 3.0])
    wanted = torch.nn.BCEWithLogitsLoss(pos_weight=weight)(mean.logit(), torch.tensor(labels, dtype=torch.float64))
    assert float(found["loss"]) == pytest.approx(float(wanted), rel=1e-6)
    with pytest.raises(UserError, match=r"arrays of one size; take flip alone\."):
        fields.task().viewed(dataset, Viewing(crops="five"))


def test_the_smoothed_loss_of_one_view_is_that_of_the_step() -> None:
    """Merging a single view changes nothing."""
    logits, label = np.array([1.0, -2.0, 0.5], np.float32), np.int32(2)
    dataset = ArrayDataset([{"image": np.zeros((2, 2, 3), np.uint8), "label": label}], CLASSES)
    task = Classification(label_smoothing=0.1).task()
    found = task.viewed(dataset, Viewing()).merge(0, [{"logits": logits, "label": np.asarray(label)}])
    wanted = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(2), label_smoothing=0.1)
    assert float(found["loss"]) == pytest.approx(float(wanted), rel=1e-6)
    np.testing.assert_allclose(found["probabilities"], torch.tensor(logits).softmax(-1), rtol=1e-6)


def test_the_commands_take_the_same(small_run: Path, photos: Path, tmp_path: Path) -> None:
    words = ("--tta", "flip", "--tta-scales", 1, 1.1)
    result = call(evaluate_main, "--run", small_run, "--json", *words)
    assert result.code == 0, result
    wanted = jaxft.evaluate(small_run, tta="flip", tta_scales=(1, 1.1))
    assert json.loads(result.out)["metrics"] == pytest.approx(wanted, rel=1e-6)
    assert wanted["loss"] != pytest.approx(jaxft.evaluate(small_run)["loss"], rel=1e-4)
    result = call(predict_main, "--run", small_run, photos / "test" / "red", "--output", tmp_path, *words)
    assert result.code == 0, result
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert [Path(entry["file"]).parent.name for entry in entries] == ["red"] * 3


@pytest.mark.parametrize(
    ("words", "scales", "iou", "part"),
    [
        (["flop"], [], None, "no test-time augmentation 'flop'"),
        (["ten", "flip"], [], None, "leave flip and five out"),
        ([], [1, 0], None, "each is above 0, none twice"),
        ([], [1, 1], None, "each is above 0, none twice"),
        (["flip"], [], 1.5, "it is above 0 and at most 1"),
        ([], [], 0.5, "or leave it out"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], scales: list[float], iou: float | None, part: str) -> None:
    with pytest.raises(UserError, match=part):
        viewing(words, scales, iou)


def test_what_a_task_does_not_take_is_refused(small_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    message = user_error(call(evaluate_main, "--run", small_run, "--tta-scales", 0.5, "--output", output))
    assert "choose a scale of at least 0.889" in message
    assert not output.exists()
    assert "is a detector's" in user_error(call(evaluate_main, "--run", small_run, "--tta", "flip", "--tta-iou", 0.4))
    assert "was not calibrated" in user_error(call(evaluate_main, "--run", small_run, "--calibrated"))
    dataset = ArrayDataset([{"image": np.zeros((2, 2, 3), np.uint8), "label": np.zeros(1)}], ("age",))
    task = Regression().task()
    for asked in (Viewing(flip=True), Viewing(crops="ten"), Viewing(scales=(1.0, 1.1))):
        with pytest.raises(UserError, match="regression, whose targets may depend on direction, place or size"):
            task.viewed(dataset, asked)
    with pytest.raises(UserError, match="no logits"):
        task.viewed(dataset, Viewing(temperature=2.0))
