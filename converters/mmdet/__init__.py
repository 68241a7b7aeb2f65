"""MMDetection's configurations as models of this project: `create_model("faster-rcnn_r50_fpn_1x_coco.py")`.

`model` puts a detector together; `backbones`, `necks`, `dense`, `roi` and `values` read its parts, `section` is what
they read from. `training`, `rules` and `data` read the rest of a run. `file` opens a configuration with MMEngine, which
nothing else imports. `spelling` knows the keys of old, `coverage` surveys whole trees.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.mmdet.model import class_counts, create_model, model_dict, parse, with_classes

__all__ = ["class_counts", "create_model", "model_dict", "parse", "with_classes"]


def __getattr__(name: str) -> Any:
    # These pull in JAX, which `file` and `spelling` do without.
    if name in __all__:
        from converters.mmdet import model

        return getattr(model, name)
    raise AttributeError(f"module 'converters.mmdet' has no attribute {name!r}")
