"""Runs of a detector from start to finish: what is logged, resumed, evaluated, predicted and exported."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import jaxft
from jaxft import export, train
from jaxft.config import load
from jaxft.errors import UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.models.streams import initial_rngs
from jaxft.predict import main as predict_main
from jaxft.training.finished import open_run
from tests.scenes import CLASSES, Finder, copied, with_content, write_json
from tests.small import assert_equal_runs, call, final, interrupted, lines, user_error
from tests.tasks.detection.sets import judged
from tests.training.test_processes import processes

pytest_plugins = ("tests.runs", "tests.detector_runs")

STEPS = 2 + 1  # a landscape shape with 8 photos, a portrait one with 4; four in a batch


def test_a_run_logs_every_loss_and_cocos_figures(detector_run: Path) -> None:
    entries = lines(detector_run)
    trained = [entry for entry in entries if entry["split"] == "train"]
    tested = [entry for entry in entries if entry["split"] == "validation"]
    assert [entry["step"] for entry in trained] == list(range(1, 2 * STEPS + 1))
    assert [entry["step"] for entry in tested] == [STEPS, 2 * STEPS]
    for entry in trained:
        assert entry["loss"] == pytest.approx(entry["loss_cls"] + entry["s0.loss_bbox"], rel=1e-5)
        assert 0 <= entry["acc"] <= 1
    for entry in tested:
        assert {"bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP/disc"} <= entry.keys()
    assert {path.name for path in (detector_run / "pictures").iterdir()} == {
        "inputs.png",
        "learning_curves.png",
        "predictions.png",
    }
    assert json.loads((detector_run / "classes.json").read_text()) == list(CLASSES)


def test_nothing_is_compiled_again_whatever_the_number_of_boxes(detector_config: Path, tmp_path: Path) -> None:
    """Three epochs over photos with 0 to 7 objects, of two pad shapes."""
    run = tmp_path / "run"
    assert call(train.main, "--config", detector_config, "--workdir", run, "--phases.0.epochs", 3).code == 0
    trained = [entry for entry in lines(run) if entry["split"] == "train"]
    assert len(trained) == 3 * STEPS
    assert max(entry["compilations"] for entry in trained) == 2


@pytest.mark.parametrize("at", [2, 4, 5])
def test_resume_equals_an_undisturbed_run(detector_run: Path, detector_config: Path, tmp_path: Path, at: int) -> None:
    run = tmp_path / "run"
    interrupted(detector_config, run, at, "--checkpoint-every", 1)
    assert call(train.main, "--workdir", run, "--resume").code == 0
    assert_equal_runs(run, detector_run)
    tests = [[line for line in lines(each) if line["split"] == "validation"] for each in (run, detector_run)]
    assert tests[0] == tests[1]


LISTED = """
from configs.finder import config
from jaxft.config import Detection, replace
from jaxft.parts import Concat, Files, Repeat
from jaxft.tasks.detection.mixtures import MixUp, Mosaic
from jaxft.tasks.detection.transforms import Pad, RandomCrop, RandomFlip, RandomResize, Resize

def files(split, **options):
    return Files(annotation_file=f"annotations/instances_{split}.json", image_folder="photos", **options)

