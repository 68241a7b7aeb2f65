import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from converters import load_pretrained, to_torch
from converters.report import difference
from converters.rules import leaves
from converters.verify import precision
from jaxft.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    DropPath,
    LayerNorm,
    Linear,
    LinearOverMap,
    Sequential,
    SqueezeExcitation,
    gelu,
    hard_sigmoid,
    hard_swish,
    relu6,
)
from jaxft.models.layers.attention import attend
from jaxft.models.layers.pooling import adaptive_average_pool
from jaxft.models.paths import filled, values

torch = pytest.importorskip("torch")


def state_of(theirs: Any) -> dict[str, np.ndarray]:
    return {key: tensor.numpy().copy() for key, tensor in theirs.state_dict().items()}


def as_nchw(x: Any) -> Any:
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def under_torch_names(model: nnx.Module, arrays: dict[str, Array]) -> dict[str, np.ndarray]:
    return {leaf.key: leaf.to_torch(np.asarray(arrays[leaf.path])) for leaf in leaves(model) if leaf.path in arrays}


def check_gradients(ours: nnx.Module, theirs: Any, x: np.ndarray, tolerance: float) -> None:
    """One forward and backward pass through both layers; compares outputs, gradients and what the layers track."""
    cotangent = np.random.default_rng(1)
    their_x = torch.from_numpy(x).requires_grad_()
    channels_first = their_x.permute(0, 3, 1, 2) if x.ndim == 4 else their_x
    their_y = theirs(channels_first)
    their_y = their_y.permute(0, 2, 3, 1) if x.ndim == 4 else their_y
    dy = cotangent.standard_normal(their_y.shape).astype(x.dtype)
    theirs.zero_grad()
    their_y.backward(torch.from_numpy(dy))

    @jax.jit
    def run(params: dict[str, Array], stats: dict[str, Array], x: Array) -> Any:
        def loss(params: dict[str, Array], x: Array) -> Any:
            layer: Any = filled(ours, params | stats)
            y = layer(x)
            return (y * dy).sum(), (y, values(layer, nnx.BatchStat))

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    (grads, dx), (y, stats) = run(values(ours, nnx.Param), values(ours, nnx.BatchStat), jnp.asarray(x))
    assert y.dtype == x.dtype
    assert difference(y, their_y.detach().numpy()) < tolerance
    assert difference(dx, their_x.grad.numpy()) < tolerance
    their_grads = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    our_grads = under_torch_names(ours, grads)
    assert our_grads.keys() == their_grads.keys()
    assert {name for name, grad in our_grads.items() if difference(grad, their_grads[name]) >= tolerance} == set()
    nnx.update(ours, nnx.state(filled(ours, values(ours) | stats)))


@pytest.mark.parametrize(
    ("dtype", "tolerance", "shape"),
    [("float32", 1e-5, (4, 5, 3, 6)), ("float64", 1e-9, (4, 5, 3, 6)), ("float64", 1e-9, (2, 1, 1, 3))],
)
def test_batch_norm_trains_and_evaluates_as_pytorchs(dtype: str, tolerance: float, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    channels = shape[3]
    theirs = torch.nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3, dtype=getattr(torch, dtype))
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(random.uniform(0.5, 2, channels)))
        theirs.bias.copy_(torch.from_numpy(random.standard_normal(channels)))
    with precision(dtype):
        ours = BatchNorm(channels, eps=1e-3, momentum=0.3)
        load_pretrained(ours, state_of(theirs))
        for _ in range(3):
            check_gradients(ours, theirs, (3 * random.standard_normal(shape) + 2).astype(dtype), tolerance)
        assert int(ours.num_batches_tracked[...]) == int(theirs.num_batches_tracked) == 3
        for name, array in under_torch_names(ours, values(ours, nnx.BatchStat)).items():
            assert difference(array, getattr(theirs, name).numpy()) < tolerance, name
        ours.eval()
        theirs.eval()
        tracked = values(ours)
        check_gradients(ours, theirs, random.standard_normal(shape).astype(dtype), tolerance)
        assert all(np.array_equal(value, tracked[path]) for path, value in values(ours).items())


