"""Splits that say their own files, beside MMEngine's and MMDetection's data sets and wrappers."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import tests.mmdet_live  # noqa: F401
from jaxft.checks import check_places
from jaxft.config import Config, Data, Detection, from_json, to_json
from jaxft.data.download import check_root
from jaxft.data.loader import train_batches
from jaxft.errors import UserError
from jaxft.parts import ClassBalanced, Concat, Files, Part, Repeat, files_of
from jaxft.tasks.detection.data import open_datasets, open_source
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.transforms import RandomChoice, RandomCrop, RandomFlip, Resize
from tests.scenes import CLASSES, IDS, write_coco, write_json, write_voc

# isort: split
from mmdet.registry import DATASETS
from mmengine.dataset import ConcatDataset  # noqa: F401  # registered by its import

COUNTS = {"a": (0, 1, 3, 2, 0, 6, 1, 2), "b": (2, 1, 0, 1)}
FIELDS = Detection(scales=((64, 48),), test_scale=(64, 48), divisor=64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with photos of their own in them; the first has rare squares, and photos of crowds alone."""
    root = tmp_path_factory.mktemp("parts")
    for name, counts in COUNTS.items():
        content = write_coco(root / name, counts, "all")
        for index, entry in enumerate(content["annotations"]):
            entry["category_id"] = IDS[index % 5 == 4]
        crowd, small = (next(a for a in content["annotations"] if a["image_id"] == 100 + 3 * i) for i in (1, 3))
        crowd["iscrowd"] = int(name == "a")
        small["ignore"] = int(name == "b")
        content["images"][0]["height"] = {"a": 20, "b": 48}[name]  # of `a` a photo without objects
        write_json(root / name, "all", content)
    return root


def files(name: str, **options: Any) -> Files:
    return Files(root=name, annotation_file="annotations/instances_all.json", image_folder="photos", **options)


def theirs(root: Path, part: Part, *, test_mode: bool = False) -> Any:
    """The same tree of MMDetection's data sets."""

    def described(part: Part) -> dict[str, Any]:
        match part:
            case Files():
                return {
                    "type": "CocoDataset",
                    "data_root": str(root / part.root),
                    "ann_file": part.annotation_file,
                    "data_prefix": {"img": part.image_folder},
                    "metainfo": {"classes": CLASSES},
                    "filter_cfg": {"filter_empty_gt": not part.keep_empty, "min_size": part.min_side},
                    "indices": list(part.indices) if isinstance(part.indices, tuple) else part.indices,
                    "test_mode": test_mode,
                }
            case Concat():
                return {"type": "ConcatDataset", "datasets": [described(inner) for inner in part.parts]}
            case Repeat():
                return {"type": "RepeatDataset", "dataset": described(part.part), "times": part.times}
        wrapped = described(part.part)
        return {"type": "ClassBalancedDataset", "dataset": wrapped, "oversample_thr": part.oversample_threshold}

    built = DATASETS.build(described(part))
    return [built.get_data_info(index) for index in range(len(built))]


def opened(root: Path, part: Part, **options: Any) -> Any:
    data = Data(source="coco", root=str(root), splits={"train": part}, classes=CLASSES)
    return open_source(data, FIELDS, "train", CLASSES, training=True, **options)


BALANCED = ClassBalanced(oversample_threshold=0.9, part=files("a"))


