"""The network and the photos of `hotdog_lite0.py` with random first weights, every parameter trained.

    python -m jaxft.train --config configs/hotdog_lite0_scratch.py

BatchNorm's momentum is PyTorch's default: at the network's own, 0.01, the running statistics of 155 steps are not yet
those of the photos, and every test photo gets the same class.

Expected on the test photos: 75.5 % (median of seeds 0, 1, 2: 75.5, 73.0, 75.8).
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import Phase, Pretrained, Rule, Schedule, replace

config = replace(
    base,
    {
        "model.options": {"momentum": 0.1},
        "pretrained": Pretrained(),
        "optimizer.learning_rate": 0.01,
        "phases": (Phase(epochs=5, rules=(Rule(pattern="*"),), schedule=Schedule(decay="cosine")),),
    },
)
