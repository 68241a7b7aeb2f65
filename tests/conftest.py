"""What every test runs under: two CPU devices, no silent rank promotion, a compile cache of the tests' own.

Each worker of pytest-xdist has its own cache: JAX writes entries in place, and another could read half of one.
"""

import gc
import os
from pathlib import Path

# Before JAX is imported, and inherited by the commands that tests start.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).parent.parent / ".pytest_cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
)
# Programs of tests run a few times: LLVM's last optimizations would take longer than they save, and cutting a program
# in parts to compile them side by side costs more than it gives where each core has a worker already.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault(
    "JAXFT_MALLOC", "0"
)  # what a test starts need not start again; tests/test_memory.py looks at that

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many small objects that live on; looking through all of them again and again took a sixth of its time.
gc.set_threshold(100_000, 50, 100)
