"""Detection's task and COCO's figures, against live MMDetection and cases made by hand."""

from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import tests.mmdet_live  # noqa: F401  # registers what MMDetection wants of mmcv before it is imported
from jaxft.models.detectors.types import Detections
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.found import Found, on_photo, run_length_code
from jaxft.tasks.detection.metrics import coco_metrics, written
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather
from jaxft.tasks.detection.task import DetectionTask

# isort: split
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLASSES = ("disc", "square")


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


# From the padded array to the photo


def photo(objects: list[tuple[list[float], int, bool, float]], shapes: Any = (), width: int = 200) -> Annotated:
    return Annotated(Path("none.png"), width, 100, gather(objects, shapes), 11, "none.png")


def test_what_is_found_goes_back_to_the_photo() -> None:
    answer = {
        "boxes": np.array([[10, 5, 20, 10], [0, 0, 1, 1], [0, 0, 100, 50]], np.float32),
        "scores": np.array([0.3, 0.9, 0.8], np.float32),
        "labels": np.array([1, 0, 0]),
        "valid": np.array([True, False, True]),
        "size": np.array([50, 100]),
        "masks": np.ones((3, 28, 28), np.float32),
    }
    found = on_photo(answer, photo([]))
    np.testing.assert_allclose(found.boxes, [[0, 0, 200, 100], [20, 10, 40, 20]])
    np.testing.assert_allclose(found.scores, [0.8, 0.3])
    assert found.labels.tolist() == [0, 1]
    content = written(ObjectSource("x", CLASSES, (photo([]),)), {0: found})
    assert content["images"] == [{"id": 11, "width": 200, "height": 100, "file_name": "none.png"}]
    assert [entry["category_id"] for entry in content["annotations"]] == [1, 2]
    table = COCO()
    table.dataset = content
    table.createIndex()
    masks = [table.annToMask(entry) for entry in content["annotations"]]
    assert masks[0][2:-2, 4:-4].all()  # the outermost cells fade, as in MMDetection
    np.testing.assert_array_equal(np.argwhere(masks[1])[[0, -1]], [[10, 20], [19, 39]])


# COCO's figures

SMALL, MEDIUM, LARGE = [0, 0, 20, 20], [30, 0, 80, 50], [0, 0, 180, 100]


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def truth(*objects: tuple[list[float], int, bool], shapes: Any = ()) -> Annotated:
    return photo([(box, label, crowd, area(box)) for box, label, crowd in objects], shapes)


def found(*objects: tuple[list[float], int, float], codes: Any = ()) -> Found:
    boxes, labels, scores = zip(*objects, strict=True) if objects else ([], [], [])
    return Found(np.array(boxes, float).reshape(-1, 4), np.array(scores, float), np.array(labels, int), tuple(codes))


def metrics(pairs: list[tuple[Annotated, Found | None]]) -> dict[str, float]:
    source = ObjectSource("made by hand", CLASSES, tuple(one for one, _ in pairs))
    return coco_metrics(source, {index: entry for index, (_, entry) in enumerate(pairs) if entry is not None})


def test_everything_found_is_one() -> None:
    one = truth((SMALL, 0, False), (MEDIUM, 1, False), (LARGE, 1, False))
    figures = metrics([(one, found((SMALL, 0, 0.9), (MEDIUM, 1, 0.8), (LARGE, 1, 0.7)))])
    names = {f"bbox_mAP{end}" for end in ("", "_50", "_75", "_s", "_m", "_l", "/disc", "/square")}
    assert set(figures) == names | {"bbox_AR@100"}
    assert all(value == pytest.approx(1) for value in figures.values())


@pytest.mark.parametrize("entry", [None, found(), found((LARGE, 0, 0.9))])
def test_nothing_right_is_nothing(entry: Found | None) -> None:
    figures = metrics([(truth((SMALL, 0, False)), entry)])
    names = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP/disc", "bbox_AR@100")
    assert figures == dict.fromkeys(names, 0.0)


def test_no_truth_at_all() -> None:
    assert metrics([(truth(), found((SMALL, 0, 0.9)))]) == {"bbox_mAP": 0.0}


def test_half_of_the_objects_and_a_shifted_box() -> None:
    half = metrics([(truth((MEDIUM, 0, False)), found((MEDIUM, 0, 0.9))), (truth((MEDIUM, 0, False)), None)])
    assert half["bbox_mAP"] == pytest.approx(51 / 101)  # recalls 0, 0.01, ... 0.5
    shifted = metrics([(truth((MEDIUM, 0, False)), found(([40, 0, 90, 50], 0, 0.9)))])
    assert shifted["bbox_mAP_50"] == pytest.approx(1)  # 40 / 60
    assert shifted["bbox_mAP_75"] == 0
    assert shifted["bbox_mAP"] == pytest.approx(0.4)  # 0.5, 0.55, 0.6, 0.65
    assert shifted["bbox_mAP_m"] == pytest.approx(0.4)
    assert "bbox_mAP_s" not in shifted


