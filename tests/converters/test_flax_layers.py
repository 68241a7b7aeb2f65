"""Layers of Flax's own that a user puts into a model: PyTorch's names, shapes and axes, or a refusal by name."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

import jaxft
from converters import load_pretrained, to_torch
from converters.ledger import MismatchError
from converters.rules import leaves
from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.layers import Conv, Linear
from tests.converters.tiny import tiny

RNGS = nnx.Rngs(0)
IMAGES = (2, 6, 8, 8)  # PyTorch's order


def turned(x: torch.Tensor) -> Any:
    """`[N, C, ...]` -> `[N, ..., C]`."""
    return jnp.asarray(x.detach().numpy() if x.ndim < 3 else np.moveaxis(x.detach().numpy(), 1, -1))


def counted(layer: torch.nn.Module) -> torch.nn.Module:
    """A BatchNorm that has seen something."""
    layer(torch.randn(IMAGES) * 2 + 1)
    return layer.eval()


LAYERS: dict[str, tuple[Callable[[], nnx.Module], Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nnx.Linear(6, 3, rngs=RNGS), lambda: torch.nn.Linear(6, 3), (2, 6)),
    "Linear without bias": (
        lambda: nnx.Linear(6, 3, use_bias=False, rngs=RNGS),
        lambda: torch.nn.Linear(6, 3, bias=False),
        (2, 6),
    ),
    "Conv": (
        lambda: nnx.Conv(6, 4, (3, 2), padding="VALID", rngs=RNGS),
        lambda: torch.nn.Conv2d(6, 4, (3, 2)),
        IMAGES,
    ),
    "Conv in groups, strided and padded": (
        lambda: nnx.Conv(6, 9, (3, 3), strides=2, padding=1, feature_group_count=3, rngs=RNGS),
        lambda: torch.nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3),
        IMAGES,
    ),
    "Conv in one dimension": (
        lambda: nnx.Conv(6, 4, (3,), padding="VALID", rngs=RNGS),
        lambda: torch.nn.Conv1d(6, 4, 3),
        (2, 6, 9),
    ),
    "ConvTranspose": (
        lambda: nnx.ConvTranspose(6, 4, (3, 2), strides=(2, 2), padding="VALID", transpose_kernel=True, rngs=RNGS),
        lambda: torch.nn.ConvTranspose2d(6, 4, (3, 2), stride=2),
        IMAGES,
    ),
    "BatchNorm": (
        lambda: nnx.BatchNorm(6, use_running_average=True, rngs=RNGS),
        lambda: counted(torch.nn.BatchNorm2d(6)),
        IMAGES,
    ),
    "LayerNorm": (
        lambda: nnx.LayerNorm(6, epsilon=1e-5, rngs=RNGS),
        lambda: torch.nn.LayerNorm(6),
        (2, 6),
    ),
    "GroupNorm": (
        lambda: nnx.GroupNorm(6, num_groups=3, epsilon=1e-5, rngs=RNGS),
        lambda: torch.nn.GroupNorm(3, 6),
        IMAGES,
    ),
    "Embed": (lambda: nnx.Embed(5, 6, rngs=RNGS), lambda: torch.nn.Embedding(5, 6), (3,)),
    "Sequential": (
        lambda: nnx.Sequential(nnx.Linear(6, 8, rngs=RNGS), nnx.relu, nnx.Sequential(nnx.Linear(8, 3, rngs=RNGS))),
        lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.Linear(8, 3))),
        (2, 6),
    ),
}


def perturbed(layer: torch.nn.Module) -> torch.nn.Module:
    """PyTorch's layer with other parameters than those it begins with, which are often all ones."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_flaxs_is_pytorchs(name: str) -> None:
    torch.manual_seed(0)
    build, reference, shape = LAYERS[name]
    ours, theirs = build(), perturbed(reference())
    x = torch.tensor([0, 4, 4]) if name == "Embed" else torch.randn(shape)
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    ledger = load_pretrained(ours, state)
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert [row.key for row in ledger.having("skipped")] == counters
    np.testing.assert_allclose(ours(turned(x)), turned(theirs(x)), rtol=1e-5, atol=1e-5)
    back = to_torch(ours)
    assert back.keys() == state.keys() - set(counters)
    for key, array in back.items():
        assert (array.shape, array.dtype, array.tobytes()) == (state[key].shape, state[key].dtype, state[key].tobytes())
    again = reference()
    again.load_state_dict({key: torch.from_numpy(array) for key, array in back.items()}, strict=True)