config = replace(config, {
    "data.image_folder": "{split}",
    "data.splits": {
        "train": Concat(parts=(Repeat(times=2, part=files("train", indices=3)), files("train"))),
        "test": files("test"),
    },
    "data.shuffle": False,
    "task": Detection(
        photo_transforms=(
            RandomResize(scale=(64, 64), ratio_range=(0.3, 2.0), keep_ratio=True),
            RandomCrop(crop_size=(64, 64)),
        ),
        transforms=(
            Mosaic(img_scale=(32, 32), prob=0.5),
            MixUp(img_scale=(64, 64)),
            RandomFlip(prob=0.5, direction=("horizontal", "vertical")),
            Pad(size=(64, 64), pad_val=114),
        ),
        test_transforms=(Resize(scale=(60, 50)), Pad(size_divisor=32)),
        max_objects=5,
    ),
})
"""


def test_a_run_of_listed_steps_and_parts_resumes(detector_config: Path, tmp_path: Path) -> None:
    """18 places of 12 photos, which are mixed, one pad shape; predictions of photos that were stretched and padded are
    of the photo."""
    config = detector_config.with_name("listed.py")
    config.write_text(LISTED)
    whole, run = tmp_path / "whole", tmp_path / "run"
    result = call(train.main, "--config", config, "--workdir", whole)
    assert result.code == 0, result
    assert "18 photos" in result.out
    assert "of these photos 12 are different ones" in result.out
    trained = [line for line in lines(whole) if line["split"] == "train"]
    assert len(trained) == 2 * (18 // 4)
    assert max(entry["compilations"] for entry in trained) == 1
    interrupted(config, run, 6, "--checkpoint-every", 1)
    assert call(train.main, "--workdir", run, "--resume").code == 0
    assert_equal_runs(run, whole)
    result = call(evaluate_main, "--run", run, "--checkpoint", "last", "--output", tmp_path / "found", "--json")
    assert result.code == 0, result
    last = [line for line in lines(whole) if line["split"] == "validation"][-1]
    assert json.loads(result.out)["metrics"]["bbox_mAP"] == pytest.approx(last["bbox_mAP"])
    boxes = np.array([entry["bbox"] for entry in json.loads((tmp_path / "found" / "predictions.json").read_text())])
    assert (boxes[:, :2] < 64).all()
    result = call(train.main, "--config", config, "--workdir", tmp_path / "other", "--task.flip", 0.2)
    assert result.code == 2
    assert "flip is given, but transforms lists the steps" in result.err


def test_two_processes_train_and_evaluate_as_one(detector_run: Path, detector_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    results = processes("--config", detector_config, "--workdir", run, module="tests.scenes")
    assert [result.code for result in results] == [0, 0], results
    (step, ours), (other_step, others) = final(run), final(detector_run)
    assert step == other_step
    for path, array in ours.items():
        np.testing.assert_allclose(array, others[path], rtol=1e-4, atol=1e-5, err_msg=path)
    for line, other in zip(lines(run), lines(detector_run), strict=True):
        assert line["step"] == other["step"]
        name = "loss" if line["split"] == "train" else "bbox_mAP"
        assert line[name] == pytest.approx(other[name], rel=1e-3, abs=1e-3)


# Finished runs


@pytest.mark.parametrize("which", ["best", "last"])
def test_evaluate_gives_the_figures_of_the_run(detector_run: Path, which: str) -> None:
    tests = [line for line in lines(detector_run) if line["split"] == "validation"]
    # The first of equals is the best.
    wanted = tests[-1] if which == "last" else max(tests, key=lambda line: line["bbox_mAP"])
    result = call(evaluate_main, "--run", detector_run, "--checkpoint", which)
    assert result.code == 0, result
    assert f"{which} checkpoint (step {wanted['step']}), 5 examples" in result.out
    for name in ("bbox_mAP", "bbox_mAP_50", "bbox_mAP/square"):
        assert f"{name} {wanted[name]:.4f}" in result.out


def test_evaluate_another_split(detector_run: Path) -> None:
    result = call(evaluate_main, "--run", detector_run, "--split", "train")
    assert "12 examples" in result.out


def test_what_evaluate_writes_scores_directly(detector_run: Path, scenes: Path, tmp_path: Path) -> None:
    """The annotation file and the predictions, in pycocotools' hands, give the figures that were printed."""
    output = tmp_path / "out"
    result = call(evaluate_main, "--run", detector_run, "--split", "train", "--output", output, "--json")
    assert result.code == 0, result
    printed = json.loads(result.out)
    assert (printed["split"], printed["checkpoint"], printed["examples"]) == ("train", "best", 12)
    annotations = scenes / "annotations" / "instances_train.json"
    judge = judged(annotations, output / "predictions.json", "bbox")
    figures = printed["metrics"]
    names = ["bbox_mAP", *(f"bbox_mAP_{end}" for end in ("50", "75", "s"))]
    assert [figures[name] for name in names] == pytest.approx(judge.stats[:4].tolist(), abs=1e-12)
    assert figures["bbox_AR@100"] == pytest.approx(judge.stats[8], abs=1e-12)
    assert judge.stats[5] == -1
    assert figures["bbox_mAP_l"] is None
    assert len(list(output.glob("*.png"))) == 12
    content = json.loads((output / "images.json").read_text())
    assert content["categories"] == json.loads(annotations.read_text())["categories"]


