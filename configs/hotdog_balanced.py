"""`hotdog_lite0.py` for photos of which one class is rare: its photos are repeated, each augmented anew.

    python -m jaxft.train --config configs/hotdog_balanced.py

The best epoch is the one with the best balanced accuracy, in which a rare class counts as much as the others.
`--data.balance none --task.class-weights balanced` weighs the loss instead.
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import replace

config = replace(base, {"data.balance": "oversample", "best_metric": "balanced_accuracy"})
