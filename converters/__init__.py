"""PyTorch checkpoints in and out: `load_pretrained` fills a model, `to_torch` writes it back.

`carry_classes` takes rows of a head over by the names of the classes.
"""

from converters.carry import carry_classes
from converters.ledger import Ledger, load_pretrained, to_torch

__all__ = ["Ledger", "carry_classes", "load_pretrained", "to_torch"]
