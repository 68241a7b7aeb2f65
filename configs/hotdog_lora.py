"""The photos of `hotdog_lite0.py`: the network frozen, low-rank additions to its convolutions trained in its place.

    python -m jaxft.train --config configs/hotdog_lora.py
    python -m jaxft.export --run runs/hotdog_lora --format peft --output hotdog_adapter

`--format torch` merges the additions into the network.
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import Lora, Phase, Rule, Schedule, replace

config = replace(
    base,
    {
        "model.lora": Lora(rank=4, alpha=8, patterns=("_blocks.[5-9]", "_blocks.1[0-5]", "_conv_head")),
        "phases": (
            Phase(
                epochs=5,
                rules=(
                    Rule(pattern="@head", lr_scale=50.0),
                    Rule(pattern="*.lora", lr_scale=50.0),
                    Rule(pattern="*", frozen=True),
                ),
                schedule=Schedule(decay="cosine"),
            ),
        ),
    },
)
