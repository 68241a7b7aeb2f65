"""Which rule scores, what it scores, and which figure is the primary one."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxft.config import Config, Data, Detection, replace
from jaxft.errors import UserError
from jaxft.tasks.detection import pasting
from jaxft.tasks.detection.data import open_dataset, open_datasets
from jaxft.tasks.detection.evaluator import ObjectEvaluator, metric_names, primary_metric, with_metric
from jaxft.tasks.detection.pasting import Pasting
from jaxft.tasks.detection.task import DetectionTask
from jaxft.training.judge import check_judging
from tests.scenes import write_coco, write_voc
from tests.tasks.detection.sets import voc_source


def prediction(*boxes: list[int], **more: Any) -> dict[str, Any]:
    count = len(boxes)
    return {
        "boxes": np.array(boxes, np.float32),
        "scores": np.linspace(0.9, 0.8, count, dtype=np.float32),
        "labels": np.zeros(count, int),
        "valid": np.ones(count, bool),
        "size": np.array([500, 500]),
    } | more


def test_the_data_source_chooses_the_rule(tmp_path: Path) -> None:
    assert with_metric(Detection(), Data(source="voc")).metric == "voc"
    assert with_metric(Detection(), Data(source="coco")).metric == "coco"
    assert with_metric(Detection(metric="coco"), Data(source="voc")).metric == "coco"
    assert with_metric(Detection(metric="voc"), Data(source="coco")).metric == "voc"
    write_voc(tmp_path, {"a": [("disc", 0, (1, 1, 20, 20))]})
    data = Data(source="voc", root=str(tmp_path), validation="train")
    train, validation = open_datasets(data, Detection(), 0)
    assert {train.settings.metric, validation.settings.metric} == {"voc"}
    assert open_dataset(data, Detection(), "train", ("disc",)).settings.metric == "voc"
    figures = DetectionTask(Detection()).evaluator(validation).result()
    assert set(figures) == {"bbox_mAP", "bbox_AP50", "bbox_mAP/disc"}


def test_all_figures_are_known_by_name_before_an_evaluation() -> None:
    source = voc_source([[((11, 11, 40, 40), 0, False)]], ("disc", "square"))
    fields = (
        {"metric": "voc", "iou_thresholds": (0.5, 0.75)},
        {
            "metric": "coco",
            "masks": True,
            "metric_kinds": ("bbox", "proposal", "proposal_fast"),
            "proposal_nums": (1, 100),
        },
    )
    for some in fields:
        evaluator = ObjectEvaluator(source, Detection(**some))
        evaluator.add(0, prediction(*[[10, 10, 39, 34]] * 2))
        names = metric_names(Detection(**some), source.classes)
        assert {name for name in names if "@1" not in name or "@100" in name} <= set(evaluator.result()) <= set(names)
    with pytest.raises(UserError, match=r"'bbox_mAP50', but .* bbox_mAP_50, .* \(NAME/CLASS\); name one"):
        check_judging(Config(best_metric="bbox_mAP50"), DetectionTask(Detection()).metric_names(source.classes))
    for known in ("bbox_mAP_50", "bbox_AP50", "-bbox_mAP/disc"):
        check_judging(Config(best_metric=known), DetectionTask(Detection()).metric_names(source.classes))


def test_the_fields_have_their_effect() -> None:
    easy = ((11, 11, 40, 40), 0, False)
    source = voc_source([[easy], [easy]], ("disc",))

    def figures(*more: Any, **fields: Any) -> dict[str, float]:
        evaluator = ObjectEvaluator(source, Detection(**fields))
        evaluator.add(0, prediction([10, 10, 39, 34]))  # 25 / 30 of the object
        for answer in more:
            evaluator.add(1, answer)
        return evaluator.result()

    assert figures(metric="voc")["bbox_AP50"] == pytest.approx(6 / 11)
    assert figures(metric="voc", voc_mode="area")["bbox_AP50"] == pytest.approx(0.5)
    strict = figures(metric="voc", voc_mode="area", iou_thresholds=(0.5, 0.9))
    assert (strict["bbox_AP50"], strict["bbox_AP90"], strict["bbox_mAP"]) == pytest.approx((0.5, 0, 0.25))
    assert figures(metric="coco", iou_thresholds=(0.5,))["bbox_mAP"] == pytest.approx(51 / 101)
    assert figures(metric="coco", iou_thresholds=(0.9,))["bbox_mAP"] == 0
    some: tuple[dict[str, Any], ...] = ({}, {"metric": "voc"}, {"metric_kinds": ("bbox", "proposal", "proposal_fast")})
    for fields in some:
        assert set(figures(**fields)) <= set(metric_names(Detection(**fields), source.classes))
    assert "bbox_mAPP" not in metric_names(Detection(), source.classes)
    kinds = figures(metric_kinds=("proposal", "proposal_fast"), proposal_nums=(10, 100))
    assert {"proposal_AR@10", "proposal_AR@100", "proposal_fast_AR@10"} <= kinds.keys()
    assert not any(name.startswith("bbox") for name in kinds)


def test_masks_are_scored_where_the_model_finds_them() -> None:
    source = voc_source([[]], ("disc",))
    for masks in (False, True):
        evaluator = ObjectEvaluator(source, Detection())
        evaluator.add(0, prediction([0, 0, 9, 9], **({"masks": np.ones((1, 4, 4), np.float32)} if masks else {})))
        assert any(name.startswith("segm") for name in evaluator.result()) == masks


def test_each_process_fills_in_its_share_of_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = voc_source([[]] * 5, ("disc",))
    answers = {index: prediction([10 * index, 0, 90, 70], masks=np.ones((1, 4, 4), np.float32)) for index in range(4)}

    def collected() -> Pasting:
        photos = Pasting(source)
        for index, answer in answers.items():
            photos.add(index, answer)
        return photos

    expected = collected().all()
    sent: list[bytes] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(pasting, "gathered", lambda own: sent.append(own) or [])
        collected().all()
    assert [list(json.loads(part)) for part in sent] == [["0", "2"], ["1", "3"]]
    monkeypatch.setattr(pasting, "gathered", lambda own: sent)
    found = collected().all()
    assert found.keys() == expected.keys()
    for index, objects in expected.items():
        assert len(objects.codes) == 1
        assert found[index].codes == objects.codes
        np.testing.assert_array_equal(found[index].boxes, objects.boxes)


def test_a_photo_that_fails_is_not_passed_over() -> None:
    photos = Pasting(voc_source([[]], ("disc",)))
    photos.add(0, prediction([0, 0, 9, 9], size=np.array([0, 0])))
    with pytest.raises(ZeroDivisionError):
        photos.all()


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        ((), "bbox_mAP"),
        (("segm", "bbox"), "bbox_mAP"),
        (("segm",), "segm_mAP"),
        (("proposal",), "proposal_AR@100"),
        (("proposal_fast", "proposal"), "proposal_fast_AR@100"),
    ],
)
def test_the_primary_metric_is_among_the_figures(kinds: Any, name: str, tmp_path: Path) -> None:
    metric = primary_metric(Detection(metric_kinds=kinds, proposal_nums=(1000, 100, 10)))
    assert metric == (name, True)
    assert DetectionTask(Detection(metric_kinds=kinds)).primary_metric == metric
    write_coco(tmp_path, (2,), "test")
    data = Data(source="coco", root=str(tmp_path), image_folder="photos")
    fields = Detection(metric_kinds=kinds, masks=True, proposal_nums=(1000, 100, 10))
    dataset = open_dataset(data, fields, "test", ())
    assert name in DetectionTask(fields).evaluator(dataset).result()


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UserError, match=r"scores boxes alone.*names segm, proposal"):
        with_metric(Detection(metric_kinds=("bbox", "segm", "proposal")), Data(source="voc"))
    with pytest.raises(UserError, match="100 must be among them"):
        replace(Config(task=Detection()), {"task.proposal_nums": (300, 1000)})
    with pytest.raises(UserError, match="iou_thresholds"):
        replace(Config(task=Detection()), {"task.iou_thresholds": (0.5, 1.5)})
    finder = type("Finder", (), {"loss": None, "predict": None})()
    with pytest.raises(UserError, match=r"finds no masks.*metric_kinds names segm"):
        DetectionTask(Detection(metric_kinds=("segm",), masks=True)).check_model(finder, ("disc",))
