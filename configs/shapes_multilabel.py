"""Which shapes a picture shows: labels of generated pictures, of which each has none to three; nothing to download.

python -m jaxft.train --config configs/shapes_multilabel.py
"""

from configs.shapes_regression import config as base
from configs.shapes_regression import images
from jaxft.config import replace
from jaxft.tasks.multilabel import Multilabel

config = replace(base, {"task": Multilabel(images=replace(images, {"flip": 0.5})), "phases.0.epochs": 4})
