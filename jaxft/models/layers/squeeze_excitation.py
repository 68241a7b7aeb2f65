"""Squeeze-and-excitation."""

from collections.abc import Callable

from flax import nnx
from jax import Array

from jaxft.models.layers.conv import Conv
from jaxft.models.layers.initializers import Init


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
