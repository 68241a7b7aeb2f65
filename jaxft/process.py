"""How a process is set up before it computes."""

import os

import jax

from jaxft.download import cache_folder


def prepare() -> None:
    """Keeps compiled programs on the disk, so that a second start does not wait for them.

    The environment's own settings of JAX's compilation cache win.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
