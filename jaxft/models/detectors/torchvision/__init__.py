"""Detectors as torchvision builds them: its anchors, coders, samples, thresholds and norms, as options of our parts.

`num_classes` counts what can be found, without a background. torchvision counts the background of a Faster or Mask
R-CNN in: its 91 are 90 here. Its RetinaNet and FCOS have one output a number and none for a background: 91 are 91.

Parts are called as MMDetection calls them. `torch_names` of a model says what torchvision's keys are, and the converter
asks it.
"""

from jaxft.models.detectors.torchvision.fcos import fcos_resnet50_fpn
from jaxft.models.detectors.torchvision.rcnn import (
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from jaxft.models.detectors.torchvision.retinanet import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

PRESETS = (
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    fcos_resnet50_fpn,
)
