"""What `precision` of a configuration means: the type of a model's arithmetic, and how exactly float32 is multiplied.

By itself JAX multiplies float32 matrices as fast as a device can: TPUs round both sides to bfloat16, GPUs to
TensorFloat32. So what is compiled says how it is meant. A CPU multiplies float32 as it stands, whatever is said.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])
Precision = Literal["float32", "tensorfloat32", "bfloat16"]


def dtype_of(precision: str) -> str:
    """The type of a model's arithmetic under a `Precision`; any other type, such as float64, is its own."""
    return "float32" if precision == "tensorfloat32" else precision


def products(precision: str) -> Literal["highest", "high"]:
    """How exactly float32 is multiplied, in JAX's words: `highest` is float32, on a TPU in six passes of bfloat16;
    `high` is TensorFloat32 on a GPU that has it, and three passes on a TPU.

    Under bfloat16 that concerns what stays float32. Products of bfloat16 are as exact in any case.
    """
    return "high" if precision == "tensorfloat32" else "highest"


def described(precision: str) -> str:
    """A line for people: `precision: float32 (highest)`."""
    return f"precision: {precision} ({products(precision)}{' where float32' if precision == 'bfloat16' else ''})"


def precise(function: Function, precision: str) -> Function:
    """`function`, which JAX is to trace, with its products and those of the gradients that it takes as `precision`
    says, unless they say it themselves. Types are left as they are."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        import jax  # a configuration names a precision without JAX

        with jax.default_matmul_precision(products(precision)):
            return function(*args, **options)

    return cast(Function, run)
