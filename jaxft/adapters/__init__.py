"""Adapters as fields: small parts that are added to a frozen network and train in its place."""

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """Low-rank additions to linear layers, convolutions and self-attention (https://arxiv.org/abs/2106.09685)."""

    rank: int = pydantic.Field(default=0, ge=0)
    """Channels of an addition; 0 for none."""
    alpha: float = pydantic.Field(default=16.0, gt=0)
    """Additions are multiplied by alpha / rank."""
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Dropout of their input, in training."""
    patterns: tuple[str, ...] = pydantic.Field(default=("*",), min_length=1)
    """Which layers get one: paths or shell-style patterns, as of `Rule`. The head gets none, since it trains whole."""