def test_running_only_wins_over_training_mode_and_keeps_the_statistics() -> None:
    model = Sequential([BatchNorm(3), BatchNorm(3)])
    model.train()
    frozen, free = model
    assert isinstance(frozen, BatchNorm)
    assert isinstance(free, BatchNorm)
    frozen.running_only = True
    frozen.mean[...] = jnp.arange(3.0)
    frozen.var[...] = jnp.arange(1.0, 4.0)
    before = {path: np.array(value) for path, value in values(model).items()}
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    y = frozen(x)
    model(x)
    changed = {path for path, value in values(model).items() if not np.array_equal(value, before[path])}
    assert changed == {"1.mean", "1.var", "1.num_batches_tracked"}
    model.eval()
    np.testing.assert_array_equal(frozen(x), y)


def test_one_value_per_channel_gives_the_bias_and_finite_statistics() -> None:
    layer = BatchNorm(2, momentum=0.1)
    layer.bias[...] = jnp.array([1.0, -2.0])
    y = layer(jnp.full((1, 1, 1, 2), 7.0))
    np.testing.assert_array_equal(y[0, 0, 0], [1, -2])
    np.testing.assert_allclose(layer.mean[...], 0.7, rtol=1e-6)
    np.testing.assert_allclose(layer.var[...], 0.9, rtol=1e-6)


def test_bfloat16_activations_are_normalized_in_float32() -> None:
    narrow, wide = BatchNorm(3), BatchNorm(3)
    # A mean far above the spread is what arithmetic in bfloat16 would lose.
    x = (20 + jax.random.normal(jax.random.key(0), (8, 4, 4, 3))).astype(jnp.bfloat16)
    y, expected = narrow(x), wide(x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))
    assert {str(value.dtype) for value in values(narrow).values()} == {"float32", "int32"}
    assert all(np.array_equal(value, values(wide)[path]) for path, value in values(narrow).items())


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "1x1": {"size": 1},
    "3x3 padded": {"size": 3, "padding": 1},
    "7x7 strided": {"size": 7, "stride": 2, "padding": 3, "bias": False},
    "oblong": {"size": (3, 5), "stride": (2, 1), "padding": (0, 2)},
    "dilated": {"size": 3, "dilation": 2, "padding": 2},
    "grouped": {"size": 3, "groups": 2, "padding": 1},
    "depthwise strided": {"size": 5, "groups": 4, "stride": 2, "padding": 2, "bias": False},
    "same": {"size": 3, "padding": "same"},
    "same strided, odd pixel at the end": {"size": 5, "stride": 2, "padding": "same"},
    "same strided 1x1": {"size": 1, "stride": 2, "padding": "same"},
}


def tensorflow_padding(images: Any, size: tuple[int, int], stride: tuple[int, int]) -> Any:
    """Images [N, C, H, W] with the border that TensorFlow's "same" adds."""
    pads: list[int] = []
    for length, k, s in zip(images.shape[:1:-1], size[::-1], stride[::-1], strict=True):
        total = max((math.ceil(length / s) - 1) * s + k - length, 0)
        pads += [total // 2, total - total // 2]
    return torch.nn.functional.pad(images, pads)


@pytest.mark.parametrize("image", [(9, 8), (12, 7)])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution_is_pytorchs(options: dict[str, Any], image: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    same = options.get("padding") == "same"
    rest = {key: value for key, value in options.items() if key not in ("size", *(["padding"] if same else []))}
    theirs = torch.nn.Conv2d(4, 8, options["size"], **rest, dtype=torch.float64)
    if same:
        theirs.register_forward_pre_hook(
            lambda layer, inputs: tensorflow_padding(*inputs, layer.kernel_size, layer.stride)
        )
    with precision("float64"):
        ours = Conv(4, 8, **options, rngs=nnx.Rngs(0))
        load_pretrained(ours, state_of(theirs))
        check_gradients(ours, theirs, random.standard_normal((2, *image, 4)), 1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_pytorchs(bias: bool) -> None:
    theirs = torch.nn.Linear(5, 3, bias=bias, dtype=torch.float64)
    with precision("float64"):
        ours = Linear(5, 3, bias=bias, rngs=nnx.Rngs(0))
        load_pretrained(ours, state_of(theirs))
        check_gradients(ours, theirs, np.random.default_rng(0).standard_normal((2, 5)), 1e-9)


def test_layer_norm_is_pytorchs() -> None:
    ours, theirs = LayerNorm(6, eps=1e-3), torch.nn.LayerNorm(6, eps=1e-3)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    load_pretrained(ours, state_of(theirs))
    check_gradients(ours, theirs, np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32), 1e-5)


def test_a_linear_layer_over_a_map_is_flatten_and_linear_in_pytorch() -> None:
    ours = LinearOverMap((3, 2, 4), 5, rngs=nnx.Rngs(0))
    theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 5))
    state = {name.removeprefix("1."): value for name, value in state_of(theirs).items()}
    load_pretrained(ours, state)
    assert all(np.array_equal(value, state[key]) for key, value in to_torch(ours).items())
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 4)).astype(np.float32)
    assert difference(ours(jnp.asarray(x)), theirs(as_nchw(x)).detach().numpy()) < 1e-6


