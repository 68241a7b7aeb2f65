"""Layers that families share: convolution, linear, normalisation, drop-path, activations and the like.

Activations are `[N, H, W, C]`. Defaults, initial values and training behaviour are PyTorch's, so that a model written
with these layers under PyTorch's attribute names trains as its original does. Leaf names are Flax's (`kernel`, `scale`,
`mean`, `var`); `converters/rules.py` holds the correspondence.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.convolution import conv

Size = int | tuple[int, int]
Init = Callable[[Array, tuple[int, ...]], Array]


def pair(size: Size) -> tuple[int, int]:
    """`3` -> `(3, 3)`; a pair stays as it is."""
    return (size, size) if isinstance(size, int) else size


def along_channels(vector: Array, x: Array) -> Array:
    """`vector` `[C]` with as many axes as `x` `[..., C]`."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def fan_in_uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """Uniform in +-1/sqrt(fan_in): what `torch.nn.Conv2d` and `torch.nn.Linear` draw weights and biases from."""
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def kaiming_normal_fan_out(key: Array, shape: tuple[int, ...]) -> Array:
    """Normal with deviation sqrt(2 / fan_out), fan_out = out * kh * kw: `kaiming_normal_(mode="fan_out")` in PyTorch.

    `shape` is that of a kernel `[kh, kw, in/groups, out]`.
    """
    return jax.random.normal(key, shape) * math.sqrt(2 / (shape[0] * shape[1] * shape[3]))


class Conv(nnx.Module):
    """2-D convolution, `torch.nn.Conv2d` on `[N, H, W, C]`; see `jaxft.models.convolution` for how it is computed.

    Args:
        inputs, outputs: channels.
        size, stride, dilation: pixels, one number or (height, width).
        padding: pixels at each side, or `"same"`: TensorFlow's, output = ceil(input / stride), odd pixels at the end.
        groups: as in PyTorch; `groups == inputs` is a depthwise convolution.
        init: draws the kernel `[kh, kw, inputs/groups, outputs]` from a key; PyTorch's default where it is None.
        bias_init: draws the bias `[outputs]`, likewise.

    Where `standardised` is set afterwards, each output's kernel is used less its mean and divided by its deviation
    (weight standardisation; Qiao et al. 2019, https://arxiv.org/abs/1903.10520).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: Size,
        *,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        init: Init | None = None,
        bias_init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.size, self.stride, self.dilation, self.groups = pair(size), pair(stride), pair(dilation), groups
        self.padding = padding if isinstance(padding, str) else pair(padding)
        self.standardised = False
        shape = (*self.size, inputs // groups, outputs)
        default = partial(fan_in_uniform, fan_in=math.prod(shape[:3]))
        self.kernel = nnx.Param((init or default)(rngs.params(), shape))
        self.bias = nnx.Param((bias_init or default)(rngs.params(), (outputs,))) if bias else None

    def _pads(self, image: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        if isinstance(self.padding, str):
            vertical, horizontal = jax.lax.padtype_to_pads(
                image, [d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True)], self.stride, "SAME"
            )
            return vertical, horizontal
        return (self.padding[0], self.padding[0]), (self.padding[1], self.padding[1])

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, inputs]` -> `[N, H', W', outputs]`, in the dtype of `x`."""
        kernel = self.kernel[...]
        y = conv(
            x,
            standardise(kernel) if self.standardised else kernel,
            strides=self.stride,
            padding=self._pads((x.shape[1], x.shape[2])),
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else y + along_channels(self.bias[...].astype(y.dtype), y)


def standardise(kernel: Array) -> Array:
    """A kernel `[kh, kw, in, out]` with mean 0 and (unbiased) deviation 1 for each output, as mmcv's `ConvWS2d`."""
    centred = kernel - kernel.mean((0, 1, 2), keepdims=True)
    return centred / (jnp.std(kernel, (0, 1, 2), ddof=1, keepdims=True) + 1e-5)


class Linear(nnx.Module):
    """`torch.nn.Linear`: `[..., inputs] @ kernel [inputs, outputs] + bias`; `init` and `bias_init` as of `Conv`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        init: Init | None = None,
        bias_init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        default = partial(fan_in_uniform, fan_in=inputs)
        self.kernel = nnx.Param((init or default)(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param((bias_init or default)(rngs.params(), (outputs,))) if bias else None

    def __call__(self, x: Array) -> Array:
        """`[..., inputs]` -> `[..., outputs]`."""
        y = x @ self.kernel[...]
        return y if self.bias is None else y + along_channels(self.bias[...].astype(y.dtype), y)


class LinearOverMap(nnx.Module):
    """`flatten` and `torch.nn.Linear` on a feature map: `[N, H, W, C]` -> `[N, outputs]`.

    PyTorch flattens C, H, W. The kernel `[H, W, C, outputs]` keeps the axes apart, so that `converters/rules.py` orders
    them and nothing is transposed at run time.
    """

    def __init__(
        self,
        inputs: tuple[int, int, int],
        outputs: int,
        *,
        init: Init | None = None,
        bias_init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        default = partial(fan_in_uniform, fan_in=math.prod(inputs))
        self.kernel = nnx.Param((init or default)(rngs.params(), (*inputs, outputs)))
        self.bias = nnx.Param((bias_init or default)(rngs.params(), (outputs,)))

    def __call__(self, x: Array) -> Array:
        y = jax.lax.dot_general(x, self.kernel[...], (((1, 2, 3), (0, 1, 2)), ((), ())))
        return y + along_channels(self.bias[...].astype(y.dtype), y)


class Buffer(nnx.BatchStat):
    """A constant that PyTorch keeps in the state dict, such as a table of indices: neither trained nor tracked."""


class LayerNorm(nnx.Module):
    """`torch.nn.LayerNorm` over the last axis: `[..., C]` -> the same shape and dtype, in float32 (or wider) inside."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        scale, bias = (along_channels(vector[...], x) for vector in (self.scale, self.bias))
        return (centred * factor * scale + bias).astype(x.dtype)


class BatchNorm(nnx.Module):
    """`torch.nn.BatchNorm2d` on `[N, H, W, C]`, its running estimates included.

    Training normalises with the batch's biased variance and moves the running estimates by
    `running = (1 - momentum) * running + momentum * batch` with the batch's *unbiased* variance. That is PyTorch's
    convention for both; Flax's own layer differs in both. Evaluation normalises with the running estimates. Arithmetic
    is float32 (or wider) whatever the dtype of the activations.

    `use_running_average` is what `model.train()` and `model.eval()` set. `running_only` wins over it: such a layer uses
    and keeps its running estimates always; see `jaxft.optim.set_modes`.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum
        self.use_running_average = False
        self.running_only = False
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x: Array, used: Array | None = None) -> Array:
        """`[N, H, W, C]` -> the same shape and dtype; only `used` bool `[N]` images count in the batch's statistics."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average or self.running_only:
            mean, var = self.mean[...], self.var[...]
        elif used is None:
            mean = wide.mean((0, 1, 2))
            var = jnp.square(wide - along_channels(mean, x)).mean((0, 1, 2))
            self._track(mean, var, x.size // x.shape[-1], self.momentum)
        else:
            weight, count = used.astype(wide.dtype).reshape(-1, 1, 1, 1), used.sum() * (x.shape[1] * x.shape[2])
            mean = (wide * weight).sum((0, 1, 2)) / jnp.maximum(count, 1)
            var = (jnp.square(wide - along_channels(mean, x)) * weight).sum((0, 1, 2)) / jnp.maximum(count, 1)
            self._track(mean, var, count, jnp.where(count > 0, self.momentum, 0))
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        mean, factor, bias = (along_channels(vector, x) for vector in (mean, factor, self.bias[...]))
        return ((wide - mean) * factor + bias).astype(x.dtype)

    def _track(self, mean: Array, var: Array, count: int | Array, take: float | Array) -> None:
        unbiased = var * (count / (max(count - 1, 1) if isinstance(count, int) else jnp.maximum(count - 1, 1)))
        keep = 1 - take
        self.mean.set_value(keep * self.mean[...] + take * jax.lax.stop_gradient(mean))
        self.var.set_value(keep * self.var[...] + take * jax.lax.stop_gradient(unbiased))
        self.num_batches_tracked.set_value(self.num_batches_tracked[...] + 1)


class FrozenBatchNorm(nnx.Module):
    """`torchvision.ops.FrozenBatchNorm2d`: batch norm whose four vectors are constants, in training as well."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.scale, self.bias = Buffer(jnp.ones(channels)), Buffer(jnp.zeros(channels))
        self.mean, self.var = Buffer(jnp.zeros(channels)), Buffer(jnp.ones(channels))

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` -> the same shape and dtype."""
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
        shift = self.bias[...] - self.mean[...] * factor
        return (x * along_channels(factor, x) + along_channels(shift, x)).astype(x.dtype)


class GroupNorm(nnx.Module):
    """`torch.nn.GroupNorm` on `[N, H, W, C]`: each image's groups of channels alone; float32 or wider inside."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5) -> None:
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` -> the same shape and dtype."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(*x.shape[:3], self.groups, -1)
        centred = wide - wide.mean((1, 2, 4), keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(centred).mean((1, 2, 4), keepdims=True) + self.eps)
        scale, bias = (along_channels(vector[...], x) for vector in (self.scale, self.bias))
        return ((centred * factor).reshape(x.shape) * scale + bias).astype(x.dtype)


class ConvTranspose(nnx.Module):
    """`torch.nn.ConvTranspose2d` whose windows touch and do not overlap: stride is the size, no padding."""

    def __init__(self, inputs: int, outputs: int, size: int, *, init: Init | None = None, rngs: nnx.Rngs) -> None:
        shape = (size, size, inputs, outputs)
        default = partial(fan_in_uniform, fan_in=size * size * outputs)
        self.kernel = nnx.Param((init or default)(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(outputs) if init else default(rngs.params(), (outputs,)))

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, inputs]` -> `[N, size * H, size * W, outputs]`."""
        kernel, (n, height, width, _) = self.kernel[...], x.shape
        y = jnp.einsum("nhwi,abio->nhawbo", x, kernel)
        y = y.reshape(n, height * kernel.shape[0], width * kernel.shape[1], kernel.shape[3])
        return y + along_channels(self.bias[...].astype(y.dtype), y)


class Scale(nnx.Module):
    """One learned factor."""

    def __init__(self, value: float = 1.0) -> None:
        self.scale = nnx.Param(jnp.asarray(value, jnp.float32))

    def __call__(self, x: Array) -> Array:
        return x * self.scale[...].astype(x.dtype)


class DropPath(nnx.Module):
    """Stochastic depth: in training, drops a whole example's branch with probability `rate` and scales up the rest.

    Huang et al. 2016, https://arxiv.org/abs/1603.09382; the scaling 1/(1-rate) is that of PyTorch's implementations.
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs) -> None:
        self.rate = rate
        self.deterministic = False
        self.rngs = rngs.dropout.fork()

    def __call__(self, x: Array) -> Array:
        """`[N, ...]` -> the same shape."""
        if self.deterministic or self.rate == 0:
            return x
        keep = jax.random.bernoulli(self.rngs(), 1 - self.rate, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(keep, x / (1 - self.rate), 0)


class Outputs(NamedTuple):
    """What a classifier with auxiliary heads returns in training; in evaluation it returns the logits alone."""

    logits: Array
    auxiliary: tuple[Array, ...]
    weight: float  # of each auxiliary head's loss


class Sequential(nnx.List):
    """Layers applied in order, at the paths `0`, `1`, ... as in `torch.nn.Sequential`.

    What has no parameters, such as `relu` or a pooling, is a plain function at its place.
    """

    def __init__(self, layers: Iterable[Callable[[Array], Array]]) -> None:
        super().__init__(layers)

    def __call__(self, x: Array) -> Array:
        """Feeds `x` through every layer."""
        for layer in self:
            x = layer(x)
        return x


class SqueezeExcitation(nnx.Module):
    """Scales each channel by what two 1x1 convolutions make of the pooled map; Hu et al. 2017,
    https://arxiv.org/abs/1709.01507, under the names of `torchvision.ops.SqueezeExcitation`."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        *,
        activation: Callable[[Array], Array] = nnx.relu,
        gate: Callable[[Array], Array] = nnx.sigmoid,
        init: Init | None = None,
        bias_init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation, self.gate = activation, gate
        self.fc1 = Conv(channels, squeezed, 1, init=init, bias_init=bias_init, rngs=rngs)
        self.fc2 = Conv(squeezed, channels, 1, init=init, bias_init=bias_init, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        pooled = x.mean((1, 2), keepdims=True)
        return x * self.gate(self.fc2(self.activation(self.fc1(pooled))))


def relu6(x: Array) -> Array:
    """`torch.nn.ReLU6`: x cut to 0..6, with gradient 0 at the kinks as there, where `jax.nn.relu6` gives a half."""
    return jnp.where(x > 0, jnp.where(x < 6, x, 6), 0)


def hard_sigmoid(x: Array) -> Array:
    """`torch.nn.Hardsigmoid`: relu6(x + 3) / 6."""
    return relu6(x + 3) / 6


def hard_swish(x: Array) -> Array:
    """`torch.nn.Hardswish`: x * relu6(x + 3) / 6; Howard et al. 2019, https://arxiv.org/abs/1905.02244."""
    return x * hard_sigmoid(x)


def gelu(x: Array) -> Array:
    """`torch.nn.GELU`: x times the normal distribution's cumulative at x, exact."""
    return jax.nn.gelu(x, approximate=False)