def test_a_false_alarm_counts_by_its_rank() -> None:
    one = truth((MEDIUM, 0, False))
    assert metrics([(one, found((LARGE, 0, 0.9), (MEDIUM, 0, 0.5)))])["bbox_mAP"] == pytest.approx(0.5)
    assert metrics([(one, found((LARGE, 0, 0.4), (MEDIUM, 0, 0.5)))])["bbox_mAP"] == pytest.approx(1)
    assert metrics([(one, found((MEDIUM, 1, 0.5)))])["bbox_mAP"] == 0


def test_recall_counts_more_objects_than_precision() -> None:
    """The object is found by the 150th and the 400th of so many boxes."""
    far = ([150, 80, 180, 100], 0, 0.9)
    for place, counted in ((150, {"bbox_AR@300": 1.0}), (400, {"bbox_AR@300": 0.0, "bbox_AR@1000": 1.0})):
        figures = metrics([(truth((MEDIUM, 0, False)), found(*[far] * (place - 1), (MEDIUM, 0, 0.5)))])
        recalls = {name: value for name, value in figures.items() if "AR@" in name}
        assert recalls == pytest.approx({"bbox_AR@100": 0.0} | counted)
        assert figures["bbox_mAP"] == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_figures_are_those_of_pycocotools_own_summary(seed: int) -> None:
    random = np.random.default_rng(seed)

    def box() -> list[float]:
        corner, side = random.uniform(0, 50, 2), random.uniform(10, 120, 2)
        return [*corner, *(corner + side)]

    pairs = []
    for count in range(10):
        objects = [(box(), int(random.integers(2)), bool(random.random() < 0.2)) for _ in range(count)]
        near = [
            ((np.array(one) + random.normal(0, 5, 4)).tolist(), label, random.random()) for one, label, _ in objects
        ]
        pairs.append((truth(*objects), found(*near, (box(), 0, random.random()))))
    judges: list[COCOeval] = []

    def judge(*arguments: Any) -> COCOeval:
        judges.append(COCOeval(*arguments))
        return judges[0]

    with mock.patch("jaxft.tasks.detection.metrics.COCOeval", judge):
        figures = metrics(pairs)
    other = COCOeval(judges[0].cocoGt, judges[0].cocoDt, "bbox")
    other.evaluate()
    other.accumulate()
    other.summarize()
    names = ["bbox_mAP", *(f"bbox_mAP_{end}" for end in ("50", "75", "s", "m", "l"))]
    assert [figures[name] for name in names] == pytest.approx(other.stats[:6].tolist())
    assert figures["bbox_AR@100"] == pytest.approx(other.stats[8])
    assert 0.1 < figures["bbox_mAP"] < 0.9


def test_what_is_in_a_crowd_is_neither_right_nor_wrong() -> None:
    one = truth((SMALL, 0, False), (LARGE, 0, True))
    inside = [100, 50, 150, 90]
    assert metrics([(one, found((inside, 0, 0.9), (SMALL, 0, 0.5)))])["bbox_mAP"] == pytest.approx(1)


def test_masks_are_judged_apart() -> None:
    square = [[30, 0, 80, 0, 80, 50, 30, 50]]
    one = truth((MEDIUM, 0, False), shapes=[square])
    grid = np.zeros((100, 200), np.uint8)
    grid[0:25, 30:80] = 1  # half of the object, in a right box

    figures = metrics([(one, found((MEDIUM, 0, 0.9), codes=[run_length_code(grid)]))])
    assert figures["bbox_mAP"] == pytest.approx(1)
    assert figures["segm_mAP_50"] == pytest.approx(1)
    assert figures["segm_mAP"] == pytest.approx(0.1)
    assert figures["segm_mAP/disc"] == pytest.approx(0.1)


def test_the_task_is_traced_once_for_all_box_counts() -> None:
    task, traces = DetectionTask(Detection()), []

    @jax.jit
    def loss(examples: dict[str, Any]) -> Any:
        traces.append(1)
        return task.loss(Terms(loss=1.0), examples)[0]

    for count in range(4):
        loss(batch(valid=jnp.arange(3)[None] < count))
    assert len(traces) == 1
