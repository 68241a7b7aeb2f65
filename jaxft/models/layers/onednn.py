"""oneDNN in XLA's programs for CPUs: what a program is compiled with to have it, and what is traced for it.

The kernels of oneDNN (https://github.com/uxlfoundation/oneDNN) are those that PyTorch has. jaxlib's wheels for Linux
hold them from 0.12 on, but turned off, and take them for convolutions of forward shape only. A program that is to have
them is traced otherwise, too, which is why both belong to the program and not to the process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

P, R = ParamSpec("P"), TypeVar("R")
Options = dict[str, bool | str]

# YNNPACK keeps the reductions, where it is fast, and leaves convolutions and products to oneDNN.
_OPTIONS: Options = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_use_onednn": False,
    "xla_cpu_use_xnnpack": False,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}
_traced: ContextVar[bool] = ContextVar("traced for oneDNN", default=False)


def compiler_options(platform: str) -> Options:
    """What `jax.jit` or `.compile` is given as `compiler_options` for `platform`; nothing where there is no oneDNN."""
    return dict(_OPTIONS) if platform == "cpu" and available() else {}


@cache
def available() -> bool:
    """Whether jaxlib runs convolutions by oneDNN: a small one is compiled to see it."""

    def convolution(x: Array) -> Array:
        return lax.conv_general_dilated(x, x[:1], (1, 1), "SAME", dimension_numbers=("NHWC", "OHWI", "NHWC"))

    with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.enable_x64(False):
        lowered = jax.jit(convolution).lower(jax.ShapeDtypeStruct((4, 8, 8, 16), jnp.float32))
    try:
        return "__onednn$convolution" in (lowered.compile(compiler_options=dict(_OPTIONS)).as_text() or "")
    except jax.errors.JaxRuntimeError:  # an option has another name, or none, in this jaxlib
        return False


def traced_for() -> bool:
    """Whether the program that is traced now will be compiled with `compiler_options`."""
    return _traced.get()


def for_onednn(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, traced in the forms that are fast with `compiler_options`; for platforms other than CPUs, and where
    there is no oneDNN, it stays as it is."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        with _tracing(available()):
            return function(*args, **options)

    return run


@contextmanager
def _tracing(value: bool) -> Iterator[None]:
    token = _traced.set(value)
    try:
        yield
    finally:
        _traced.reset(token)


def apart(x: Array) -> Array:
    """`x`, which a program for oneDNN does not fuse with what is made of it.

    A product of many matrices to which something broadcast is added becomes one call that oneDNN has no kernel for,
    and takes ten times as long.
    """
    if not traced_for():
        return x
    same: Any = lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
    return same
