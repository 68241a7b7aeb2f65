"""Attention of a ViT-B/16 in two forms against PyTorch: `jax.nn.dot_product_attention`, and plain products and softmax.

    python -m benchmarks.attention --batch 16

Forward and backward; a ratio is PyTorch's seconds over ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from jax import Array
from rich.console import Console
from rich.table import Table

from benchmarks.timing import interleaved


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times attention over the tokens of images of 224 pixels in patches of 16."""

    batch: int = 16
    """Images."""
    tokens: int = 197
    """Patches and the class token."""
    heads: int = 12
    """Heads."""
    width: int = 64
    """Channels of a head."""
    rounds: int = 7
    """Timed runs of each program, in turn."""


def plain(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k' / sqrt(width)) v, `[N, T, heads, width]`."""
    scores = jnp.einsum("nqhd,nkhd->nhqk", q / np.float32(np.sqrt(q.shape[-1])), k)
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)


def ours(attention: Callable[[Array, Array, Array], Array], arrays: list[np.ndarray]) -> Callable[[], Any]:
    """The output and the three gradients."""

    @jax.jit
    def run(q: Array, k: Array, v: Array) -> Any:
        y, pull = jax.vjp(attention, q, k, v)
        return y, pull(y)

    placed = [jnp.asarray(array) for array in arrays]
    return lambda: jax.block_until_ready(run(*placed))


def theirs(arrays: list[np.ndarray]) -> Callable[[], Any]:
    """The same by `scaled_dot_product_attention`."""
    q, k, v = (torch.from_numpy(array).permute(0, 2, 1, 3).contiguous().requires_grad_() for array in arrays)

    def run() -> None:
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        torch.autograd.grad(y, (q, k, v), y.detach())

    return run


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    random = np.random.default_rng(0)
    shape = (options.batch, options.tokens, options.heads, options.width)
    arrays = [random.standard_normal(shape).astype(np.float32) for _ in range(3)]
    programs = {
        "PyTorch": theirs(arrays),
        "products and softmax": ours(plain, arrays),
        "jax.nn.dot_product_attention": ours(jax.nn.dot_product_attention, arrays),
    }
    seconds = interleaved(programs, options.rounds)
    table = Table("form", "seconds", "ratio", title=f"attention {shape}, forward and backward")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{seconds['PyTorch'] / value:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
