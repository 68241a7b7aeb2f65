"""What holds layers, constants and the results of classifiers with auxiliary heads."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from flax import nnx
from jax import Array

from jaxft.models.layers.rematerialization import apply_block


class Buffer(nnx.BatchStat):
    """A constant that PyTorch keeps in the state dict, such as a table of indices: neither trained nor tracked."""


class Wide(nnx.Param):
    """A parameter of what is computed in float32 whatever the activations are, such as a bias of attention's logits."""


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
            x = apply_block(layer, x)
        return x


class Named(nnx.Module):
    """Layers applied in order at paths of their own, as a `torch.nn.Sequential` of an `OrderedDict`."""

    ROW = True  # of blocks, and none itself

    def __init__(self, layers: Mapping[str, Callable[[Array], Array]]) -> None:
        self.order = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, x: Array) -> Array:
        """Feeds `x` through every layer."""
        for name in self.order:
            x = apply_block(getattr(self, name), x)
        return x
