"""Blood cells: GFL on EfficientNet-Lite0's ImageNet weights, at 240 x 180 pixels; see `retinanet_lite0_bccd.py`.

    python -m jaxft.train --config configs/gfl_lite0_bccd.py --data.root FOLDER

All three classes at once; `gfl_lite0_bccd_cells.py` and `gfl_lite0_bccd_platelets.py` learn them in two stages.
"""

from configs.retinanet_lite0_bccd import config as base
from jaxft.config import replace

config = replace(
    base,
    {
        "model.name": "gfl_efficientnet_lite0_fpn",
        "task.scales": ((240, 180),),
        "task.test_scale": (240, 180),
    },
)