def test_a_model_of_torchvisions_edited_alike_on_both_sides() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.bn1 = counted_of(64)
    theirs.fc = torch.nn.Sequential(
        torch.nn.Linear(512, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Linear(16, 5)
    )
    perturbed(theirs.fc)
    theirs.eval()
    ours = jaxft.create_model("resnet18")
    ours.conv1 = nnx.Conv(3, 64, (3, 3), padding=1, use_bias=False, rngs=RNGS)
    ours.bn1 = nnx.BatchNorm(64, rngs=RNGS)
    ours.fc = nnx.Sequential(
        nnx.Linear(512, 16, rngs=RNGS),
        nnx.LayerNorm(16, epsilon=1e-5, rngs=RNGS),
        lambda x: nnx.gelu(x, approximate=False),
        nnx.Linear(16, 5, rngs=RNGS),
    )
    load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    ours.eval()
    x = torch.randn(2, 3, 32, 32)
    np.testing.assert_allclose(ours(turned(x)), theirs(x).detach().numpy(), rtol=1e-4, atol=1e-4)
    assert jaxft.load_pretrained(ours, to_torch(ours), skip=("@head",)).having("new")[0].path == "fc.layers.0.kernel"
    for layer in (ours.fc.layers[0], ours.fc.layers[3]):
        layer.kernel.set_value(layer.kernel[...] * 2)
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in to_torch(ours).items()}, strict=True)
    np.testing.assert_allclose(ours(turned(x)), theirs(x).detach().numpy(), rtol=1e-4, atol=1e-4)


def counted_of(channels: int) -> torch.nn.Module:
    layer = torch.nn.BatchNorm2d(channels)
    layer(torch.randn(4, channels, 4, 4) * 2 + 1)
    return layer


def test_a_head_of_flaxs_on_a_model_by_name_is_transposed() -> None:
    model = abstract_model("efficientnet_lite0")
    model._fc = nnx.Linear(1280, 7, rngs=nnx.Rngs(0))
    (weight,) = (leaf for leaf in leaves(model) if leaf.key == "_fc.weight")
    assert weight.path == "_fc.kernel"
    assert weight.source_shape == (7, 1280)
    np.testing.assert_array_equal(
        weight.to_torch(np.asarray(model._fc.kernel[...])), np.asarray(model._fc.kernel[...]).T
    )


class Temperature(nnx.Module):
    """A layer of the user's own."""

    def __init__(self) -> None:
        self.factor = nnx.Param(jnp.ones(1))


class Named(nnx.Module):
    """One that says its names."""

    torch_leaves: ClassVar[dict[str, Any]] = {"factor": ("scale", None), "table": ("weight", (1, 0))}

    def __init__(self) -> None:
        self.factor, self.table = nnx.Param(jnp.ones(1)), nnx.Param(jnp.arange(6.0).reshape(2, 3))


class OwnLinear(nnx.Linear):
    """What inherits from a layer that is known keeps its names."""


class OwnConv(Conv):
    """The same of a layer of jaxft's."""


