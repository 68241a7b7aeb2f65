"""The first of two stages of `gfl_lite0_bccd.py`: red and white cells alone.

python -m jaxft.train --config configs/gfl_lite0_bccd_cells.py --data.root FOLDER
"""

from configs.gfl_lite0_bccd import config as base
from jaxft.config import replace

config = replace(base, {"data.classes": ("RBC", "WBC")})
