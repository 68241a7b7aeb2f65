"""Steps of our detectors as the loop runs them, each prepared to be timed."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.batches import BOXES, MAX_OBJECTS, boxes, classes, masks, pixels
from benchmarks.our_steps import Batch, Step, evaluation_step, training_step
from converters import load_pretrained
from converters.files import read
from jaxft import config
from jaxft.models import BUILDERS, abstract_model, initialize_missing
from jaxft.models.streams import initial_rngs
from jaxft.precision import dtype_of
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.task import DetectionTask

CLASSES = 20
SLOWLY = (config.Rule(pattern="*", lr_scale=1e-3),)


def training(
    model: str, batch: int, height: int, width: int, file: str, precision: str = "float32", steps: int = 1
) -> Step:
    """A detector's training step, `steps` times."""
    network, examples = detector(model, file), photos(model, batch, height, width)
    return training_step(network, task(model, precision), SLOWLY, examples, precision, steps)


def inference(model: str, batch: int, height: int, width: int, file: str) -> Step:
    """A detector's evaluation step."""
    return evaluation_step(detector(model, file), task(model), photos(model, batch, height, width))


def detector(name: str, file: str) -> Any:
    """Our model with the weights of a `.pth`."""
    model = abstract_model(name, CLASSES)
    load_pretrained(model, read(Path(file)))
    initialize_missing(model, lambda: BUILDERS[name](CLASSES, rngs=initial_rngs(0)))
    return model


def task(name: str, precision: str = "float32") -> DetectionTask:
    """What the detector is trained for, on images of the precision's type."""
    return DetectionTask(Detection(masks=has_masks(name)), dtype_of(precision))


def photos(name: str, batch: int, height: int, width: int) -> Batch:
    """Photos of noise with eight objects each, as the loop gives them to a step."""
    corners = boxes(batch, height, width)
    arrays = {
        "image": pixels(batch, height, width),
        "size": np.full((batch, 2), (height, width), np.int32),
        "boxes": corners,
        "label": classes(batch, CLASSES),
        "valid": np.array(np.broadcast_to(np.arange(MAX_OBJECTS) < BOXES, (batch, MAX_OBJECTS))),
        "ignored": np.zeros((batch, MAX_OBJECTS), bool),
    }
    if has_masks(name):
        arrays["masks"] = np.packbits(masks(corners, height, width), axis=-1)
    return jax.tree.map(jnp.asarray, arrays)


def has_masks(name: str) -> bool:
    """Whether the detector learns masks."""
    return name.startswith("maskrcnn")