@pytest.mark.parametrize(
    "part",
    [
        files("a"),
        files("b", indices=2),
        files("a", indices=-3),
        files("a", indices=100),
        files("a", indices=(5, 0, -1, 5)),
        files("a", keep_empty=False),
        files("b", keep_empty=False),
        files("a", keep_empty=False, indices=3),
        files("a", min_side=21),
        Repeat(times=3, part=files("b")),
        BALANCED,
        ClassBalanced(oversample_threshold=0.3, part=files("a", keep_empty=False)),
        Concat(parts=(files("a", keep_empty=False), files("b", indices=2))),
        Repeat(times=2, part=Concat(parts=(files("b"), BALANCED, Repeat(times=2, part=files("a", indices=2))))),
    ],
)
def test_a_part_has_the_photos_of_mmdetections_data_set(root: Path, part: Part) -> None:
    ours, reference = opened(root, part), theirs(root, part)
    assert [str(example.image) for example in ours.examples] == [row["img_path"] for row in reference]
    for example, row in zip(ours.examples, reference, strict=True):
        boxes = np.array([entry["bbox"] for entry in row["instances"]], np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(example.objects.boxes, boxes)
        assert example.objects.labels.tolist() == [entry["bbox_label"] for entry in row["instances"]]


def test_a_balanced_part_may_hold_any_other(root: Path) -> None:
    """MMDetection's wants a plain data set; two halves are the whole."""
    halves = Concat(parts=(files("a", indices=4), files("a", indices=-4)))
    found = opened(root, ClassBalanced(oversample_threshold=0.9, part=halves))
    assert len(found) > 8
    assert [example.name for example in found.examples] == [one.name for one in opened(root, BALANCED).examples]


def test_each_split_has_its_own_files(root: Path) -> None:
    """Case A.1: two roots, one name of the annotation file."""
    data = Data(source="coco", root=str(root), splits={"train": files("a"), "val": files("b")}, validation="val")
    train, validation = open_datasets(data, FIELDS, 0)
    assert validation is not None
    assert (len(train), len(validation)) == (8, 4)
    assert {example.image.parent for example in train.source.examples} == {root / "a" / "photos"}
    assert {example.image.parent for example in validation.source.examples} == {root / "b" / "photos"}
    validation.check()
    filtered = Detection(**vars(FIELDS) | {"keep_empty": False})
    train, validation = open_datasets(data, filtered, 0)
    assert validation is not None
    assert (len(train), len(validation)) == (6, 4)


def test_a_photo_at_several_places_is_opened_once_before_training(root: Path) -> None:
    data = Data(source="coco", root=str(root), splits={"train": Repeat(times=2, part=files("b"))}, validation=None)
    train, _ = open_datasets(data, FIELDS, 0)
    assert len(train) == 8
    assert "of these photos 4 are different ones" in train.report(2)
    with mock.patch.object(ObjectSource, "check", autospec=True) as check:
        train.check()
    assert len(check.call_args.args[0]) == 4
    with train_batches(train, batch_size=4, seed=0) as batches:  # each place has its own chance
        images = np.concatenate([next(batches)["image"] for _ in range(2)])
    assert len({image.tobytes() for image in images}) > 4


def test_an_evaluation_takes_each_photo_of_one_file_once(root: Path) -> None:
    data = Data(
        source="coco",
        root=str(root),
        splits={"train": Repeat(times=3, part=BALANCED), "two": Concat(parts=(files("a"), files("b")))},
    )
    assert len(open_source(data, FIELDS, "train", CLASSES)) == 8
    with pytest.raises(UserError, match=r"'two' joins several files"):
        open_source(data, FIELDS, "two", CLASSES)
    held = Data(source="coco", root=str(root), splits=data.splits, holdout=0.5)
    with pytest.raises(UserError, match=r"data\.holdout cannot cut the split 'train'"):
        open_datasets(held, FIELDS, 0)


def test_what_a_split_is_made_of_is_noticed_on_resume(root: Path) -> None:
    parts = (
        files("a"),
        files("a", indices=7),
        Repeat(times=2, part=files("a")),
        Repeat(times=3, part=files("a")),
        BALANCED,
    )
    names = set()
    for part in parts:
        data = Data(source="coco", root=str(root), splits={"train": part}, validation=None)
        names.add(tuple(open_datasets(data, FIELDS, 0)[0].names()))
    assert len(names) == len(parts)


def test_voc_parts(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / year, {stem: [("cat", 0, (3, 4, 20, 25))] for stem in "abc"}, "trainval")
    parts = tuple(Files(root=year, annotation_file="ImageSets/Main/trainval.txt") for year in ("VOC2007", "VOC2012"))
    data = Data(source="voc", root=str(tmp_path), splits={"train": Repeat(times=3, part=Concat(parts=parts))})
    source = open_source(data, FIELDS, "train", (), training=True)
    assert len(source) == 18
    assert [example.image.parts[-3] for example in source.examples[:6]] == ["VOC2007"] * 3 + ["VOC2012"] * 3
    odd = Data(source="voc", root=str(tmp_path), splits={"train": Files(root="VOC2007", annotation_file="list.txt")})
    with pytest.raises(UserError, match=r"list\.txt .* expected ImageSets/Main/NAME\.txt"):
        open_source(odd, FIELDS, "train", ())


def test_entries_for_evaluation_do_not_travel_with_the_training_split(root: Path) -> None:
    data = Data(source="coco", root=str(root), splits={"all": files("a")}, train="all", validation="all")
    train, validation = open_datasets(data, FIELDS, 0)
    assert not any(example.truth for example in train.source.examples)
    assert validation is not None
    assert any(example.truth for example in validation.source.examples)


def test_mistakes_are_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"has 8 photos, but the indices of data\.splits name number 8"):
        opened(root, files("a", indices=(1, 8)))
    with pytest.raises(UserError, match="There is no annotation file"):
        opened(root, files("c"))
    data = Data(source="coco", root=str(root), splits={"train": files("a")}, train="trian", classes=CLASSES)
    with pytest.raises(UserError, match=r"There is no split 'trian': data\.splits has train, and there is no file"):
        open_datasets(data, FIELDS, 0)


