"""Surgery on models: layers deleted, replaced, inserted, taken out, networks cut short or put together from parts of
others, and features at named points.

`model.edits` of a configuration has the same as fields, see `jaxft.edits`. Everything works on a model with values and
on an abstract one. What is edited is tried out on shapes first, so that what does not work is an error that says which
shapes, and the model is as it was.
"""

from jaxft.surgery.editing import cut, delete, edit, insert, replace
from jaxft.surgery.features import FeatureExtractor, create_feature_extractor
from jaxft.surgery.parts import assemble, extract

__all__ = [
    "FeatureExtractor",
    "assemble",
    "create_feature_extractor",
    "cut",
    "delete",
    "edit",
    "extract",
    "insert",
    "replace",
]
