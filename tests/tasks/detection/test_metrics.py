"""COCO's figures, against pycocotools on the user's own file, live MMDetection, and cases made by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.mmdet_live  # noqa: F401  # registers what MMDetection wants of mmcv before it is imported
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.metrics import coco_metrics
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather
from jaxft.tasks.detection.proposals import fast_recall, overlaps
from jaxft.tasks.detection.results import write_results
from tests.tasks.detection.sets import judged, random_file, random_found, run_length_code, voc_source

# isort: split
from mmdet.evaluation.functional.recall import _recalls
from mmdet.evaluation.metrics import CocoMetric

CLASSES = ("disc", "square")
PRECISIONS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
RECALLS = ("AR_s", "AR_m", "AR_l")


# pycocotools on the file


def assert_equal(figures: dict[str, float], expected: dict[str, float]) -> None:
    """The same names and, to 1e-12, values; COCOeval's -1 is NaN."""
    wanted = {name: math.nan if value == -1 else value for name, value in expected.items()}
    assert figures == pytest.approx(wanted, abs=1e-12, rel=0, nan_ok=True)


def stats_of(judge: Any, kind: str, names: dict[int, str]) -> dict[str, float]:
    """The figures of an untouched COCOeval under our names."""
    expected = {f"{kind}_{name}": judge.stats[place] for place, name in enumerate(PRECISIONS)}
    expected |= {f"{kind}_AR@100": judge.stats[8]}
    expected |= {f"{kind}_{name}@100": judge.stats[9 + place] for place, name in enumerate(RECALLS)}
    for place, number in enumerate(judge.params.catIds):
        counted = judge.eval["precision"][:, :, place, 0, -1]
        counted = counted[counted > -1]
        expected[f"{kind}_mAP/{names[number]}"] = counted.mean() if counted.size else -1
    return expected


@pytest.mark.parametrize("seeds", [range(start, start + 10) for start in range(0, 50, 10)])
def test_the_figures_are_cocoevals_on_the_users_file(seeds: range, tmp_path: Path) -> None:
    """An untouched COCOeval on the annotation file and on what we write; all classes, some, and all as one."""
    seen = set()
    for seed in seeds:
        random = np.random.default_rng(seed)
        file = random_file(random, tmp_path)
        source = read_coco(file, tmp_path, masks=True)
        if seed % 5 == 3:
            source = read_coco(file, tmp_path, source.classes[-2::-1], masks=True)
        if seed % 5 == 4:
            source = source.as_one_class("object")
        found = random_found(random, source)
        write_results(source, found, tmp_path, masks=True)
        names = dict(zip(source.category_ids, source.classes, strict=True))
        more = {"useCats": 0} if seed % 5 == 4 else {"catIds": list(source.category_ids)}
        for kind, name in (("bbox", "predictions.json"), ("segm", "predictions.segm.json")):
            judge = judged(file, tmp_path / name, kind, **more)
            if seed % 5 == 4:
                judge.params.catIds = [source.category_ids[0]]
            expected = stats_of(judge, kind, names)
            assert_equal(coco_metrics(source, found, (kind,)), expected)  # type: ignore[arg-type]
            seen |= {value for value in expected.values() if 0 < value < 1}
    assert len(seen) > 50


def test_more_objects_than_a_hundred_and_other_overlaps(tmp_path: Path) -> None:
    """Which count is for which figure follows COCOeval's summary."""
    random = np.random.default_rng(2)
    file = random_file(random, tmp_path)
    source = read_coco(file, tmp_path, masks=False)
    found = random_found(random, source, more=450)
    write_results(source, found, tmp_path, masks=False)
    overlap = [0.3, 0.5, 0.75]
    judge = judged(file, tmp_path / "predictions.json", "bbox", maxDets=[100, 300, 1000], iouThrs=np.array(overlap))
    names = dict(zip(source.category_ids, source.classes, strict=True))
    expected = stats_of(judge, "bbox", names)
    for name in ("AR@100", *(f"{name}@100" for name in RECALLS)):
        del expected[f"bbox_{name}"]
    for place, name in enumerate(("AR@100", "AR@300", "AR@1000", *(f"{name}@1000" for name in RECALLS))):
        expected[f"bbox_{name}"] = judge.stats[6 + place]
    figures = coco_metrics(source, found, thresholds=overlap)
    assert_equal(figures, expected)
    fewer = coco_metrics(source, found, thresholds=overlap, counts=(100, 1, 10))
    assert {name for name in fewer if "AR" in name} == {
        *(f"bbox_AR@{count}" for count in (1, 10, 100)),
        *(f"bbox_{name}@100" for name in RECALLS),
    }
    assert fewer["bbox_mAP"] == pytest.approx(figures["bbox_mAP"], abs=1e-12)


