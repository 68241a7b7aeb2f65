"""Detection's task, against live MMDetection."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import tests.mmdet_live  # noqa: F401  # registers what MMDetection wants of mmcv before it is imported
from jaxft.models.detectors.types import Detections
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.task import DetectionTask

# isort: split
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def scaled(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in values)
    return red, green, blue


# The task


@pytest.mark.parametrize("bgr", [False, True])
def test_images_are_those_of_mmdetection(bgr: bool) -> None:
    rng = np.random.default_rng(0)
    sizes = [(20, 32), (32, 17)]
    photos = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    padded = np.full((2, 32, 32, 3), 9, np.uint8)  # what lies beyond a photo does not matter
    for row, photo in zip(padded, photos, strict=True):
        row[: photo.shape[0], : photo.shape[1]] = photo
    mean, std = (MEAN[::-1], (1.0, 1.0, 1.0)) if bgr else (MEAN, STD)
    preprocessor = DetDataPreprocessor(mean=mean, std=std, bgr_to_rgb=not bgr, pad_size_divisor=32)
    inputs = [torch.tensor(np.ascontiguousarray(photo[..., ::-1].transpose(2, 0, 1))) for photo in photos]
    samples = [DetDataSample(metainfo={"img_shape": size}) for size in sizes]
    expected = preprocessor({"inputs": inputs, "data_samples": samples}, training=False)["inputs"].numpy()
    fields = Detection(mean=scaled(mean), std=scaled(std), bgr=bgr)
    task = DetectionTask(fields)
    found = task.images(jnp.asarray(padded), jnp.asarray(sizes))
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-4)
    assert DetectionTask(fields, "bfloat16").images(padded, np.array(sizes)).dtype == jnp.bfloat16


class Terms:
    """A detector whose losses and detections are known."""

    def __init__(self, **terms: float) -> None:
        self.terms = terms
        self.seen: Any = None

    def loss(self, images: Any, sizes: Any, targets: Any) -> dict[str, Any]:
        self.seen = (images, sizes, targets)
        return {name: jnp.asarray(value) for name, value in self.terms.items()}

    def predict(self, images: Any, sizes: Any) -> Detections:
        return Detections(jnp.ones((1, 2, 4)), jnp.ones((1, 2)), jnp.zeros((1, 2), int), jnp.ones((1, 2), bool))


def batch(**more: Any) -> dict[str, Any]:
    zeros = {"boxes": jnp.zeros((1, 3, 4)), "label": jnp.zeros((1, 3), int), "valid": jnp.zeros((1, 3), bool)}
    image = {"image": jnp.zeros((1, 32, 32, 3), jnp.uint8), "size": jnp.array([[32, 20]])}
    return image | zeros | {"ignored": jnp.ones((1, 3), bool)} | more


def test_the_loss_is_the_sum_of_all_terms_that_are_called_so() -> None:
    model = Terms(**{"loss_cls": 1.0, "s0.loss_bbox": 2.0, "loss_mask": 4.0, "acc": 50.0})
    value, metrics = DetectionTask(Detection()).loss(model, batch())
    assert float(value) == 7.0
    assert {name: float(term) for name, term in metrics.items()} == model.terms | {"loss": 7.0}
    _, sizes, targets = model.seen
    assert sizes.tolist() == [[32, 20]]
    assert bool(targets.ignored.all())
    assert targets.masks is None
    masks = jnp.ones((1, 3, 32, 4), jnp.uint8)
    DetectionTask(Detection()).loss(model, batch(masks=masks))
    assert model.seen[2].masks is masks


def test_predictions_keep_size() -> None:
    task = DetectionTask(Detection())
    answer = task.predict(Terms(), batch())
    assert set(answer) == {"boxes", "scores", "labels", "valid", "size"}
    assert answer["size"].tolist() == [[32, 20]]


def test_the_task_is_traced_once_for_all_box_counts() -> None:
    task, traces = DetectionTask(Detection()), []

    @jax.jit
    def loss(examples: dict[str, Any]) -> Any:
        traces.append(1)
        return task.loss(Terms(loss=1.0), examples)[0]

    for count in range(4):
        loss(batch(valid=jnp.arange(3)[None] < count))
    assert len(traces) == 1
