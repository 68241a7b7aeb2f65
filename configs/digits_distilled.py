"""The handwritten digits of `digits.py` on a small network from scratch, which a finished run of that teaches.

python -m jaxft.train --config configs/digits.py
python -m jaxft.train --config configs/digits_distilled.py
"""

from configs.digits import config as base
from jaxft.config import Distillation, Model, Phase, Pretrained, Rule, Schedule, replace

config = replace(
    base,
    {
        "model": Model(name="shufflenet_v2_x0_5"),
        "pretrained": Pretrained(),
        "distillation": Distillation(teacher="run://runs/digits", temperature=4.0, weight=1.0, task_weight=0.5),
        "optimizer.learning_rate": 0.005,
        "phases": (Phase(epochs=8, rules=(Rule(pattern="*"),), schedule=Schedule(decay="cosine", warmup=0.5)),),
    },
)
