import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxft.models.layers import convolution
from jaxft.models.layers.convolution import conv, xla_form
from jaxft.models.layers.convolution_forms import Form
from jaxft.models.layers.convolution_onednn import onednn_form
from jaxft.models.layers.onednn import available, compiled, for_onednn
from jaxft.models.layers.pooling import max_pool

torch = pytest.importorskip("torch")


class Case(NamedTuple):
    """Images of `height` x (height + 1) pixels, and what moves over them."""

    height: int
    channels: int
    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        edge = self.dilation * (self.kernel // 2) if self.padding is None else self.padding
        twice = {"strides": (self.stride,) * 2, "dilation": (self.dilation,) * 2}
        return {**twice, "padding": ((edge, edge), (edge, edge)), "groups": self.groups}

    def arrays(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(0)
        x = random.standard_normal((2, self.height, self.height + 1, self.channels))
        kernel = random.standard_normal((self.kernel, self.kernel, self.channels // self.groups, self.features))
        return x.astype(dtype), kernel.astype(dtype)


CASES = [
    Case(8, 6, 10, 1),
    Case(9, 10, 6, 1, stride=2),
    Case(8, 6, 10, 1, padding=1),
    Case(4, 128, 130, 1),  # wide enough for a transposed copy
    Case(4, 130, 128, 1),
    Case(12, 8, 16, 3),
    Case(12, 8, 16, 3, stride=2),
    Case(12, 8, 16, 3, dilation=2),
    Case(10, 64, 64, 3),  # Winograd
    Case(11, 64, 72, 3),
    Case(11, 64, 64, 3, padding=0),
    Case(10, 64, 64, 3, padding=3),
    Case(6, 64, 64, 3),  # too small for Winograd
    Case(64, 3, 8, 7, stride=2),  # in strips
    Case(64, 3, 8, 3, dilation=31, padding=0),
    Case(12, 8, 8, 3, groups=8),  # depthwise
    Case(9, 8, 8, 5, stride=2, groups=8),
    Case(12, 8, 8, 5, stride=2, groups=8),
    Case(12, 8, 8, 3, stride=3, dilation=2, groups=8),
    Case(9, 8, 8, 1, stride=2, groups=8),
    Case(12, 8, 16, 3, groups=8),
    Case(12, 16, 24, 3, stride=2, groups=4),
    Case(10, 128, 128, 3, groups=4),  # two bundles of Winograd
    Case(13, 8, 16, 3, stride=3, dilation=2),
    Case(11, 8, 8, 3, stride=2, padding=0),  # the last row and column of the images are not seen
    Case(12, 8, 8, 3, stride=2, dilation=2, groups=8, padding=0),
    Case(1, 3, 4, 3, stride=8, padding=4),  # windows that lie within the padding
    Case(1, 3, 4, 2, stride=2, dilation=5, padding=3),
]


class Way(NamedTuple):
    """How a function is compiled: as anybody's, or as a step of ours."""

    trace: Callable[[Callable[..., Any]], Callable[..., Any]]
    compile: Callable[[jax.stages.Lowered, str], Any]

    def program(self, function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
        return self.compile(jax.jit(self.trace(function), **options).lower(*arrays), "cpu")


ANYBODY, OURS = Way(lambda function: function, lambda lowered, _: lowered.compile()), Way(for_onednn, compiled)


@pytest.fixture(
    params=[ANYBODY, pytest.param(OURS, marks=pytest.mark.skipif(not available(), reason="no oneDNN"))],
    ids=["anybody", "ours"],
)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def plain(x: Array, kernel: Array, *, dilation: tuple[int, int], groups: int, strides: Any, padding: Any) -> Array:
    """What JAX itself computes."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, None, dilation, dimension_numbers=layout, feature_group_count=groups
    )


def with_gradients(function: Callable[..., Array], *inputs: Any) -> list[Array]:
    """The output, and the gradients for a fixed random cotangent."""
    y, pull = jax.vjp(function, *inputs)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    return [y, *pull(jnp.asarray(dy))]


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Compares relative to the largest magnitude."""
    ours, theirs = (np.asarray(array, np.float64) for array in (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("chosen", [xla_form, onednn_form])
def test_equals_jax_in_float64(case: Case, float64: None, chosen: Callable[..., Form]) -> None:
    arrays = case.arrays(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_cpu_form", lambda x, kernel, window: chosen(x.shape, kernel.shape, window))
        ours = jax.jit(partial(with_gradients, partial(conv, **case.options)))(*arrays)
    theirs = jax.jit(partial(with_gradients, partial(plain, **case.options)))(*arrays)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float64
        assert_close(mine, other, 1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_pytorch_in_float32(case: Case, way: Way) -> None:
    x, kernel = case.arrays(np.float32)
    ours = way.program(partial(with_gradients, partial(conv, **case.options)), x, kernel)(x, kernel)
    theirs_x = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()
    theirs_kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1)).requires_grad_()
    edge = case.options["padding"][0][0]
    y = torch.nn.functional.conv2d(theirs_x, theirs_kernel, None, case.stride, edge, case.dilation, case.groups)
    dy = np.random.default_rng(1).standard_normal(ours[0].shape).astype(np.float32)
    y.backward(torch.from_numpy(dy.transpose(0, 3, 1, 2)))
    assert_close(ours[0], y.detach().numpy().transpose(0, 2, 3, 1), 3e-6)
    assert_close(ours[1], theirs_x.grad.numpy().transpose(0, 2, 3, 1), 3e-6)
    assert_close(ours[2], theirs_kernel.grad.numpy().transpose(2, 3, 1, 0), 3e-6)


@pytest.mark.parametrize("case", [CASES[0], CASES[5], CASES[8], CASES[14]], ids=str)
def test_bfloat16_is_accumulated_in_float32(case: Case, way: Way) -> None:
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in case.arrays(np.float32))
    ours = way.program(partial(with_gradients, partial(conv, **case.options)), x, kernel)(x, kernel)
    assert all(array.dtype == jnp.bfloat16 for array in ours)
    wide = plain(x.astype(jnp.float32), kernel.astype(jnp.float32), **case.options)
    assert_close(ours[0], wide, 2**-8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_over_two_devices_stays_there(case: Case, way: Way) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x, kernel = case.arrays(np.float32)
    arrays = jax.device_put(x, split), jax.device_put(kernel, whole)
    function = partial(with_gradients, partial(conv, **case.options))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = way.program(function, *arrays, out_shardings=[split, split, whole])
    collectives = Counter(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", program.as_text()))
    assert collectives == {"all-reduce": 1}


def test_works_under_remat_and_shape_evaluation() -> None:
    case = Case(12, 8, 16, 3, stride=2)
    x, kernel = case.arrays(np.float32)

    def function(x: Array, kernel: Array) -> Array:
        return conv(x, kernel, **case.options)

    remade = jax.jit(partial(with_gradients, nnx.remat(function)))(x, kernel)
    for ours, theirs in zip(remade, with_gradients(function, x, kernel), strict=True):
        assert_close(ours, theirs, 1e-6)
    assert jax.eval_shape(function, x, kernel).shape == remade[0].shape


def test_a_gradient_nobody_asks_for_is_not_computed() -> None:
    case = Case(64, 3, 8, 7, stride=2)

    def convolutions(wanted: tuple[int, ...]) -> int:
        step = jax.jit(jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel, **case.options)), wanted))
        return step.lower(*case.arrays(np.float32)).compile().as_text().count(" convolution(")

    assert convolutions((1,)) < convolutions((0, 1))


@pytest.mark.parametrize(("window", "stride", "edge"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 3, 0)])
@pytest.mark.parametrize("height", [8, 11])
def test_max_pool_gives_ties_to_the_first(window: int, stride: int, edge: int, height: int) -> None:
    x = np.random.default_rng(0).integers(-2, 2, (2, height, 12, 4)).astype(np.float32)
    pool = partial(max_pool, window=(window, window), strides=(stride, stride), padding=((edge, edge), (edge, edge)))
    y, dx = jax.jit(partial(with_gradients, pool))(x)
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()
    expected = torch.nn.functional.max_pool2d(theirs, window, stride, edge)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    expected.backward(torch.from_numpy(dy.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(y, expected.detach().numpy().transpose(0, 2, 3, 1))
    assert_close(dx, theirs.grad.numpy().transpose(0, 2, 3, 1), 1e-6)
