"""Edited models beside torchvision's, edited in the usual way: logits, names, and the weights of before."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import BatchNorm1d, BatchNorm2d, Conv2d, Dropout, Identity, Linear, ReLU, Sequential

import jaxft
from converters.verify import precision, widened
from converters.verify_reference import perturb
from jaxft import edits, surgery
from jaxft.models.edited import edited
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK
from tests.models.classifiers import shallow, shallow_torch

SIZE = 32


class Case(NamedTuple):
    """Edits of a net of `shallow`, and the same of PyTorch's."""

    net: str
    edits: tuple[edits.Edit, ...]
    theirs: Callable[[Any], object]


def everything(m: Any) -> None:
    m.maxpool, m.layer1[0].relu = Identity(), torch.nn.SiLU()
    m.layer4[0].conv2 = Conv2d(512, 512, 3, padding=2, dilation=2)
    m.layer1 = Sequential(BatchNorm2d(64), m.layer1)
    m.fc = Sequential(Dropout(0.2), Linear(512, 16), BatchNorm1d(16), ReLU(), Linear(16, shallow.CLASSES))


def cut_short(m: Any) -> None:
    m.layer3 = m.layer4 = m.avgpool = Identity()
    m.fc = Linear(128 * 4 * 4, shallow.CLASSES)  # of an unpooled map, so that the order of its axes tells


def renumbered(m: Any) -> None:
    del m.features[1]
    m.features.insert(4, BatchNorm2d(16))
    m.classifier = Sequential(*m.classifier[:2], *m.classifier[3:])


def cut_blocks(m: Any) -> None:
    m.features = m.features[:4]
    m.classifier[1] = Linear(24, shallow.CLASSES)
    m.features[2][0].block.insert(1, Dropout(0.1))


def tokens(m: Any) -> None:
    m.encoder.layers = m.encoder.layers[1:]
    m.heads = Sequential(Linear(16, 8), torch.nn.GELU(), Linear(8, shallow.CLASSES))


CASES = {
    "replaced and inserted": Case(
        "basic",
        (
            edits.Replace(path="maxpool", layer=edits.Identity()),
            edits.Replace(path="layer1[0].relu", layer=edits.Activation(type="SiLU")),
            edits.Replace(
                path="layer4[0].conv2", layer=edits.Conv2d(out_channels=512, kernel_size=3, padding=2, dilation=2)
            ),
            edits.Insert(before="layer1", layer=edits.BatchNorm()),
            edits.Replace(
                path="fc",
                layer=(
                    edits.Dropout(p=0.2),
                    edits.Linear(out_features=16),
                    edits.BatchNorm(type="BatchNorm1d"),
                    edits.Activation(),
                    edits.Linear(),
                ),
            ),
        ),
        everything,
    ),
    "cut and not pooled": Case(
        "basic", (edits.Cut(after="layer2"), edits.Replace(path="avgpool", layer=edits.Identity())), cut_short
    ),
    "renumbered": Case(
        "vgg_bn",
        (
            edits.Delete(path="features.1"),
            edits.Insert(after="features.4", layer=edits.BatchNorm()),
            edits.Delete(path="classifier[2:3]"),
        ),
        renumbered,
    ),
    "cut blocks": Case(
        "efficientnet",
        (
            edits.Cut(after="features[3]"),
            edits.Insert(before="features[2][0].block.1", layer=edits.Dropout(p=0.1)),
        ),
        cut_blocks,
    ),
    "tokens": Case(
        "vit",
        (
            edits.Delete(path="encoder.layers[:1]"),
            edits.Replace(
                path="heads", layer=(edits.Linear(out_features=8), edits.Activation(type="GELU"), edits.Linear())
            ),
        ),
        tokens,
    ),
}


def abstract(net: str) -> nnx.Module:
    return nnx.eval_shape(lambda: shallow.NETS[net].build(shallow.CLASSES))


def arrays_of(theirs: Any) -> dict[str, np.ndarray]:
    return {key: tensor.numpy().copy() for key, tensor in theirs.state_dict().items()}


