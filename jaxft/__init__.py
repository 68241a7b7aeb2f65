"""jaxft: fine-tune PyTorch vision models in JAX, and take a PyTorch checkpoint home again."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.models import create_model, list_models

__all__ = ["create_model", "list_models"]


def __getattr__(name: str) -> Any:
    # The models pull in JAX. Worker processes that decode photos import `jaxft.data` and should stay light.
    if name in __all__:
        from jaxft import models

        return getattr(models, name)
    raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
