"""Random boxes for the tests of the pieces, and the comparison with PyTorch: values and gradients in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor


def boxes(seed: int, count: int, height: float = 120, width: float = 160, largest: float = 60) -> np.ndarray:
    """`[count, 4]` float32, inside an image of that size."""
    random = np.random.default_rng(seed)
    center = random.uniform(0, 1, (count, 2)) * (width, height)
    half = np.exp(random.uniform(np.log(2), np.log(largest / 2), (count, 2)))
    low, high = np.maximum(center - half, 0), np.minimum(center + half, (width, height))
    return np.concatenate([low, np.maximum(high, low + 1)], 1).astype(np.float32)


def same_as_torch(
    ours: Callable[..., jax.Array],
    theirs: Callable[..., Tensor],
    *arrays: np.ndarray,
    wrt: int = 1,
    limit: float = 1e-9,
) -> None:
    """Both functions give the same values, and the same gradients of a weighted sum by the first `wrt` arrays."""
    with jax.enable_x64(True):
        inputs = [jnp.asarray(array.astype(np.float64) if array.dtype.kind == "f" else array) for array in arrays]
        tensors = [torch.tensor(np.asarray(one)) for one in inputs]
        for tensor in tensors[:wrt]:
            tensor.requires_grad_()
        expected = theirs(*tensors)
        weights = np.random.default_rng(9).normal(size=expected.shape)
        (expected * torch.tensor(weights)).sum().backward()

        def total(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            values = ours(*inputs)
            assert values.shape == weights.shape
            return (values * weights).sum(), values

        gradients, values = jax.jit(jax.grad(total, tuple(range(wrt)), has_aux=True))(*inputs)
        np.testing.assert_allclose(values, expected.detach().numpy(), rtol=limit, atol=limit)
        for gradient, tensor in zip(gradients, tensors[:wrt], strict=True):
            assert tensor.grad is not None
            np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=limit, atol=limit)