@pytest.mark.parametrize("name", CASES)
def test_an_edited_model_is_pytorchs(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    theirs: Any = shallow_torch.NETS[case.net]()
    with torch.no_grad():
        perturb(theirs, 0)
    before = arrays_of(theirs)
    case.theirs(theirs)
    with torch.no_grad():
        perturb(theirs, 1)
    theirs.load_state_dict({**theirs.state_dict(), **_kept(before, abstract(case.net), case)}, strict=True)
    theirs.double().eval()
    images = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3))
    with torch.no_grad():
        logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    with precision("float64"):
        ours = abstract(case.net)
        record = surgery.edit(ours, case.edits, image_size=SIZE)
        # The weights of before find their places; only what is new does not come from there.
        ledger = jaxft.load_pretrained(ours, before, original=True)
        assert {row.path for row in ledger.having("new")} == set(record.new)
        assert {row.key for row in ledger.having("deleted")} == set(record.deleted)
        assert len(ledger.having("mapped")) == len(before) - len(record.deleted)
        after = arrays_of(theirs)
        mapped = {row.path for row in ledger.having("mapped")}
        old = {path: np.asarray(value) for path, value in values(ours).items() if path in mapped}
        # And an edited checkpoint, by the names that PyTorch has now.
        ledger = jaxft.load_pretrained(ours, after)
        assert len(ledger.having("mapped")) == len(after)
        assert all(np.array_equal(values(ours)[path], value) for path, value in old.items())
        ours = widened(ours, "float64")
        ours.eval()
        forward = jax.jit(lambda arrays, x: filled(ours, arrays)(x), compiler_options=QUICK)
        np.testing.assert_allclose(forward(values(ours), jnp.asarray(images)), logits, rtol=1e-9, atol=1e-9)
    exported = {key: torch.from_numpy(array) for key, array in jaxft.to_torch(ours).items()}
    theirs.load_state_dict(exported, strict=True)


def _kept(before: dict[str, np.ndarray], ours: nnx.Module, case: Case) -> dict[str, torch.Tensor]:
    """The tensors of before by the names that they have after the edits."""
    record = surgery.edit(ours, case.edits, image_size=SIZE)
    now = {was: key for key, was in record.moved}
    return {now.get(key, key): torch.from_numpy(array) for key, array in before.items() if key not in record.deleted}


def test_a_live_model_keeps_its_values_and_says_what_moved() -> None:
    model = shallow.NETS["vgg_bn"].build(shallow.CLASSES)
    before = {path: np.asarray(value) for path, value in values(model).items()}
    record = surgery.delete(model, "features[1]", image_size=SIZE)
    assert record.lines == ("features.1 is deleted", "features.2 to features.7 are features.1 to features.6 now")
    record = surgery.insert(model, edits.Linear(out_features=32), after="classifier.1", image_size=SIZE)
    assert record.lines[2:] == (
        "Linear(32, 32) comes after classifier.1",
        "classifier.2 to classifier.6 are classifier.3 to classifier.7 now",
    )
    assert set(record.new) == {"classifier.2.bias", "classifier.2.kernel"}
    moved = dict(record.moved)
    assert moved["features.3.weight"] == "features.4.weight"
    assert moved["classifier.4.weight"] == "classifier.3.weight"
    now = values(model)
    np.testing.assert_array_equal(now["features.3.kernel"], before["features.4.kernel"])
    np.testing.assert_array_equal(now["classifier.7.kernel"], before["classifier.6.kernel"])
    assert not hasattr(model.features_[0], "surgery_tap")


def test_a_module_of_ones_own_comes_as_it_is() -> None:
    model = shallow.NETS["vgg_bn"].build(shallow.CLASSES)
    head = nnx.Sequential(nnx.Linear(16 * 7 * 7, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
    surgery.replace(model, "classifier", [edits.Flatten(), edits.Linear(out_features=16 * 7 * 7)], image_size=SIZE)
    record = surgery.replace(model, "classifier[1]", head, image_size=SIZE)
    assert model.classifier[1] is head
    assert record.own == ("Sequential",)
    assert {"classifier.1.0.weight", "classifier.1.2.bias"} <= jaxft.to_torch(model).keys()


def test_parts_of_others() -> None:
    one, other, third = (shallow.NETS["vgg_bn"].build(shallow.CLASSES) for _ in range(3))
    surgery.replace(other, "features[4]", edits.Conv2d(out_channels=16, kernel_size=1, bias=False), image_size=SIZE)
    mixed = surgery.assemble(one, {"features": other, "classifier.3": (third, "classifier.3")}, image_size=SIZE)
    sources = {"features.0.kernel": other, "features.4.kernel": other, "classifier.3.bias": third}
    for path, source in (sources | {"classifier.0.kernel": one}).items():
        np.testing.assert_array_equal(values(mixed)[path], values(source)[path])
    assert edited(one) is None
    assert jaxft.to_torch(one).keys() - jaxft.to_torch(mixed).keys() == {"features.4.bias"}
    block: Any = surgery.extract(other, "features[:2]")
    block[0].kernel.set_value(jnp.zeros_like(block[0].kernel[...]))
    assert values(other)["features.0.kernel"].any()
    stem: Any = surgery.extract(abstract("basic"), "..maxpool")
    assert [type(layer).__name__ for layer in stem] == ["Conv", "BatchNorm", type(nnx.relu).__name__, "MaxPool"]
