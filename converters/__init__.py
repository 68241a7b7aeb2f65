"""PyTorch checkpoints in and out: `load_pretrained` fills a model, `to_torch` writes it back.

`carry_classes` takes rows of a head over by the names of the classes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.carry import carry_classes
    from converters.ledger import Ledger, load_pretrained, to_torch

__all__ = ["Ledger", "carry_classes", "load_pretrained", "to_torch"]


def __getattr__(name: str) -> Any:
    # These pull in JAX. What finds files and reads their tensors does without, and commands call it first.
    if name == "carry_classes":
        from converters import carry

        return carry.carry_classes
    if name in __all__:
        from converters import ledger

        return getattr(ledger, name)
    raise AttributeError(f"module 'converters' has no attribute {name!r}")
