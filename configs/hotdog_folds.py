"""`hotdog_lite0.py` on the first of five folds of its training photos; the test photos are left for the end.

for fold in 0 1 2 3 4; do
    python -m jaxft.train --config configs/hotdog_folds.py --data.fold $fold --workdir runs/folds/$fold
done
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import replace

config = replace(base, {"data.folds": 5})
