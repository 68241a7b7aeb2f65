"""Views of photos with objects, and their boxes merged as live MMDetection merges them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import jaxft
from jaxft.config import Detection
from jaxft.errors import UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.fields import replace
from jaxft.tasks.detection.dataset import ObjectDataset, evaluation_dataset
from jaxft.tasks.detection.found import on_photo
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather
from jaxft.tasks.detection.task import DetectionTask
from jaxft.tasks.detection.transforms import Pad, Resize
from jaxft.tasks.views import Viewing
from jaxft.training.evaluation import run_predictor
from jaxft.training.finished import open_run
from tests.mmdet_live import quiet
from tests.scenes import CLASSES
from tests.small import call, user_error

with quiet():
    from mmdet.models.test_time_augs import DetTTAModel
    from mmdet.structures import DetDataSample
    from mmengine.config import ConfigDict
    from mmengine.structures import InstanceData

pytest_plugins = ("tests.detector_runs",)

WIDTH, HEIGHT = 90, 61
ROWS = 30


def one_photo(**fields: object) -> tuple[ObjectDataset, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    example = Annotated(pixels, WIDTH, HEIGHT, gather([], []), 1, "noise")
    settings = Detection(test_scale=(64, 48), divisor=16, **fields)  # type: ignore[arg-type]
    return evaluation_dataset(ObjectSource("here", CLASSES, (example,)), settings), pixels


def found_in(size: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    """Boxes in groups, so that many overlap, of which some rows are not valid."""
    rng = np.random.default_rng(seed)
    height, width = size
    corners = rng.uniform(0, 0.6, (6, 2))[rng.integers(0, 6, ROWS)] + rng.normal(0, 0.03, (ROWS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.2, 0.35, (ROWS, 2))], 1).clip(0, 1)
    return {
        "boxes": (boxes * [width, height, width, height]).astype(np.float32),
        "scores": rng.uniform(0, 1, ROWS).astype(np.float32),
        "labels": rng.integers(0, 2, ROWS).astype(np.int32),
        "valid": rng.uniform(0, 1, ROWS) < 0.8,
        "size": np.array(size, np.int32),
    }


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_boxes_are_merged_as_mmdetection_does_it(threshold: float | None) -> None:
    dataset, _ = one_photo()
    views, merge = DetectionTask(Detection()).viewed(
        dataset, Viewing(flip=True, scales=(1.0, 1.5), iou_threshold=threshold)
    )
    sizes = [tuple(view.evaluation(0)["size"].tolist()) for view in views]
    assert sizes == [(43, 64), (43, 64), (65, 96), (65, 96)]
    found = [found_in(size, seed) for seed, size in enumerate(sizes)]
    samples = []
    for number, one in enumerate(found):
        stretch = np.array([WIDTH / one["size"][1], HEIGHT / one["size"][0]] * 2)
        real = one["valid"]
        sample = DetDataSample(
            metainfo={
                "ori_shape": (HEIGHT, WIDTH),
                "flip": number % 2 == 1,
                "flip_direction": "horizontal" if number % 2 else None,
            }
        )
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor((one["boxes"][real] * stretch).astype(np.float32)),
            scores=torch.tensor(one["scores"][real]),
            labels=torch.tensor(one["labels"][real]).long(),
        )
        samples.append(sample)
    nms = {"type": "nms", "iou_threshold": threshold or 0.5}
    module = torch.nn.Module()
    module.test_step = None  # type: ignore[assignment]  # its constructor looks whether there is one
    with quiet():
        model = DetTTAModel(module=module, tta_cfg=ConfigDict(nms=nms, max_per_img=ROWS))
        theirs = model.merge_preds([samples])[0].pred_instances
    merged = merge(0, found)
    ours = on_photo(merged, dataset.source[0])
    assert 0 < len(theirs.bboxes) <= ROWS < sum(one["valid"].sum() for one in found)
    np.testing.assert_allclose(ours.boxes, theirs.bboxes, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert merged["boxes"].shape == (ROWS, 4)


def test_a_view_is_the_photo_mirrored_and_resized_with_its_padding_behind_it() -> None:
    steps = (Resize(scale=(64, 48), keep_ratio=True), Pad(size_divisor=8))
    dataset, pixels = one_photo()
    padded = evaluation_dataset(dataset.source, Detection(test_transforms=steps, divisor=16))
    views, _ = DetectionTask(Detection()).viewed(padded, Viewing(flip=True))
    plain, mirrored = (view.evaluation(0) for view in views)
    np.testing.assert_array_equal(mirrored["image"][:43, :64], plain["image"][:43, :64][:, ::-1])
    assert (plain["image"][43:] == 0).all()
    assert (mirrored["image"][43:] == 0).all()
    np.testing.assert_array_equal(mirrored["seen"], (48, 64))
    larger = replace(Detection(), {"pad_shapes": ((48, 64), (64, 48))})
    small = evaluation_dataset(dataset.source, replace(larger, {"test_scale": (64, 48)}))
    views, _ = DetectionTask(Detection()).viewed(small, Viewing(scales=(1.0, 0.5, 2.0)))
    assert [view.evaluation(0)["image"].shape[:2] for view in views[:2]] == [(48, 64)] * 2  # which has room for both
    assert views[2].evaluation(0)["size"].tolist() == [87, 128]
    assert pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_run_is_evaluated_on_views_with_a_program_a_shape(detector_run: Path, scenes: Path) -> None:
    run = open_run(detector_run)
    task = run.config.task.task()
    dataset = task.dataset(run.config.data, "test", run.classes)
    wanted = jaxft.evaluate(run, tta="flip", tta_scales=(1, 1.5))
    assert wanted["bbox_mAP"] >= 0
    predictor, arrays = run_predictor(run, task)
    views, merge = task.viewed(dataset, Viewing(flip=True))
    each = [dict(predictor(arrays, view)) for view in views]
    programs = predictor._step.compilations
    predictor.close()
    assert programs == 2  # landscape and portrait, mirrored or not
    entries = jaxft.predict(run, dataset, tta="flip")
    for index, entry in enumerate(entries):
        there = on_photo(merge(index, [found[index] for found in each]), dataset.source[index])  # type: ignore[attr-defined]
        assert len(entry["objects"]) == len(there.scores)
        np.testing.assert_allclose([one["box"] for one in entry["objects"]], there.boxes, rtol=1e-5)
    assert max(len(entry["objects"]) for entry in entries) > 0


def test_what_detectors_do_not_take_is_refused(detector_run: Path) -> None:
    message = user_error(call(evaluate_main, "--run", detector_run, "--tta", "five"))
    assert "which takes flip and scales, but no crops" in message
    dataset, _ = one_photo(masks=True)
    task = DetectionTask(Detection())
    with pytest.raises(UserError, match="masks, which cannot be merged"):
        task.viewed(dataset, Viewing(flip=True))
    with pytest.raises(UserError, match="no temperature of scores"):
        task.viewed(dataset, Viewing(temperature=2.0))
    bare = evaluation_dataset(dataset.source, Detection(test_transforms=(Pad(size_divisor=8),)))
    with pytest.raises(UserError, match="there are no scales; take flip"):
        task.viewed(bare, Viewing(scales=(1.0, 2.0)))
