"""The photos of `hotdog_lite0.py` with the head alone, trained from features that are computed once.

    python -m jaxft.train --config configs/hotdog_features.py

Each photo goes through the network in four augmented views, once; then an epoch takes a fraction of a second.
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import Phase, Rule, Schedule, replace

config = replace(
    base,
    {
        "model.options": {"drop_path": 0.0},  # which goes on in frozen blocks, too
        "stored_features": True,
        "data.views": 4,
        "optimizer.learning_rate": 0.01,
        "phases": (
            Phase(
                epochs=20,
                rules=(Rule(pattern="@head"), Rule(pattern="*", frozen=True)),
                schedule=Schedule(decay="cosine"),
                batch_norm="running",
            ),
        ),
        "evaluate_every": 5,
    },
)