@pytest.mark.parametrize("kind", ["conv", "pointwise", "linear", "map"])
def test_a_wide_layer_rounds_nothing_after_its_sums(kind: str) -> None:
    build, shape = {
        "conv": (partial(Conv, 16, 4, 3, padding=1), (2, 5, 6, 16)),
        "pointwise": (partial(Conv, 16, 4, 1), (2, 5, 6, 16)),
        "linear": (partial(Linear, 16, 4), (3, 16)),
        "map": (partial(LinearOverMap, (5, 6, 16), 4), (2, 5, 6, 16)),
    }[kind]
    layer: Any = build(wide=True, rngs=nnx.Rngs(0))
    assert "wide" not in {leaf.path for leaf in leaves(layer)}
    arrays = values(layer) | {"kernel": layer.kernel[...].astype(jnp.bfloat16)}
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.bfloat16)

    @jax.jit
    def run(arrays: dict[str, Array], x: Array) -> Any:
        def total(arrays: dict[str, Array], x: Array) -> Any:
            model: Any = filled(layer, arrays)
            y = model(x)
            return (y**2).sum(), y

        return jax.grad(total, (0, 1), has_aux=True)(arrays, x)

    (found, dx), y = run(arrays, x)
    float32 = {path: array.astype(jnp.float32) for path, array in arrays.items()}
    (expected, wide_dx), wide_y = run(float32, x.astype(jnp.float32))
    assert y.dtype == found["bias"].dtype == jnp.float32
    assert dx.dtype == found["kernel"].dtype == jnp.bfloat16
    assert difference(y, np.asarray(wide_y)) < 1e-6
    assert difference(found["bias"], np.asarray(expected["bias"])) < 1e-5
    for narrow, wide in ((dx, wide_dx), (found["kernel"], expected["kernel"])):
        assert difference(narrow.astype(jnp.float32), np.asarray(wide)) < 2e-2
    # Other platforms' forms take the same types.
    jax.jit(run).trace(arrays, x).lower(lowering_platforms=("tpu",))


def test_logits_of_attention_are_float32_under_bfloat16() -> None:
    """Beside one of 200, bfloat16 holds no logit of 200.5: half a step decides between two tokens."""
    queries = jnp.asarray([[16.0, 1.0]], jnp.bfloat16)[:, None]  # one token, one head
    keys = jnp.asarray([[12.5, 0.0], [12.5, 0.5]], jnp.bfloat16)[:, None]
    tokens = jnp.asarray([[1.0], [0.0]], jnp.bfloat16)[:, None]
    mixed, pull = jax.vjp(attend, queries, keys, tokens)
    assert mixed.dtype == jnp.bfloat16
    assert float(mixed[0, 0]) == pytest.approx(1 / (1 + math.exp(0.5)), rel=2**-8)
    gradients = pull(jnp.ones_like(mixed))
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype("bfloat16")}
    assert float(gradients[1][0, 0, 0]) == pytest.approx(16 * 0.235, rel=2**-6)


