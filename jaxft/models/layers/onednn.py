"""oneDNN in XLA's programs for CPUs: what a program is compiled with to have it, and what is traced for it.

The kernels of oneDNN (https://github.com/uxlfoundation/oneDNN) are those that PyTorch has. jaxlib's wheels for Linux
hold them from 0.12 on, but turned off, and take them for convolutions of forward shape only. A program that is to have
them is traced otherwise, too, which is why both belong to the program and not to the process.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

SWITCH = "JAXFT_ONEDNN"  # 0 leaves oneDNN off
P = ParamSpec("P")
R = TypeVar("R")
Option = bool | int | float | str

# YNNPACK keeps the reductions, where it is fast, and leaves convolutions and products to oneDNN.
_OPTIONS: dict[str, Option] = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_use_onednn": False,
    "xla_cpu_use_xnnpack": False,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}
_traced: ContextVar[bool] = ContextVar("traced for oneDNN", default=False)


def compiled(
    lowered: jax.stages.Lowered, platform: str, options: Mapping[str, Option] = MappingProxyType({})
) -> jax.stages.Compiled:
    """Compiles what was traced by `for_onednn`, for `platform`; with further `options`, as of `jax.jit`."""
    if platform != "cpu" or not available():
        return lowered.compile(compiler_options=dict(options))
    return _compiled(lowered, options)


def _compiled(lowered: jax.stages.Lowered, options: Mapping[str, Option]) -> jax.stages.Compiled:
    with _kept_nowhere:
        return lowered.compile(compiler_options={**_OPTIONS, **options})


class _KeptNowhere:
    """Within, no thread writes a program to the compilation cache: jaxlib 0.12 takes a call of oneDNN for one of
    another kind there, and reads what is not its memory."""

    _SETTING = "jax_persistent_cache_min_compile_time_secs"

    def __init__(self) -> None:
        self._lock, self._entered, self._before = threading.Lock(), 0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._entered:
                self._before = getattr(jax.config, self._SETTING)
                jax.config.update(self._SETTING, math.inf)
            self._entered += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                jax.config.update(self._SETTING, self._before)


_kept_nowhere = _KeptNowhere()


@cache
def available() -> bool:
    """Whether jaxlib runs convolutions by oneDNN: a small one is compiled to see it. No with JAXFT_ONEDNN=0."""
    if os.environ.get(SWITCH) == "0":
        return False

    def convolution(x: Array) -> Array:
        return lax.conv_general_dilated(x, x[:1], (1, 1), "SAME", dimension_numbers=("NHWC", "OHWI", "NHWC"))

    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.enable_x64(False):
            lowered = jax.jit(convolution).lower(jax.ShapeDtypeStruct((4, 8, 8, 16), jnp.float32))
        return "__onednn$convolution" in (_compiled(lowered, {}).as_text() or "")
    except RuntimeError:  # JAX is told to know no CPU; or an option has another name, or none, in this jaxlib
        return False


def traced_for() -> bool:
    """Whether the program that is traced now is to have oneDNN."""
    return _traced.get()


def for_onednn(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, traced in the forms that are fast in programs that `compiled` compiles for CPUs. Where there is no
    oneDNN it stays as it is."""

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

    A product of many matrices to which something broadcast is added becomes one call that oneDNN has no kernel for, and
    takes ten times as long. What is summed up becomes a part of the sum, which is YNNPACK's, and not oneDNN's. And of a
    convolution times the sigmoid of something else jaxlib 0.12 makes one call of convolution and SiLU, which is wrong:
    so is the gradient of SiLU after a convolution.
    """
    if not traced_for():
        return x
    same: Any = lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
    return same
