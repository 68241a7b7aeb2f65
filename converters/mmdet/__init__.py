"""MMDetection's configurations as models of this project: `create_model("faster-rcnn_r50_fpn_1x_coco.py")`.

`model` puts a detector together; `backbones`, `necks`, `dense`, `roi` and `values` read its parts, `section` is what
they read from. `training`, `rules` and `data` read the rest of a run. `file` opens a configuration with MMEngine, which
nothing else imports. `spelling` knows the keys of old, `coverage` surveys whole trees.
"""

from converters.mmdet.model import class_counts, create_model, model_dict, parse, with_classes

__all__ = ["class_counts", "create_model", "model_dict", "parse", "with_classes"]
