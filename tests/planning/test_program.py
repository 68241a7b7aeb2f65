"""A step compiled without data for devices, and what it takes on each."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxft.config import Classification, Config, Data, Images, Model, Optimizer, Phase, Rule
from jaxft.errors import UserError
from jaxft.planning.chips import CHIPS, Topology, parse
from jaxft.planning.program import abstract_devices, compiled_for, set_up_for
from jaxft.tasks.detection import Detection
from jaxft.tasks.multilabel import Multilabel
from jaxft.tasks.regression import Regression
from jaxft.training.setup import set_up
from tests import small  # noqa: F401  # the small network
from tests.scenes import write_coco

pytest_plugins = ("tests.runs",)

HERE = Topology(replace(CHIPS["v5e"], name="here", memory=1e9), "2")
IMAGES = Images(crop=32, resize=36)
CONFIG = Config(
    model=Model(name="small"),
    task=Classification(images=IMAGES),
    data=Data(batch_size=8),
    optimizer=Optimizer(momentum=0.9),
    phases=(Phase(rules=(Rule(pattern="conv1", frozen=True), Rule(pattern="*"))),),
)


def test_a_step_for_two_devices() -> None:
    setup, remark = set_up_for(CONFIG, jax.devices(), batch_per_device=None, classes=3)
    assert remark == ""
    (one,) = compiled_for(setup, setup.stages[0], HERE)
    parameters = sum(leaf.size * 4 for leaf in jax.tree.leaves(setup.abstract_state(setup.stages[0]).params))
    trained = 4 * setup.trained_numbers(setup.stages[0])
    assert one.state["parameters"] == parameters
    assert one.state["optimizer state"] == trained < parameters
    assert one.inputs == 4 * (32 * 32 * 3 + 4)
    assert one.temporaries > 4 * 16 * 16 * 8 * 4  # what the first convolution gives of four images
    assert one.flops > 2 * 4 * 16 * 16 * 8 * 27
    statistics = one.state["statistics"]
    # One reduction of the trained gradients and of what BatchNorm needs; what is frozen sends nothing.
    assert {way.kind for way in one.travels} == {"all-reduce"}
    travelled = sum(way.bytes for way in one.travels)
    assert trained <= travelled <= 1.1 * (trained + 2 * statistics) + 64
    assert all(way.devices == 2 for way in one.travels)
    assert one.fits
    assert one.computing == max(one.flops / (197e12 / 6), one.bytes / 819e9)
    assert one.travelling == pytest.approx(travelled / 200e9)  # of two, each sends half of it twice
    assert one.images_per_second == pytest.approx(8 / (one.computing + one.travelling))
    left = 1e9 - sum(one.state.values()) - one.code
    assert one.largest_batch == int(left / ((one.inputs + one.temporaries) / 4)) * 2
    small_chip = replace(one, topology=Topology(replace(HERE.chip, memory=1e3), "2"))
    assert (small_chip.fits, small_chip.largest_batch) == (False, 0)
    more = one.elsewhere(parse("v6e:4x4"))
    assert (more.batch, more.topology.count) == (8 * 8, 16)
    assert {way.devices for way in more.travels} == {16}
    assert more.travelling == pytest.approx(2 * travelled * 15 / 16 / 400e9)


def test_what_is_not_said_is_assumed_and_said() -> None:
    setup, remark = set_up_for(CONFIG, jax.devices(), batch_per_device=3, classes=None)
    assert remark == "1000 classes are assumed; --classes says otherwise."
    assert setup.config.data.batch_size == 6
    assert len(setup.classes) == 1000
    named = replace(CONFIG, data=replace(CONFIG.data, classes=("a", "b")))
    assert set_up_for(named, jax.devices(), batch_per_device=None, classes=None)[0].classes == ("class 0", "class 1")


def shapes(example: object) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (np.shape(array), str(np.asarray(array).dtype)) for name, array in dict(example).items()}  # type: ignore[call-overload]


def test_blank_photos_have_the_shapes_of_the_data(photos: Path) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, root=str(photos)))
    real, blank = set_up(config).train, CONFIG.task.task("float32").blank(CONFIG.data, ("a", "b", "c"), 4)
    assert shapes(blank.training(0, np.random.default_rng(0))) == shapes(real.training(0, np.random.default_rng(0)))
    assert len(blank) == 4


@pytest.mark.parametrize("fields", [Multilabel(images=IMAGES), Regression(images=IMAGES)])
def test_blank_photos_with_targets(fields: Multilabel | Regression) -> None:
    blank = fields.task("float32").blank(Data(), ("a", "b"), 4)
    found = shapes(blank.training(0, np.random.default_rng(0)))
    assert found == {"image": ((32, 32, 3), "uint8"), "label": ((2,), "float32")}


@pytest.mark.parametrize("masks", [False, True])
def test_blank_photos_of_a_detector_have_its_pad_shapes(tmp_path: Path, masks: bool) -> None:
    write_coco(tmp_path, [1, 2], "train")
    fields = Detection(scales=((64, 48),), pad_shapes=((64, 96), (96, 64)), max_objects=5, masks=masks)
    task = fields.task("float32")
    data = Data(source="coco", root=str(tmp_path), image_folder="photos", validation=None)
    real = task.datasets(data, 0)[0]
    blank = task.blank(data, ("a",), 3)
    assert blank.buckets.tolist() == [0, 0, 0, 1, 1, 1]
    found = [shapes(blank.training(index, np.random.default_rng(0))) for index in (0, 3)]
    assert found[0]["image"] == ((64, 96, 3), "uint8")
    assert found[1]["image"] == ((96, 64, 3), "uint8")
    first = shapes(real.training(0, np.random.default_rng(0)))
    assert first in found


def test_what_is_no_tpu_cannot_be_compiled_for() -> None:
    with pytest.raises(UserError, match="name a TPU slice first, and h100:8 after it"):
        abstract_devices(parse("h100:8"))
