"""Layers that families share: convolution, linear, normalization, drop-path, activations and the like.

Activations are `[N, H, W, C]`. Defaults, initial values and training behavior are PyTorch's, so that a model written
with these layers under PyTorch's attribute names trains as its original does. Leaf names are Flax's (`kernel`, `scale`,
`mean`, `var`); `converters/rules.py` holds the correspondence. Pooling and attention are in files of their own.
"""

from jaxft.models.layers.activations import gelu, hard_sigmoid, hard_swish, relu6
from jaxft.models.layers.containers import Buffer, Named, Outputs, Sequential, Wide
from jaxft.models.layers.conv import Conv, ConvTranspose, standardize
from jaxft.models.layers.drop_path import DropPath
from jaxft.models.layers.initializers import Init, fan_in_uniform, kaiming_normal_fan_out
from jaxft.models.layers.linear import FlatLinear, Linear, LinearOverMap, Scale
from jaxft.models.layers.normalization import BatchNorm, FrozenBatchNorm, GroupNorm, LayerNorm
from jaxft.models.layers.shapes import IntOrPair, along_channels, flatten, pair
from jaxft.models.layers.squeeze_excitation import SqueezeExcitation

__all__ = [
    "BatchNorm",
    "Buffer",
    "Conv",
    "ConvTranspose",
    "DropPath",
    "FlatLinear",
    "FrozenBatchNorm",
    "GroupNorm",
    "Init",
    "IntOrPair",
    "LayerNorm",
    "Linear",
    "LinearOverMap",
    "Named",
    "Outputs",
    "Scale",
    "Sequential",
    "SqueezeExcitation",
    "Wide",
    "along_channels",
    "fan_in_uniform",
    "flatten",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "kaiming_normal_fan_out",
    "pair",
    "relu6",
    "standardize",
]
