"""Linear layers, and one learned factor."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.layers.initializers import Init, fan_in_uniform
from jaxft.models.layers.products import wide_product
from jaxft.models.layers.shapes import along_channels, flatten


class Linear(nnx.Module):
    """`torch.nn.Linear`: `[..., inputs] @ kernel [inputs, outputs] + bias`; `wide` and `init`s as of `Conv`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        wide: bool = False,
        init: Init | None = None,
        bias_init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.wide = wide
        default = partial(fan_in_uniform, fan_in=inputs)
        self.kernel = nnx.Param((init or default)(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param((bias_init or default)(rngs.params(), (outputs,))) if bias else None
        self.lora: nnx.Module | None = None  # see `layers/low_rank.py`

    def __call__(self, x: Array) -> Array:
        """`[..., inputs]` -> `[..., outputs]`."""
        y = wide_product("...i,io->...o", x, self.kernel[...]) if self.wide else x @ self.kernel[...]
        y = y if self.bias is None else y + along_channels(self.bias[...].astype(y.dtype), y)
        return y if self.lora is None else y + self.lora(x).astype(y.dtype)


class FlatLinear(Linear):
    """`torch.flatten` and `torch.nn.Linear`: `[N, H, W, C]` -> `[N, outputs]`, the weights in PyTorch's order."""

    def __call__(self, x: Array) -> Array:
        return super().__call__(flatten(x))


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
        wide: bool = False,
        init: Init | None = None,
        bias_init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.wide = wide
        default = partial(fan_in_uniform, fan_in=math.prod(inputs))
        self.kernel = nnx.Param((init or default)(rngs.params(), (*inputs, outputs)))
        self.bias = nnx.Param((bias_init or default)(rngs.params(), (outputs,)))

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...]
        if self.wide:
            y = wide_product("nhwc,hwco->no", x, kernel)
        else:
            y = jax.lax.dot_general(x, kernel, (((1, 2, 3), (0, 1, 2)), ((), ())))
        return y + along_channels(self.bias[...].astype(y.dtype), y)


class Scale(nnx.Module):
    """One learned factor."""

    def __init__(self, value: float = 1.0) -> None:
        self.scale = nnx.Param(jnp.asarray(value, jnp.float32))

    def __call__(self, x: Array) -> Array:
        return x * self.scale[...].astype(x.dtype)
