"""What a model is trained to do: one folder a task, which holds all that differs between tasks.

To add a task, write its folder and add its fields to `TaskFields`. Importing this package imports fields alone: no JAX.
"""

from jaxft.tasks.classification import Classification
from jaxft.tasks.detection import Detection
from jaxft.tasks.images import Images
from jaxft.tasks.multilabel import Multilabel
from jaxft.tasks.regression import Regression

__all__ = ["Classification", "Detection", "Images", "TaskFields"]

TaskFields = Classification | Detection | Multilabel | Regression
