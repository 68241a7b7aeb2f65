"""Where models draw their initial values from while they are traced."""

import jax
from flax import nnx
from jax import Array

# To be given to `jax.jit`: of what runs once, LLVM's optimizations would take longer than they save. (XLA's older code
# generator, xla_cpu_use_fusion_emitters=False, would take another third off. But with it the gradient of the first
# kernel of a small VGG with BatchNorm was off by 2e-3 in float64; why, has not been found.)
QUICK = {"xla_backend_optimization_level": 0}


class CountedStream(nnx.RngStream):
    """Draws what `nnx.RngStream` draws, and counts in Python.

    Flax counts in an array. Under a trace each count asks that array for its device, and JAX searches all that was
    traced so far for an answer: three quarters of the time to build an abstract EfficientNet-B4.
    """

    def __init__(self, key: Array, *, tag: str) -> None:
        super().__init__(key, tag=tag)
        self.drawn = 0

    def __call__(self) -> Array:
        self.drawn += 1
        return jax.random.fold_in(self.key[...], self.drawn - 1)

    def fork(self) -> nnx.RngStream:  # type: ignore[override]
        """A stream of Flax' own, which a model keeps for its dropout."""
        return nnx.RngStream(self(), tag=self.tag)


def initial_rngs(seed: int | Array) -> nnx.Rngs:
    """What a builder takes as its `rngs`: the streams of `nnx.Rngs(seed)`, quick under a trace; or those of a key."""
    rngs = nnx.Rngs(0)
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    rngs.default = CountedStream(key, tag="default")  # type: ignore[attr-defined]
    return rngs
