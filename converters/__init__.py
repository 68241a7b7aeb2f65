"""PyTorch checkpoints in and out: `load_pretrained` fills a model, `to_torch` writes it back."""

from converters.ledger import Ledger, load_pretrained, to_torch

__all__ = ["Ledger", "load_pretrained", "to_torch"]
