"""A photo with objects as training sees it, for people."""

from collections import Counter

import numpy as np
from pycocotools import mask as coco_mask

from jaxft.reporting.details import Example, Object
from jaxft.tasks.detection.contours import outline
from jaxft.tasks.detection.dataset import ObjectDataset
from jaxft.tasks.detection.drawing import corners
from jaxft.tasks.task import Fed


def fed_photo(dataset: ObjectDataset, index: int, rng: np.random.Generator) -> Fed:
    """An example after all steps, padded, with the objects that are to be found in it, and those to be ignored."""
    arrays = {name: np.asarray(array) for name, array in dataset.training(index, rng).items()}
    pixels, classes = arrays["image"], dataset.classes
    objects = []
    for place in np.flatnonzero(arrays["valid"] | arrays["ignored"]).tolist():
        ignored = bool(arrays["ignored"][place])
        polygons: tuple[tuple[float, ...], ...] = ()
        if "masks" in arrays:
            inside = np.unpackbits(arrays["masks"][place], axis=-1)[:, : pixels.shape[1]]
            polygons = outline(coco_mask.encode(np.asfortranarray(inside)))
        label = "ignored" if ignored else classes[arrays["label"][place]]
        objects.append(Object(label=label, box=corners(arrays["boxes"][place]), outline=polygons))
    counted = Counter(one.label for one in objects)
    truth = ", ".join(f"{count} {label}" for label, count in counted.most_common()) or "nothing"
    name = dataset.source[index].name
    example = Example(index=index, name=name, truth=truth, predicted="", wrong=0.0, objects=tuple(objects))
    return Fed(pixels, example)