def test_a_held_out_part_is_scored_by_its_own_photos(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    file = random_file(random, tmp_path)
    source = read_coco(file, tmp_path).only([0, 2])
    found = random_found(random, source)
    write_results(source, found, tmp_path, masks=False)
    numbers = [example.number for example in source.examples]
    judge = judged(file, tmp_path / "predictions.json", "bbox", imgIds=numbers)
    names = dict(zip(source.category_ids, source.classes, strict=True))
    assert_equal(coco_metrics(source, found), stats_of(judge, "bbox", names))


def test_the_truth_stays_as_the_file_has_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    source = read_coco(random_file(random, tmp_path), tmp_path, masks=True)
    before = json.dumps([example.truth for example in source.examples])
    coco_metrics(source, random_found(random, source), ("segm", "bbox"))
    assert json.dumps([example.truth for example in source.examples]) == before


@pytest.mark.parametrize("seed", [1, 8])
def test_the_reported_figures_are_those_of_mmdetection(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    file = random_file(random, tmp_path)
    source = read_coco(file, tmp_path, masks=True)
    found = random_found(random, source, more=130)
    metric = CocoMetric(ann_file=str(file), metric=["bbox", "segm", "proposal"], classwise=True)
    metric.dataset_meta = {"classes": source.classes}
    nothing = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    for index, example in enumerate(source.examples):
        objects = found.get(index, nothing)
        metric.results.append(
            (
                {"width": example.width, "height": example.height, "img_id": example.number},
                {
                    "img_id": example.number,
                    "bboxes": objects.boxes.astype(np.float32),
                    "scores": objects.scores,
                    "labels": objects.labels,
                    "masks": [dict(code) for code in objects.codes],
                },
            )
        )
    # With class names as MMDetection looks them up: in the order of the file's categories.
    metric.cat_ids = list(source.category_ids)
    theirs = metric.compute_metrics(metric.results)
    ours = coco_metrics(source, found, ("bbox", "segm", "proposal"))
    expected = {f"{kind}_{name}": theirs[f"{kind}_{name}"] for kind in ("bbox", "segm") for name in PRECISIONS}
    expected |= {f"proposal_{name}": theirs[name] for name in ("AR@100", "AR@300")}
    expected |= {f"proposal_{name}@300": theirs[f"{name}@1000"] for name in RECALLS}
    expected |= {f"segm_mAP/{name}": theirs[f"{name}_precision"] for name in source.classes}  # the last one evaluated
    wanted = {name: math.nan if value == -1 else value for name, value in expected.items()}
    assert {name: ours[name] for name in wanted} == pytest.approx(wanted, abs=5.1e-4, nan_ok=True)


def test_fast_recall_is_that_of_mmdetection() -> None:
    """Its `eval_recalls` does not run with this NumPy, but what it calls does."""
    random = np.random.default_rng(0)
    sides = [(3, 400), (0, 20), (5, 2), (4, 0), (1, 150)]
    tables, examples, found = np.empty(len(sides), object), [], {}
    for index, (objects, boxes) in enumerate(sides):
        corner, near = random.uniform(0, 60, (objects, 2)), random.uniform(0, 60, (boxes, 2))
        truth = np.concatenate([corner, random.uniform(5, 40, (objects, 2))], 1)
        entries = tuple({"bbox": box, "iscrowd": 0} for box in truth.tolist())
        ignored = ({"bbox": [0, 0, 50, 50], "iscrowd": 1}, {"bbox": [1, 1, 9, 9], "ignore": 1})
        examples.append(Annotated(Path("x"), 100, 100, gather([], []), index, "x", entries + ignored))
        corners = np.concatenate([near, near + random.uniform(5, 40, near.shape)], 1)
        found[index] = Found(corners, np.zeros(boxes), np.zeros(boxes, int))
        whole = truth + np.concatenate([np.zeros_like(corner), corner], 1)
        tables[index] = overlaps(whole, corners).astype(np.float32)
    thresholds = np.linspace(0.2, 0.9, 8)
    theirs = _recalls(tables, np.array([10, 100, 300]), thresholds).mean(1)
    ours = fast_recall(ObjectSource("x", ("object",), tuple(examples)), found, thresholds.tolist(), (10, 100, 300))
    np.testing.assert_allclose(list(ours.values()), theirs, atol=1e-6)
    assert 0 < ours[10] < ours[300] < 1
    empty = ObjectSource("x", ("object",), (examples[1]._replace(truth=()),))
    assert math.isnan(fast_recall(empty, {}, (0.5,), (100,))[100])


# Cases made by hand

SMALL, MEDIUM, LARGE = [0, 0, 20, 20], [30, 0, 80, 50], [0, 0, 180, 100]


def truth(*objects: tuple[list[float], int, bool], shapes: Any = ()) -> Annotated:
    entries = [
        {
            "id": index + 1,
            "image_id": 11,
            "category_id": label + 1,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": (box[2] - box[0]) * (box[3] - box[1]),
            "iscrowd": int(crowd),
        }
        for index, (box, label, crowd) in enumerate(objects)
    ]
    if shapes:
        entries = [entry | {"segmentation": shape} for entry, shape in zip(entries, shapes, strict=True)]
    return Annotated(Path("none.png"), 200, 100, gather([], []), 11, "none.png", tuple(entries))


def found(*objects: tuple[list[float], int, float], codes: Any = ()) -> Found:
    boxes, labels, scores = zip(*objects, strict=True) if objects else ([], [], [])
    return Found(np.array(boxes, float).reshape(-1, 4), np.array(scores, float), np.array(labels, int), tuple(codes))


def metrics(pairs: list[tuple[Annotated, Found | None]], *kinds: Any) -> dict[str, float]:
    """The figures that are defined."""
    examples = [one._replace(number=number) for number, (one, _) in enumerate(pairs, 1)]
    ids = iter(range(1, 1000))
    for place, example in enumerate(examples):
        entries = tuple(entry | {"id": next(ids), "image_id": example.number} for entry in example.truth)
        examples[place] = example._replace(truth=entries)
    source = ObjectSource("made by hand", CLASSES, tuple(examples))
    figures = coco_metrics(
        source, {index: entry for index, (_, entry) in enumerate(pairs) if entry is not None}, kinds or ("bbox",)
    )
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def test_everything_found_is_one() -> None:
    one = truth((SMALL, 0, False), (MEDIUM, 1, False), (LARGE, 1, False))
    figures = metrics([(one, found((SMALL, 0, 0.9), (MEDIUM, 1, 0.8), (LARGE, 1, 0.7)))])
    names = {f"bbox_mAP{end}" for end in ("", "_50", "_75", "_s", "_m", "_l", "/disc", "/square")}
    assert set(figures) == names | {"bbox_AR@100", "bbox_AR_s@100", "bbox_AR_m@100", "bbox_AR_l@100"}
    assert all(value == pytest.approx(1) for value in figures.values())


@pytest.mark.parametrize("entry", [None, found(), found((LARGE, 0, 0.9))])
def test_nothing_right_is_nothing(entry: Found | None) -> None:
    figures = metrics([(truth((SMALL, 0, False)), entry)])
    names = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP/disc", "bbox_AR@100", "bbox_AR_s@100")
    assert figures == dict.fromkeys(names, 0.0)


def test_without_truth_nothing_is_defined() -> None:
    assert metrics([(truth(), found((SMALL, 0, 0.9)))], "bbox", "proposal", "proposal_fast") == {}
    assert metrics([(truth((LARGE, 0, True)), found((SMALL, 0, 0.9)))]) == {}


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


def test_what_is_in_a_crowd_is_neither_right_nor_wrong() -> None:
    one = truth((SMALL, 0, False), (LARGE, 0, True))
    inside = [100, 50, 150, 90]
    assert metrics([(one, found((inside, 0, 0.9), (SMALL, 0, 0.5)))])["bbox_mAP"] == pytest.approx(1)


def test_small_boxes_inside_a_difficult_object_are_wrong() -> None:
    """VOC's data by COCO's rule: only what overlaps a difficult object as a whole is neither right nor wrong."""
    hard, easy = ((101, 101, 400, 400), 0, True), ((1, 1, 40, 40), 0, False)
    boxes = [[110 + 10 * x, 110 + 10 * y, 118 + 10 * x, 118 + 10 * y] for x in range(5) for y in range(5)]
    inside = [(box, 0, 0.9) for box in boxes]
    right = ([0, 0, 39, 39], 0, 0.5)

    def score(objects: list[Any], *entries: Any) -> float:
        return coco_metrics(voc_source([objects], ("disc",)), {0: found(*entries)})["bbox_mAP_50"]

    assert score([hard, easy], *inside, right) == pytest.approx(1 / 26)
    assert score([hard, easy], *inside, right) == score([easy], *inside, right)
    whole = ([100, 100, 399, 399], 0, 0.9)
    assert score([hard, easy], whole, right) == pytest.approx(1)
    assert score([easy], whole, right) == pytest.approx(0.5)


def test_masks_are_judged_apart() -> None:
    square = [[30, 0, 80, 0, 80, 50, 30, 50]]
    one = truth((MEDIUM, 0, False), shapes=[square])
    grid = np.zeros((100, 200), np.uint8)
    grid[0:25, 30:80] = 1  # half of the object, in a right box
    figures = metrics([(one, found((MEDIUM, 0, 0.9), codes=[run_length_code(grid)]))], "bbox", "segm")
    assert figures["bbox_mAP"] == pytest.approx(1)
    assert figures["segm_mAP_50"] == pytest.approx(1)
    assert figures["segm_mAP"] == pytest.approx(0.1)
    assert figures["segm_mAP/disc"] == pytest.approx(0.1)