def test_a_split_without_any_object_is_refused(root: Path, tmp_path: Path) -> None:
    some = files("a")
    content = json.loads((root / some.root / some.annotation_file).read_text())
    (tmp_path / "none.json").write_text(json.dumps(content | {"annotations": []}))
    none = Files(root=str(tmp_path), annotation_file="none.json")
    for train, val, purpose in ((none, some, "train on"), (some, none, "evaluate")):
        splits = {"train": train, "val": val}
        data = Data(source="coco", root=str(root), splits=splits, validation="val", classes=CLASSES)
        with pytest.raises(UserError, match=rf"none\.json has no object to find in the 8 photos to {purpose}"):
            open_datasets(data, FIELDS, 0)


# On the command line


def checked(**options: Any) -> None:
    check_root(Data(**{"source": "coco"} | options))


def test_no_field_goes_unread_beside_splits(root: Path) -> None:
    apart = {"train": files("a"), "test": files("b")}
    checked(root=str(root), splits=apart)
    far = {name: files(str(root / part.root)) for name, part in apart.items()}
    checked(splits=far)  # needs no common folder
    with pytest.raises(UserError, match=r"data\.root is '/x', but all paths of data\.splits are absolute"):
        checked(root="/x", splits=far)
    with pytest.raises(UserError, match=r"There is no folder /x"):
        checked(root="/x", splits=apart)
    with pytest.raises(UserError, match=r"data\.annotation_file is 'x\.json', but data\.splits says"):
        checked(root=str(root), splits=apart, annotation_file="x.json")
    with pytest.raises(UserError, match=r"data\.image_folder is 'x', but data\.splits says"):
        checked(root=str(root), splits=apart, image_folder="x")
    checked(root=str(root), splits={"train": files("a")}, image_folder="x")  # which `test` is in
    checked(root=str(root), splits={"train": files("a")}, validation=None)
    with pytest.raises(UserError, match=r"data\.splits is for the data sources coco and voc; 'folder'"):
        check_places(Config(data=Data(root=str(root), splits=apart)), None)


def test_absolute_paths() -> None:
    assert files("a").below_root
    assert not files("/a").below_root
    assert Files(annotation_file="/a.json", image_folder="b").below_root
    assert not Files(annotation_file="/a.json", image_folder="/b").below_root
    assert not Files(source="voc", annotation_file="/a.txt").below_root
    tree = Repeat(times=2, part=Concat(parts=(files("a"), BALANCED)))
    assert [leaf.root for leaf in files_of(tree)] == ["a", "a"]


def test_steps_and_splits_survive_json(tmp_path: Path) -> None:
    lists = ((RandomFlip(prob=(0.1, 0.2), direction=("vertical", "diagonal")),), (RandomCrop(crop_size=(3, 4)),))
    config = Config(
        task=Detection(
            transforms=(Resize(scale=9), RandomChoice(transforms=lists)), test_transforms=(Resize(scale=(9, 8)),)
        ),
        data=Data(splits={"train": Repeat(times=2, part=Concat(parts=(files("a", indices=(1, 2)), BALANCED)))}),
    )
    text = to_json(config)
    assert from_json(text, tmp_path) == config
    content = json.loads(text)
    content["task"]["transforms"][1]["transforms"][0][0]["prob"] = 2
    with pytest.raises(UserError, match=r"prob.* less than or equal to 1"):
        from_json(json.dumps(content), tmp_path)


def test_small_boxes_of_voc_are_ignored_as_by_mmdetection(tmp_path: Path) -> None:
    boxes = ((3, 4, 25, 28), (3, 4, 8, 28), (3, 4, 9, 10), (3, 4, 30, 9))
    write_voc(tmp_path, {"a": [(CLASSES[0], int(index == 0), box) for index, box in enumerate(boxes)]})
    listing = "ImageSets/Main/train.txt"
    theirs = DATASETS.build(
        {
            "type": "XMLDataset",
            "data_root": str(tmp_path),
            "ann_file": listing,
            "data_prefix": {"sub_data_root": ""},
            "metainfo": {"classes": CLASSES},
            "filter_cfg": {"bbox_min_size": 6},
            "pipeline": [],
        }
    )
    data = Data(
        source="voc", root=str(tmp_path), splits={"train": Files(annotation_file=listing, source="voc", min_box_side=6)}
    )
    ours = open_source(data, FIELDS, "train", CLASSES, training=True).examples[0].objects
    assert ours.ignored.tolist() == [bool(entry["ignore_flag"]) for entry in theirs[0]["instances"]]
    assert ours.ignored.tolist() == [True, True, False, True]
