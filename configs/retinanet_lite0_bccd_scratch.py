"""The network and the photos of `retinanet_lite0_bccd.py` with random first weights, every parameter trained.

    python -m jaxft.train --config configs/retinanet_lite0_bccd_scratch.py --data.root FOLDER
    python -m jaxft.evaluate --run runs/retinanet_lite0_bccd_scratch --split test

BatchNorm's momentum is PyTorch's default: at the network's own, 0.01, the running statistics of 300 steps are not yet
those of the photos.

Seen at an overlap of 0.5 (seed 0): mAP 0.617 on the test photos, 0.681 in val, by the last epoch, which is the best.
Seven of the eight epochs took 14.4 minutes on two cores, compiling included, with other jobs beside it.
"""

from configs.retinanet_lite0_bccd import config as base
from jaxft.config import Phase, Pretrained, Rule, Schedule, replace

config = replace(
    base,
    {
        "model.options": {"momentum": 0.1},
        "pretrained": Pretrained(),
        "phases": (
            Phase(
                epochs=8,
                rules=(Rule(pattern="*"),),
                schedule=Schedule(decay="cosine", unit="step", warmup=50),
            ),
        ),
    },
)
