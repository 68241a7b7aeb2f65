"""The second of two stages of `gfl_lite0_bccd.py`: platelets, beside the cells that the first one's detector knows.

    python -m jaxft.train --config configs/gfl_lite0_bccd_cells.py --data.root FOLDER
    python -m jaxft.train --config configs/gfl_lite0_bccd_platelets.py --data.root FOLDER

Cells in the training photos are dropped. With `--task.incremental.weight 0` nothing keeps what was known.
`python -m benchmarks.incremental --root FOLDER` measures both.
"""

from configs.gfl_lite0_bccd import config as base
from jaxft.config import replace

config = replace(
    base,
    {
        "pretrained": type(base.pretrained)(),  # the first stage's detector
        "data.classes": ("RBC", "WBC", "Platelets"),
        "task.incremental.teacher": "run://runs/gfl_lite0_bccd_cells",
        "task.incremental.old_classes": 2,
        "task.keep_empty": False,
        "optimizer.learning_rate": 5e-4,
        "phases.0.epochs": 4,
        "phases.0.schedule.warmup": 20,
    },
)
