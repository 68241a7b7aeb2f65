"""The detection files in configs/ run, shrunk: thin networks from weights of their own, on a few small photos."""

import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import to_torch
from converters.files import write
from converters.mmdet import create_model
from jaxft import save, train
from jaxft.config import Config, Detection, load, replace, to_json
from jaxft.dry_run import print_plan
from jaxft.models import abstract_model
from jaxft.models.paths import filled, values
from jaxft.reporting.console import make_console
from jaxft.tasks.detection.bounds import needed_pad_shapes
from jaxft.tasks.detection.data import open_source
from jaxft.tasks.detection.dataset import training_dataset
from jaxft.training.setup import set_up
from tests.converters.mmdet.test_kinds import shrunk as smaller
from tests.scenes import write_coco
from tests.small import ROOT, call, lines

SIDE = 64
DETECTION = ("*rcnn*.py", "gfl*.py", "retinanet*.py")
THIN: dict[str, Any] = {
    "backbone": {"depth": 18, "base_channels": 8},
    "neck": {"in_channels": [8, 16, 32, 64], "out_channels": 8, "num_outs": 5},
}
TWO_STAGES: dict[str, Any] = {
    "rpn_head": {"in_channels": 8, "feat_channels": 8},
    "roi_head": {
        "bbox_roi_extractor": {"out_channels": 8},
        "bbox_head": {"in_channels": 8, "fc_out_channels": 16},
    },
    "train_cfg": {
        "rpn": {"sampler": {"num": 16}},
        "rpn_proposal": {"max_per_img": 20},
        "rcnn": {"sampler": {"num": 16}},
    },
    "test_cfg": {"rpn": {"max_per_img": 20}, "rcnn": {"max_per_img": 10}},
}
MASKS: dict[str, Any] = {
    "roi_head": {
        "mask_roi_extractor": {"out_channels": 8},
        "mask_head": {"in_channels": 8, "conv_out_channels": 8, "num_convs": 1},
    }
}
ONE_STAGE: dict[str, Any] = {
    "bbox_head": {"in_channels": 8, "feat_channels": 32, "stacked_convs": 1},  # groups of its norms are 32
    "test_cfg": {"max_per_img": 10},
}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`one` with the entries of `other`, group by group."""
    both = {
        name: merged(one[name], value) if isinstance(value, dict) and isinstance(one.get(name), dict) else value
        for name, value in other.items()
    }
    return one | both


def shrunk(name: str, root: Path, **changes: Any) -> Config:
    """A configuration on the photos of `write_coco`, for one epoch of small batches."""
    common = {
        "data.root": str(root),
        "data.train": "train",
        "data.validation": "test",
        "data.annotation_file": "annotations/instances_{split}.json",
        "data.image_folder": "photos",
        "data.classes": (),
        "data.batch_size": 2,
        "task.scales": ((SIDE, SIDE),),
        "task.test_scale": (SIDE, SIDE),
        "task.min_side": 0,
        "phases.0.epochs": 1,
        "phases.0.schedule.warmup": 0.0,
        "log_every": 1,
    }
    config = load(ROOT / "configs" / f"{name}.py")
    if listed := config.task.transforms:  # in the place of scales
        common |= {"task.scales": Detection().scales, "task.transforms": tuple(map(smaller, listed))}
    return replace(config, common | changes)


FASTER = ("faster_rcnn_r50_fpn_coco_to_custom", "faster_rcnn_r50_fpn_lsj_ema")
CONFIG = """
from pathlib import Path

from jaxft.config import from_json

config = from_json(Path({file!r}).read_text(), Path("config.json"))
"""


def start(settings: Config, run: Path) -> list[dict[str, Any]]:
    """Runs a configuration that is no file, by one that reads it."""
    folder = run.with_name(f"{run.name}_config")
    folder.mkdir()
    (folder / "config.json").write_text(to_json(settings))
    (folder / "config.py").write_text(CONFIG.format(file=str(folder / "config.json")))
    result = call(train.main, "--config", folder / "config.py", "--workdir", run)
    assert result.code == 0, result
    entries = lines(run)
    assert {path.name for path in (run / "checkpoints" / "best").iterdir()} == {str(entries[-1]["step"])}
    assert {path.name for path in (run / "pictures").iterdir()} == {
        "inputs.png",
        "learning_curves.png",
        "predictions.png",
    }
    assert all(np.isfinite(entry.get("loss", 0)) for entry in entries)
    assert "bbox_mAP" in entries[-1]
    return entries


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_coco(root, (2, 0, 3, 1), "train")
    write_coco(root, (2, 1), "test", seed=1)
    return root


def abstract(model: dict[str, Any], **options: Any) -> nnx.Module:
    """The detector of a `model` dictionary."""
    return nnx.eval_shape(lambda: create_model(model, **options, rngs=nnx.Rngs(0)))


def drawn_quickly(model: nnx.Module) -> nnx.Module:
    """An abstract model with first values that need no compilation: normal kernels, and 1."""
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> jax.Array:
        array = np.ones(leaf.shape) if leaf.ndim < 2 else rng.normal(0, math.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return jnp.asarray(array, leaf.dtype)

    return filled(model, {path: drawn(leaf) for path, leaf in values(model).items()})


def weights_of(model: dict[str, Any], file: Path) -> Path:
    """A checkpoint of the same detector for COCO's 80 classes, not trained."""
    write(to_torch(drawn_quickly(abstract(model, num_classes=80))), file)
    return file