ATTENTION = dict(num_heads=1, in_features=2, decode=False, rngs=RNGS)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "own layer": (Temperature, r"fc\.factor belongs to a Temperature, whose PyTorch name and axes are not known"),
    "attention": (lambda: nnx.MultiHeadAttention(**ATTENTION), r"fc\.\w+\.kernel belongs to a LinearGeneral"),
    "low rank": (
        lambda: nnx.LoRALinear(6, 2, lora_rank=1, rngs=RNGS),
        r"fc\.lora\.lora_a belongs to a LoRA",
    ),
    "einsum": (lambda: nnx.Einsum("ab,bc->ac", (6, 2), rngs=RNGS), r"fc\.kernel belongs to a Einsum"),
    "a kernel turned around": (
        lambda: nnx.ConvTranspose(6, 2, (3, 3), rngs=RNGS),
        r"fc\.kernel belongs to an nnx\.ConvTranspose whose kernel is PyTorch's turned around",
    ),
    "a mask": (
        lambda: nnx.Conv(6, 2, (1, 1), mask=jnp.ones((1, 1, 6, 2)), rngs=RNGS),
        r"fc\.kernel belongs to a convolution with a mask",
    ),
    "a parameter of the model itself": (lambda: nnx.Param(jnp.ones(3)), r"fc belongs to a Tiny"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_certain_name_is_refused(name: str) -> None:
    build, message = REFUSED[name]
    model = tiny()
    model.fc = build()
    with pytest.raises(MismatchError, match=f"This Tiny cannot be written for PyTorch: .*{message}") as raised:
        to_torch(model)
    assert "\n" not in str(raised.value)
    state = to_torch(tiny())
    with pytest.raises(MismatchError, match=message):
        load_pretrained(model, state, skip=["fc.weight", "fc.bias"])
    assert load_pretrained(model, state, skip=["fc"]).having("new")


def test_a_layer_of_ones_own_can_say_its_names() -> None:
    model = tiny()
    model.fc = Named()
    state = to_torch(model)
    assert state["fc.scale"].shape == (1,)
    np.testing.assert_array_equal(state["fc.weight"], np.arange(6.0).reshape(2, 3).T)
    other = tiny()
    other.fc = Named()
    other.fc.table.set_value(jnp.zeros((2, 3)))
    load_pretrained(other, state)
    np.testing.assert_array_equal(other.fc.table[...], model.fc.table[...])


def test_what_inherits_from_a_known_layer_has_its_names() -> None:
    model = tiny()
    model.fc, model.conv1 = OwnLinear(6, 2, rngs=RNGS), OwnConv(3, 4, (3, 2), rngs=RNGS)
    state = to_torch(model)
    assert state["fc.weight"].shape == (2, 6)
    assert state["conv1.weight"].shape == (4, 3, 3, 2)
    assert state.keys() == to_torch(tiny()).keys()


def test_two_leaves_never_get_one_name() -> None:
    model = tiny()
    model.fc = nnx.Sequential(nnx.Linear(6, 2, rngs=RNGS))
    setattr(model.fc, "0", Linear(6, 2, rngs=RNGS))
    for use in (lambda: to_torch(model), lambda: load_pretrained(model, to_torch(tiny()))):
        with pytest.raises(
            UserError,
            match=r"fc\.layers\.0\.kernel and fc\.0\.kernel of the Tiny would both be called fc\.0\.weight in",
        ):
            use()
    with pytest.raises(UserError, match=r"would be called bn1\.weight in PyTorch, as another leaf is"):
        to_torch(tiny(), rename={"bn1.": "conv1."})


def test_a_batch_norm_that_counts_nothing_skips_the_count_and_nothing_else() -> None:
    model, state = tiny(), to_torch(tiny())
    model.bn1 = nnx.BatchNorm(4, rngs=RNGS)
    ledger = load_pretrained(model, state)
    assert [row.key for row in ledger.having("skipped")] == ["bn1.num_batches_tracked"]
    assert "14 of 15 source keys mapped, 1 skipped" in ledger.summary()
    with pytest.raises(MismatchError, match=r"source key fc\.num_batches_tracked has no place"):
        load_pretrained(model, state | {"fc.num_batches_tracked": np.array(3)})
