"""The pyramid of HRNet under MMDetection's names; Sun et al. 2019, https://arxiv.org/abs/1904.04514."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.detectors.conv_module import ConvModule
from jaxft.models.layers.pooling import average_pool

caffe2_xavier = jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class HRFPN(nnx.Module):
    """All branches at the finest resolution, mixed, and averaged down to each level.

    Args:
        in_channels: of the branches.
        out_channels, num_outs: of the pyramid.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, num_outs: int = 5, stride: int = 1, rngs: nnx.Rngs
    ) -> None:
        module = partial(ConvModule, activation=False, rngs=rngs)
        self.reduction_conv = module(sum(in_channels), out_channels, 1)
        again = partial(module, out_channels, out_channels, 3, padding=1, stride=stride, init=caffe2_xavier)
        convs = [again() for _ in range(num_outs)]
        self.fpn_convs = nnx.List(convs)

    def __call__(self, maps: Sequence[Array]) -> tuple[Array, ...]:
        """Maps `[N, h / 2^i, w / 2^i, C]` -> as many as `num_outs`, finest first."""
        grown = [maps[0]]
        for index, x in enumerate(maps[1:], start=1):
            n, height, width, channels = x.shape
            grown.append(jax.image.resize(x, (n, height << index, width << index, channels), "bilinear"))
        x = self.reduction_conv(jnp.concatenate(grown, -1))
        return tuple(
            conv(average_pool(x, 1 << level, 1 << level) if level else x) for level, conv in enumerate(self.fpn_convs)
        )
