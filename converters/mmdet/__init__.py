"""MMDetection's configurations as models and runs of this project: `create_model("faster-rcnn_r50_fpn_1x_coco.py")`.

`model` puts a detector together; `backbones`, `necks`, `dense`, `roi` and `values` read its parts, `section` is what
they read from. `training` puts a run together; `data`, `pipeline`, `schedule`, `optimizer`, `rules`, `hooks`,
`evaluation` and, for what is left, `runner` read its parts. `file` opens a configuration with MMEngine, which nothing
else imports. `spelling` knows the legacy keys, `coverage` surveys whole trees.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.mmdet.model import class_counts, create_model, model_dict, parse, with_classes
    from converters.mmdet.training import Reading, read_config

__all__ = ["Reading", "class_counts", "create_model", "model_dict", "parse", "read_config", "with_classes"]


def __getattr__(name: str) -> Any:
    # These pull in JAX, which `file` and `spelling` do without.
    if name in __all__:
        from converters.mmdet import model, training

        return getattr(training if name in ("Reading", "read_config") else model, name)
    raise AttributeError(f"module 'converters.mmdet' has no attribute {name!r}")