def test_what_is_not_defined_is_said(detector_run: Path, scenes: Path, tmp_path: Path) -> None:
    """Photos without an object have no mean average precision."""
    shutil.copytree(scenes, tmp_path / "scenes")
    file = tmp_path / "scenes" / "annotations" / "instances_test.json"
    write_json(tmp_path / "scenes", "test", json.loads(file.read_text()) | {"annotations": []})
    result = call(evaluate_main, "--run", detector_run, "--root", tmp_path / "scenes")
    assert result.code == 0, result
    assert "bbox_mAP is not defined" in result.out
    result = call(evaluate_main, "--run", detector_run, "--root", tmp_path / "scenes", "--json")
    figures = json.loads(result.out)["metrics"]
    assert "bbox_mAP" in figures
    assert set(figures.values()) == {None}
    assert "bbox_mAP is not defined" in result.err


def test_predict_writes_drawings_and_cocos_json(detector_run: Path, scenes: Path, tmp_path: Path) -> None:
    files = [scenes / "photos" / f"test{number}.png" for number in (0, 2)]
    output = tmp_path / "out"
    result = call(predict_main, "--run", detector_run, "--output", output, "--crops", 0.2, *files)
    assert result.code == 0, result
    assert all(str(file) in result.out for file in files)
    content = json.loads((output / "images.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == [str(file) for file in files]
    assert [entry["name"] for entry in content["categories"]] == list(CLASSES)
    entries = json.loads((output / "predictions.json").read_text())
    assert {entry["image_id"] for entry in entries} == {1, 2}
    for entry in entries:
        assert 0 <= entry["score"] <= 1
        assert entry["category_id"] in (1, 2)
        assert entry["bbox"][2] > 0
    table = COCO(output / "images.json").loadRes(str(output / "predictions.json"))
    assert len(table.getAnnIds(imgIds=[1])) > 0
    sizes = []
    for name in ("0000_test0.png", "0001_test2.png"):
        with Image.open(output / name) as picture:
            sizes.append(picture.size)
    assert sizes == [(64, 48), (48, 64)]
    cut = sum(entry["score"] >= 0.2 for entry in entries)
    assert cut
    assert len(list((output / "crops").glob("*/*.png"))) == cut
    assert f"crops has {cut} objects with a score of at least 0.2" in result.out.replace("\n", " ")


def test_export_is_the_detector_under_its_own_names(detector_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    assert call(export.main, "--run", detector_run, "--output", file).code == 0
    state = torch.load(file, weights_only=True)
    assert {"backbone.weight", "bn.running_mean", "bbox_head.weight", "bbox_head.bias"} <= state.keys()


def test_stablehlo_of_a_detector_finds_the_same(detector_run: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "model.stablehlo", open_run(detector_run)
    assert call(export.main, "--run", detector_run, "--format", "stablehlo", "--output", file).code == 0
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    (shape, kind), (size, _) = ((entry.shape, entry.dtype) for entry in program.in_avals)
    assert (kind, size) == (np.uint8, (1, 2))
    random = np.random.default_rng(0)
    batch = {"image": random.integers(0, 256, shape, np.uint8), "size": np.array([[shape[1], 40]], np.int32)}
    found = program.call(batch["image"], batch["size"])
    wanted = run.config.task.task().predict(run.model, batch)
    assert found["valid"].any()
    assert found.keys() == wanted.keys() - {"size"}
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_pad_shape_is_for_stablehlo(detector_run: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"model.{'pth' if kind == 'torch' else kind}"
    arguments = ("--run", detector_run, "--format", kind, "--output", file, "--pad-shape", 64, 64)
    assert "--pad-shape is for detectors" in user_error(call(export.main, *arguments))


def test_a_backbone_from_elsewhere_is_exported_as_a_part(detector_config: Path, tmp_path: Path) -> None:
    weights = {"weight": torch.randn(8, 3, 8, 8)}
    torch.save(weights, tmp_path / "backbone.pth")
    run = tmp_path / "run"
    pretrained = ("--pretrained.source", tmp_path / "backbone.pth", "--pretrained.rename", "", "backbone.")
    skip = ("--pretrained.skip", "bn", "bbox_head")
    result = call(train.main, "--config", detector_config, "--workdir", run, *pretrained, *skip, "--phases.0.epochs", 1)
    assert result.code == 0, result
    assert call(export.main, "--run", run, "--output", tmp_path / "model.pth").code == 0
    assert "backbone.weight" in torch.load(tmp_path / "model.pth", weights_only=True)


def test_data_that_have_other_classes_now(detector_run: Path, scenes: Path, tmp_path: Path) -> None:
    root = copied(scenes, tmp_path)
    for split in ("train", "test"):
        with_content(lambda content: content["categories"][1].update(name="ring"), split)(root)
    message = user_error(call(evaluate_main, "--run", detector_run, "--root", root, "--split", "test"))
    assert "disc, ring" in message
    assert "disc, square are expected" in message
    run = tmp_path / "run"
    shutil.copytree(detector_run, run)
    settings = json.loads((run / "config.json").read_text())
    settings["data"]["root"] = str(root)
    (run / "config.json").write_text(json.dumps(settings))
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert "ring" in message
    assert "square" in message


def test_predicting_from_python_gives_objects_in_pixels_of_the_photo(detector_run: Path, scenes: Path) -> None:
    files = [scenes / "photos" / f"test{number}.png" for number in (0, 2)]
    run = jaxft.load_run(detector_run)
    entries = jaxft.predict(run, files)
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    assert run.preprocessing.size is None
    dataset = run.config.task.task().photos(files, run.classes)
    for index, entry in enumerate(entries):
        example = dataset.evaluation(index)
        batch = {name: np.asarray(array)[None] for name, array in example.items()}
        found = run.config.task.task().predict(run.model, batch)
        order = np.argsort(-np.asarray(found["scores"][0])[np.asarray(found["valid"][0])], kind="stable")
        boxes = np.asarray(found["boxes"][0])[np.asarray(found["valid"][0])][order]
        with Image.open(files[index]) as picture:
            stretch = np.array([picture.width / example["size"][1], picture.height / example["size"][0]] * 2)
        assert len(entry["objects"]) == len(boxes) > 0
        np.testing.assert_allclose([one["box"] for one in entry["objects"]], boxes * stretch, rtol=1e-3, atol=1e-2)
        scores = [one["score"] for one in entry["objects"]]
        assert scores == sorted(scores, reverse=True)
        assert {one["class"] for one in entry["objects"]} <= set(CLASSES)
    assert json.loads(json.dumps(entries)) == entries


def test_a_detector_of_ones_own_is_the_configured_one(
    detector_run: Path, detector_config: Path, tmp_path: Path
) -> None:
    config = load(detector_config)
    model = Finder(2, rngs=initial_rngs(config.seed))
    fitted = jaxft.fit(config, tmp_path / "run", model=model)
    assert fitted.complete
    (step, arrays), (other_step, others) = final(fitted.path), final(detector_run)
    assert step == other_step
    assert all(np.allclose(array, others[path], atol=1e-4) for path, array in arrays.items())
    with pytest.raises(UserError, match="a model of your own, Finder"):
        jaxft.evaluate(fitted.path)