@pytest.mark.parametrize(
    ("name", "thin", "terms"),
    [
        *(
            pytest.param(
                *(name, TWO_STAGES, {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"}),
                marks=pytest.mark.slow,  # the detector is that of the last, which finds masks, too
            )
            for name in FASTER
        ),
        ("mask_rcnn_r50_fpn_cityscapes", merged(TWO_STAGES, MASKS), {"loss_rpn_cls", "loss_cls", "loss_mask"}),
    ],
)
def test_a_detector_goes_from_cocos_classes_to_others(
    name: str, thin: dict[str, Any], terms: set[str], scenes: Path, tmp_path: Path
) -> None:
    original = load(ROOT / "configs" / f"{name}.py").model.mmdet
    assert original is not None
    model = merged(merged(original, THIN), thin)
    source = weights_of(model, tmp_path / "coco.pth")
    changes = {"model.mmdet": model, "pretrained.source": str(source)}
    entries = start(shrunk(name, scenes, **changes), tmp_path / "run")
    assert terms <= entries[0].keys()
    assert entries[0]["compilations"] == 1
    if "loss_mask" in terms:
        assert "segm_mAP" in entries[-1] or entries[-1]["bbox_mAP"] == 0


def test_gfl_starts_from_a_classifiers_weights(scenes: Path, tmp_path: Path) -> None:
    original = load(ROOT / "configs" / "gfl_r50_fpn.py").model.mmdet
    assert original is not None
    model = merged(merged(original, THIN), ONE_STAGE)
    whole = to_torch(drawn_quickly(abstract(model)))
    backbone = {key.removeprefix("backbone."): value for key, value in whole.items() if key.startswith("backbone.")}
    write(backbone | {"fc.weight": np.zeros((10, 64), np.float32)}, tmp_path / "resnet.pth")
    changes = {"model.mmdet": model, "pretrained.source": str(tmp_path / "resnet.pth")}
    entries = start(shrunk("gfl_r50_fpn", scenes, **changes), tmp_path / "run")
    assert {"loss_cls", "loss_bbox", "loss_dfl"} <= entries[0].keys()


@pytest.mark.parametrize(
    "name", ["retinanet_lite0_bccd", pytest.param("retinanet_lite0_bccd_scratch", marks=pytest.mark.slow)]
)
def test_retinanet_lite_runs(name: str, scenes: Path, tmp_path: Path) -> None:
    """The first on its real weights."""
    settings = shrunk(name, scenes, **{"model.options": {"channels": 8, "stacked_convs": 1}})
    entries = start(settings, tmp_path / "run")
    assert {"loss_cls", "loss_bbox"} <= entries[0].keys()


def test_retinanet_lite_from_scratch_makes_a_plan(scenes: Path, tmp_path: Path) -> None:
    print_plan(shrunk("retinanet_lite0_bccd_scratch", scenes), make_console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_gfl_lite_is_laid_out_beside_an_old_detector(scenes: Path, tmp_path: Path) -> None:
    """The second of two stages, with an export of one class in the place of the first one's run."""
    thin = {"channels": 8, "stacked_convs": 1, "reg_max": 4}
    teacher = tmp_path / "discs.safetensors"
    save(drawn_quickly(abstract_model("gfl_efficientnet_lite0_fpn", 1, **thin)), teacher, classes=["disc"])
    grown = {"task.incremental.teacher": str(teacher), "task.incremental.old_classes": 1, "model.options": thin}
    setup = set_up(shrunk("gfl_lite0_bccd_platelets", scenes, **grown))
    assert re.search(r"\d objects of the old classes disc in \d+ photos are dropped", setup.train.report(2))
    assert f"distillation from {teacher}" in setup.distilled[0]


@pytest.mark.parametrize("name", FASTER)
def test_faster_rcnn_makes_a_plan(name: str, scenes: Path, tmp_path: Path) -> None:
    """Its weights, data, steps and rules fit its network; what of it is not in another file is run here."""
    original = load(ROOT / "configs" / f"{name}.py")
    model = merged(merged(original.model.mmdet or {}, THIN), TWO_STAGES)
    source = weights_of(model, tmp_path / "coco.pth")
    settings = shrunk(name, scenes, **{"model.mmdet": model, "pretrained.source": str(source)})
    print_plan(settings, make_console(quiet=True))
    if name.endswith("lsj_ema"):
        assert needed_pad_shapes(original.task.transforms, original.task.divisor) == ((1024, 1024),)
    examples = training_dataset(open_source(settings.data, settings.task, "train", ()), settings.task)
    found = [examples.training(index, np.random.default_rng(index)) for index in range(len(examples))]
    assert {row["image"].shape for row in found} == {(SIDE, SIDE, 3)}


def test_no_detection_configuration_is_left_out() -> None:
    files = {path.stem for pattern in DETECTION for path in (ROOT / "configs").glob(pattern)}
    assert files == {
        "faster_rcnn_r50_fpn_coco_to_custom",
        "faster_rcnn_r50_fpn_lsj_ema",
        "gfl_lite0_bccd",
        "gfl_lite0_bccd_cells",
        "gfl_lite0_bccd_platelets",
        "gfl_r50_fpn",
        "mask_rcnn_r50_fpn_cityscapes",
        "retinanet_lite0_bccd",
        "retinanet_lite0_bccd_scratch",
    }
