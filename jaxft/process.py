"""How a process is set up before it computes: compiled programs are kept on the disk, freed memory in the process."""

import ctypes
import os
import sys

import jax

from jaxft.download import cache_folder

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def prepare() -> None:
    """What every command does first. The environment's own settings of JAX's compilation cache win."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tells glibc's malloc to keep what is freed instead of giving it back to the kernel. Elsewhere, does nothing.

    XLA allocates the temporaries of a step on the CPU at its start and frees them at its end. By default each step then
    pays for mapping and clearing the same gigabytes page by page. The process keeps its peak memory.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20), (M_ARENA_MAX, 1)):
        mallopt(parameter, value)
