"""Detectors by name, and the parts that they are built from; `PRESETS` of a file are its models.

`backbones`, `necks`, `dense` and `roi` hold the parts under MMDetection's names.
"""

from jaxft.models.detectors import gfl_lite, retinanet_lite, torchvision

FAMILIES = (gfl_lite, retinanet_lite, torchvision)
