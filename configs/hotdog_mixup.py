"""`hotdog_lite0.py` with RandAugment, mixup and CutMix, against learning few photos by heart.

python -m jaxft.train --config configs/hotdog_mixup.py
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import replace

config = replace(
    base,
    {
        "task.images.policy": "randaugment",
        "task.images.magnitude": 7,
        "task.mixup": 0.2,
        "task.cutmix": 1.0,
        "task.label_smoothing": 0.1,
    },
)
