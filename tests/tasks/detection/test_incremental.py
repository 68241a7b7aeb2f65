"""A detector that learns new classes beside those that it knows."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from jaxft import save
from jaxft.config import Config, FeaturePair, load, replace
from jaxft.errors import UserError
from jaxft.models import BUILDERS, create_model
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.detector import SingleStage
from jaxft.models.detectors.types import AnchorGenerator, Norm
from jaxft.models.paths import values
from jaxft.planning.program import known_classes
from jaxft.training.setup import set_up
from jaxft.training.step import Compiled
from tests.models.detectors.narrow import WIDTH, Backbone, pyramid
from tests.scenes import write_config

pytest_plugins = ("tests.detector_runs",)


def narrow_gfl(num_classes: int = 2, *, reg_max: int = 4, rngs: nnx.Rngs) -> SingleStage:
    head = GFLHead(
        num_classes,
        WIDTH,
        feat_channels=WIDTH,
        stacked_convs=1,
        reg_max=reg_max,
        norm_cfg=Norm("GN", num_groups=2),
        anchor_generator=AnchorGenerator((4, 8, 16), (1.0,), octave_base_scale=4, scales_per_octave=1),
        rngs=rngs,
    )
    return SingleStage(Backbone(rngs=rngs), pyramid(rngs), head)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILDERS, "narrow_gfl", narrow_gfl)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """An export of a detector of discs."""
    file = tmp_path / "discs.safetensors"
    save(create_model("narrow_gfl", 1, rngs=nnx.Rngs(5)), file, classes=("disc",))
    return file


@pytest.fixture
def config(scenes: Path, teacher: Path, tmp_path: Path) -> Config:
    base = load(write_config(tmp_path / "grown.py", scenes, model="narrow_gfl"))
    fields = {"task.incremental.teacher": str(teacher), "task.incremental.old_classes": 1}
    return replace(
        base, {**fields, "task.scales": ((64, 48),), "task.pad_shapes": ((64, 64),), "data.validation": None}
    )


def test_a_grown_detector_starts_with_the_old_rows_and_keeps_its_teacher_out_of_its_state(
    config: Config, teacher: Path
) -> None:
    """Over photos with none to five objects, and other weights, the step is compiled once a shape of photos."""
    setup = set_up(config).with_teacher()
    assert "13 objects of the old classes disc in 9 photos are dropped" in setup.train.report(4)
    stage, ledger = setup.stages[0], setup.load_weights()
    state = setup.first_state(stage, ledger)
    old = {path: np.asarray(array) for path, array in values(create_model("narrow_gfl", 1, rngs=nnx.Rngs(5))).items()}
    assert state.params.keys() == {path for path in old if path in state.params}
    for path, array in state.params.items():
        kept = np.asarray(array)[..., :1] if "gfl_cls" in path else np.asarray(array)
        np.testing.assert_array_equal(kept, old[path], err_msg=path)
    step = Compiled(setup.training_step(stage), updates_state=True, budget=setup.shapes)
    assert setup.teaching is not None
    with setup.batches() as batches:
        for number in range(4):
            inputs = setup.inputs(stage, number)
            numbers = setup.teaching.numbers | {"weight": 1.0 + number}
            inputs = dataclasses.replace(inputs, teaching=setup.teaching._replace(numbers=numbers))
            batch = next(batches)
            assert set(batch["label"][batch["valid"]]) <= {1}
            state, found = step(state, setup.layout.batch(batch), inputs)
            kept = found["loss_dist_cls"] + found["loss_dist_bbox"]
            np.testing.assert_allclose(found["response_loss"], kept, rtol=1e-5)
            np.testing.assert_allclose(found["loss"], found["task_loss"] + (1 + number) * kept, rtol=1e-5)
    assert step.compilations == setup.shapes
    assert float(found["response_loss"]) > 0
    assert bool(state.all_finite)


def test_without_a_weight_there_is_no_teacher(config: Config) -> None:
    setup = set_up(replace(config, {"task.incremental.weight": 0.0}))
    assert setup.teacher is None
    assert setup.config.pretrained.known_classes == 1
    batch = {name: np.stack([array]) for name, array in setup.train.training(3, np.random.default_rng(0)).items()}
    model = create_model("narrow_gfl", 2)
    terms = nnx.eval_shape(setup.task.loss, model, batch)[1]
    assert terms.keys() == {"loss", "loss_cls", "loss_bbox", "loss_dfl"}


def test_old_and_new_classes_are_judged_apart(config: Config) -> None:
    setup = set_up(replace(config, {"data.validation": "test"}))
    assert setup.validation is not None
    found = setup.task.evaluator(setup.validation).result()
    assert {"bbox_mAP", "old/bbox_mAP", "new/bbox_mAP_50", "old/bbox_mAP_75"} <= found.keys()
    assert found.keys() <= set(setup.task.metric_names(setup.classes))
    voc = setup.task.metric_names(setup.classes)
    assert "new/bbox_AP50" in voc


REFUSED = {
    r"old_classes is 2, but the data have the 2 classes disc, square": {"task.incremental.old_classes": 2},
    r"knows the classes disc \(1\), but the data start with square \(1\)": {"data.classes": ("square", "disc")},
    r"has 13 objects of the old classes disc in 9 photos, which task.incremental.old_objects refuses": {
        "task.incremental.old_objects": "refuse"
    },
    r"want .* take a teacher of the same architecture with 1 classes": {"model.options": {"reg_max": 3}},
    r"the SingleStage has none; take a GFL": {"model.name": "retinanet_efficientnet_lite0_fpn"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_grow_is_refused(message: str, config: Config) -> None:
    with pytest.raises(UserError, match=message):
        set_up(replace(config, REFUSED[message]))


def test_half_of_the_setting_is_refused(config: Config) -> None:
    with pytest.raises(UserError, match="give both, or leave both out"):
        replace(config, {"task.incremental.old_classes": 0})


def test_detectors_of_one_kind_teach_their_classes(config: Config, teacher: Path) -> None:
    """The generic teacher: class maps of all places in the photos, and a layer."""
    changes = {
        "task.incremental": type(config.task.incremental)(),
        "data.classes": ("disc",),
        "distillation.teacher": str(teacher),
        "distillation.features": (FeaturePair(student="neck.fpn_convs.0"),),
    }
    setup = set_up(replace(config, changes))
    assert setup.teacher is not None
    (pair,) = setup.teacher.pairs
    assert pair[0] == pair[1]


def test_a_range_of_classes_is_that_of_the_file(config: Config) -> None:
    fields = type(config.task.incremental)()

    def classes(*names: str) -> tuple[str, ...]:
        changed = replace(config, {"task.incremental": fields, "data.classes": names, "data.validation": "test"})
        task = changed.task.task()
        train, validation = task.datasets(changed.data, 0)
        assert validation is not None
        assert train.classes == validation.classes
        assert known_classes(changed) in (None, len(train.classes))
        return train.classes

    assert classes("0:1") == ("disc",)
    assert classes("1:", ":1") == ("square", "disc")
    assert classes("0:2") == ("disc", "square")
    for names, message in {
        ("1:3",): r"the range 1:3, but .*instances_train.json has 2 categories",
        ("1:1",): "the range 1:1",
        ("disc", "0:1"): "data.classes means disc twice",
    }.items():
        with pytest.raises(UserError, match=message):
            classes(*names)


def test_a_file_of_new_objects_alone_need_not_name_old_classes(config: Config, scenes: Path, tmp_path: Path) -> None:
    """As those of ERD's second stage: the validation split says what the classes are."""
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "photos").symlink_to(scenes / "photos")
    shutil.copy(scenes / "annotations" / "instances_test.json", root / "annotations")
    content = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    content["categories"] = [category for category in content["categories"] if category["name"] == "square"]
    new = content["categories"][0]["id"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == new]
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    whole = replace(config, {"data.root": str(root), "data.validation": "test"})
    train, validation = whole.task.task().datasets(whole.data, 0)
    assert validation is not None
    assert train.classes == validation.classes == ("disc", "square")
    labels = [label for index in range(len(train)) for label in train.source[index].objects.labels]
    assert set(labels) == {1}
    assert "are dropped" not in train.report(4)
