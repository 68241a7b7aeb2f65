"""`hotdog_lite0.py` in five folds of its training photos; the test photos are left for the end.

    python -m jaxft.compare --config configs/hotdog_folds.py --ways given --seeds 0

trains five times, on four fifths each, and prints the mean and the spread over what was left out. One fold alone:

    python -m jaxft.train --config configs/hotdog_folds.py --data.fold 3 --workdir runs/fold3
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import replace

config = replace(base, {"data.folds": 5})
