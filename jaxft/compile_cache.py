"""Compiled programs kept on the disk, so that a second start of the same run does not wait."""

import os

import jax

from jaxft.download import cache_folder


def enable_compile_cache() -> None:
    """Turns on JAX's persistent compilation cache in jaxft's cache folder, unless the user has chosen one."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
