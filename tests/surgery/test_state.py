"""What edits do to the state of a model: its mode, first values, class layers, and what checkpoints fill."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jaxft
from converters.ledger import MismatchError
from jaxft import edits, surgery
from jaxft.config import Config
from jaxft.errors import UserError
from jaxft.models import abstract_model, head_of
from jaxft.models.edited import edited
from jaxft.models.layers import BatchNorm, Conv, FrozenBatchNorm, Linear, Sequential
from jaxft.models.paths import modules, values
from jaxft.surgery.layers import sized
from jaxft.training.model import ModelSource
from tests.converters.tiny import random_state
from tests.models.classifiers import shallow
from tests.surgery.test_refused import nothing_recognized

SIZE = 32
STATUSES = "skipped", "deleted"


def modes(model: Any) -> set[bool]:
    found = [vars(layer) for _, layer in modules(model)]
    return {own[name] for own in found for name in ("deterministic", "use_running_average") if name in own}


def test_a_head_that_no_edit_has_left_is_refused_and_not_passed_over() -> None:
    model = abstract_model("squeezenet1_1", 5)
    surgery.replace(model, "classifier[1]", edits.Conv2d(out_channels=5, kernel_size=1), image_size=SIZE)
    for ask in (lambda: head_of(model), ModelSource(Config(), model).head):
        with pytest.raises(UserError, match=r"@head stands for .*, but the edits of this SqueezeNet leave none; let"):
            ask()
    surgery.cut(model, "features[5]", image_size=SIZE)  # which asks for it, but can do without


class Row(nnx.Module):
    """Layers in a list, with BatchNorms of a kind."""

    def __init__(self, norm: Any, *, rngs: nnx.Rngs) -> None:
        self.body = Sequential([layer for _ in range(3) for layer in (Conv(3, 3, 1, rngs=rngs), norm(3))])
        self.fc = Linear(3, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc(self.body(x).mean((1, 2)))


@cache
def counted() -> dict[str, np.ndarray]:
    return random_state(Row(BatchNorm, rngs=nnx.Rngs(0)))


def test_new_layers_come_in_the_mode_of_the_model() -> None:
    model: Any = Row(BatchNorm, rngs=nnx.Rngs(0))
    surgery.insert(model, [edits.Dropout(), edits.BatchNorm()], before="body[0]", image_size=4)
    assert modes(model) == {False}
    model.eval()
    surgery.insert(model, edits.Dropout(p=0.5), before="fc", image_size=4)
    surgery.insert(model, edits.BatchNorm(), after="body[2]", image_size=4)
    assert model.fc[0].deterministic
    assert modes(model) == {True}


def test_counters_go_with_the_frozen_batch_norms_that_have_none() -> None:
    assert "body.5.num_batches_tracked" in counted()
    model = Row(FrozenBatchNorm, rngs=nnx.Rngs(0))
    surgery.delete(model, "body[2:4]", image_size=4)
    ledger = jaxft.load_pretrained(model, counted(), original=True)
    counters = {status: {row.key for row in ledger.having(status) if "num" in row.key} for status in STATUSES}
    assert counters["skipped"] == {"body.1.num_batches_tracked", "body.3.num_batches_tracked"}
    assert counters["deleted"] == {"body.3.num_batches_tracked"}
    np.testing.assert_array_equal(model.body[3].mean[...], counted()["body.5.running_mean"])


def test_each_call_draws_numbers_of_its_own() -> None:
    model = Row(BatchNorm, rngs=nnx.Rngs(0))
    for index in (0, 2):
        surgery.replace(model, f"body[{index}]", edits.Conv2d(out_channels=3, kernel_size=1), image_size=4)
    first, second = (np.asarray(model.body[index].kernel[...]) for index in (0, 2))
    assert first.std() > 0
    assert not np.array_equal(first, second)
    again, record = Row(BatchNorm, rngs=nnx.Rngs(0)), edited(model)
    assert record is not None
    record.again(again, 2)
    np.testing.assert_array_equal(again.body[2].kernel[...], second)


def test_a_convolution_that_puts_out_the_classes_is_the_head_after_a_cut() -> None:
    model = abstract_model("squeezenet1_1", 5)
    record = surgery.cut(model, "features[5]", image_size=SIZE)
    assert head_of(model) == ("classifier.1",)
    assert "classifier.1 is Conv2d(128, 1, classes) now" in record.lines
    assert values(model)["classifier.1.kernel"].shape == (1, 1, 128, 5)
    with pytest.raises(UserError, match=r"Conv2d has no out_channels, and the number of classes is not known; give"):
        sized(edits.Conv2d(kernel_size=1), (1, 4, 4, 3), None, flat=False)


HEADS: dict[str, tuple[list[edits.Edit], int]] = {
    "alexnet": ([edits.Delete(path="classifier[0]")], 32),
    "vgg_bn": ([edits.Delete(path="classifier[1:3]")], 32),
    "maxvit": ([edits.Delete(path="classifier[4]")], 32),
    "mobilenet_v3": (
        [
            edits.Insert(after="classifier[1]", layer=edits.Linear(out_features=7)),
            edits.Replace(path="classifier[3]", layer=edits.Linear()),
        ],
        7,
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_features_are_what_the_end_of_an_edited_head_takes(name: str) -> None:
    model: Any = nnx.eval_shape(lambda: shallow.NETS[name].build(shallow.CLASSES))
    wanted, channels = HEADS[name]
    size = 64 if name == "alexnet" else SIZE
    surgery.edit(model, wanted, image_size=size)
    images = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    assert nnx.eval_shape(lambda model, x: model.features(x), model, images).shape == (1, channels)


def test_what_was_read_as_of_before_the_edits_is_not_told_to_be_read_so() -> None:
    model = Row(BatchNorm, rngs=nnx.Rngs(0))
    surgery.delete(model, "body[2:4]", image_size=4)
    state = counted() | {"fc.weight": np.zeros((7, 3), np.float32)}
    for original, hinted in ((True, False), (False, True)):
        with nothing_recognized(), pytest.raises(MismatchError) as raised:
            jaxft.load_pretrained(model, state, original=original)
        assert ("original=True" in raised.value.claim) == hinted


def test_items_that_do_not_follow_one_another_are_told_one_by_one() -> None:
    for path, line in {
        "body[0:5:2]": "body.0, body.2 and body.4 are deleted",
        "body[1:4]": "body.1 to body.3 are deleted",
        "body[3]": "body.3 is deleted",
    }.items():
        assert surgery.delete(Row(BatchNorm, rngs=nnx.Rngs(0)), path, image_size=4).lines[0] == line
