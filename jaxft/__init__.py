"""jaxft: fine-tune PyTorch vision models in JAX, and take a PyTorch checkpoint home again.

`docs/python.md` shows all that is listed here at work.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.ledger import Ledger, load_pretrained, to_torch
    from converters.preprocessing import preprocessing
    from jaxft import surgery
    from jaxft.api import create_model, evaluate, load_run, predict, report, save
    from jaxft.data.arrays import ArrayDataset
    from jaxft.data.preprocessing import Preprocessing
    from jaxft.models import list_models
    from jaxft.training.loop import fit

__all__ = [
    "ArrayDataset",
    "Ledger",
    "Preprocessing",
    "create_model",
    "evaluate",
    "fit",
    "list_models",
    "load_pretrained",
    "load_run",
    "predict",
    "preprocessing",
    "report",
    "save",
    "surgery",
    "to_torch",
]

# Where they are, to be imported when they are asked for: they pull in JAX, which worker processes that decode photos do
# without.
_PLACES = {
    "ArrayDataset": "jaxft.data.arrays",
    "Ledger": "converters.ledger",
    "Preprocessing": "jaxft.data.preprocessing",
    "create_model": "jaxft.api",
    "evaluate": "jaxft.api",
    "fit": "jaxft.training.loop",
    "list_models": "jaxft.models",
    "load_pretrained": "converters.ledger",
    "load_run": "jaxft.api",
    "predict": "jaxft.api",
    "preprocessing": "converters.preprocessing",
    "report": "jaxft.api",
    "save": "jaxft.api",
    "to_torch": "converters.ledger",
}
_MODULES = ("surgery",)


class _Package(ModuleType):
    """This package. `jaxft.evaluate` and `jaxft.predict` are functions here and commands beside it, modules of the same
    name, which Python would put in the functions' place as soon as they are imported."""

    def __getattr__(self, name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"jaxft.{name}")
        if name not in _PLACES:
            raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
        value = getattr(importlib.import_module(_PLACES[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        loaded = {name for name, value in vars(self).items() if getattr(value, "__name__", "") == f"jaxft.{name}"}
        return sorted({*__all__, *loaded, *(name for name in super().__dir__() if name.startswith("__"))})


sys.modules[__name__].__class__ = _Package
