"""The network and the photos of `hotdog.py` with random first weights: what the pretrained ones are worth.

python -m jaxft.train --config configs/hotdog_scratch.py
"""

from configs.hotdog import config as base
from jaxft.config import Pretrained, replace

config = replace(base, {"pretrained": Pretrained(), "phases.0.rules.0.lr_scale": 1.0})