def test_squeeze_and_excitation_is_torchvisions() -> None:
    theirs = pytest.importorskip("torchvision.ops").SqueezeExcitation(8, 3, scale_activation=torch.nn.Hardsigmoid)
    ours = SqueezeExcitation(8, 3, gate=hard_sigmoid, rngs=nnx.Rngs(0))
    load_pretrained(ours, state_of(theirs))
    check_gradients(ours, theirs, np.random.default_rng(0).standard_normal((2, 5, 4, 8)).astype(np.float32), 1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (relu6, torch.nn.functional.relu6),
        (hard_sigmoid, torch.nn.functional.hardsigmoid),
        (hard_swish, torch.nn.functional.hardswish),
        (gelu, torch.nn.functional.gelu),
    ],
)
def test_activations_and_their_gradients_are_pytorchs(ours: Any, theirs: Any) -> None:
    x = np.concatenate([np.linspace(-9, 9, 200), [-3.0, 0.0, 3.0, 6.0]]).astype(np.float32)
    their_x = torch.from_numpy(x).requires_grad_()
    their_y = theirs(their_x)
    their_y.sum().backward()
    np.testing.assert_allclose(ours(jnp.asarray(x)), their_y.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        jax.grad(lambda x: ours(x).sum())(jnp.asarray(x)), their_x.grad.numpy(), rtol=1e-5, atol=1e-6
    )


def test_a_sequence_takes_plain_functions_at_their_places() -> None:
    layers = Sequential([Linear(3, 4, rngs=nnx.Rngs(0)), nnx.relu, Linear(4, 2, rngs=nnx.Rngs(1))])
    assert {leaf.key for leaf in leaves(layers)} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    x = jnp.ones((1, 3))
    np.testing.assert_array_equal(nnx.jit(lambda m, x: m(x))(layers, x), layers[2](nnx.relu(layers[0](x))))


def test_drop_path_drops_whole_examples_and_scales_the_rest() -> None:
    layer = DropPath(0.3, rngs=nnx.Rngs(0))
    x = jax.random.uniform(jax.random.key(0), (4000, 2, 2, 1), minval=1, maxval=2)
    y = np.array(layer(x))
    dropped = (y == 0).all((1, 2, 3))
    assert dropped.mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(y[~dropped], np.array(x)[~dropped] / 0.7, rtol=1e-6)
    assert not np.array_equal(layer(x), y)


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_0() -> None:
    x = jnp.ones((50, 1))
    evaluated, idle = DropPath(0.9, rngs=nnx.Rngs(0)), DropPath(0.0, rngs=nnx.Rngs(0))
    evaluated.eval()
    np.testing.assert_array_equal(evaluated(x), x)
    np.testing.assert_array_equal(idle(x), x)


@pytest.mark.parametrize("size", [1, 7, (3, 2), (6, 5)])
@pytest.mark.parametrize("image", [(7, 5), (6, 13), (1, 1), (14, 10)])
def test_adaptive_average_pool_is_pytorchs(image: tuple[int, int], size: int | tuple[int, int]) -> None:
    with precision("float64"):
        x = np.random.default_rng(0).standard_normal((2, *image, 3))
        expected = torch.nn.functional.adaptive_avg_pool2d(as_nchw(x), size).permute(0, 2, 3, 1)
        assert difference(adaptive_average_pool(jnp.asarray(x), size), expected.numpy()) < 1e-9


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_transposed_convolution_is_one_product(platform: str) -> None:
    """So are its gradients: no convolution with a dilated input, which is slow on GPUs."""
    layer, x = ConvTranspose(8, 4, 2, rngs=nnx.Rngs(0)), jnp.zeros((2, 5, 6, 8))
    graph, state = nnx.split(layer)

    def run(state: nnx.State, x: Array) -> Array:
        return nnx.merge(graph, state)(x)

    def both(state: nnx.State, x: Array, dy: Array) -> Any:
        return jax.vjp(run, state, x)[1](dy)

    def products(function: Any, *arrays: Any) -> int:
        text = jax.jit(function).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" not in text
        return text.count("stablehlo.dot_general")

    assert products(run, state, x) == 1
    assert products(both, state, x, jnp.zeros((2, 10, 12, 4))) == 2
