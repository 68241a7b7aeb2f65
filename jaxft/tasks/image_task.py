"""What the tasks of one label or target an image share: pixels to outputs, the loss of all heads, drawings, export.

Functions, not a class to inherit from: a task calls what it needs.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.data.dataset import Dataset, ImageDataset, name_and_truth
from jaxft.data.photo import ImageData, file_of
from jaxft.data.source import Source
from jaxft.data.transforms import normalize
from jaxft.errors import UserError
from jaxft.models.layers import Outputs
from jaxft.reporting.details import Cell, Example, Table, printable, to_csv
from jaxft.tasks.images import Images
from jaxft.tasks.task import Fed, Prediction, Predictions, Program

if TYPE_CHECKING:
    from jaxft.reporting.mosaic import Line

SHOWN = 60  # photos in a picture at most


def normalized(pixels: Array, images: Images, dtype: str) -> Array:
    """uint8 `[N, H, W, 3]` -> what the model sees, in `dtype`; floats are taken as normalized already."""
    floating = jnp.issubdtype(pixels.dtype, jnp.floating)
    return jnp.asarray(pixels if floating else normalize(pixels, images.mean, images.std), dtype)


def wide(outputs: Array) -> Array:
    """Outputs in float32, or wider where they are."""
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def total_loss(outputs: Array | Outputs, losses: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The loss of a batch over all heads of a model.

    Args:
        outputs: what the model puts out in training. Auxiliary heads add their loss with the weight that the model
            gives them.
        losses: outputs of a head, `wide`, -> the loss of each example, `[N]`.

    Returns:
        The mean loss, and the main head's outputs, `wide`.
    """
    main, auxiliary, weight = outputs if isinstance(outputs, Outputs) else Outputs(outputs, (), 0.0)
    main = wide(main)
    loss = losses(main).mean()
    for extra in auxiliary:
        loss += weight * losses(wide(extra)).mean()
    return loss, main


def check_outputs(outputs: Array, targets: Array) -> None:
    """Raises a UserError where a model does not put out a number for each target, `[N, targets]`."""
    if outputs.shape != targets.shape:
        raise UserError(
            f"The model puts out an array of the shape {outputs.shape}, but a batch of {targets.shape[0]} images with "
            f"{targets.shape[1]} target(s) each is {targets.shape}."
        )


def image_program(predict: Callable[[Array], Array], images: Images, pad_shape: tuple[int, int] | None) -> Program:
    """A function of uint8 `[N, crop, crop, 3]`, for any N, as it is exported.

    Raises:
        UserError: `pad_shape` is given, which only detectors have a use for.
    """
    if pad_shape is not None:
        raise UserError(
            "The model sees images of one size, task.images.crop; leave out --pad-shape, which is a detector's."
        )
    (count,) = jax.export.symbolic_shape("n")
    return Program(predict, (jax.ShapeDtypeStruct((count, images.crop, images.crop, 3), jnp.uint8),))


def source_of(dataset: Dataset) -> Source:
    """The stored examples behind a dataset.

    Raises:
        UserError: it is a user's own, of whose examples only arrays are known.
    """
    if not isinstance(dataset, ImageDataset):
        raise UserError(
            f"A survey looks at photos as they are stored, but a {type(dataset).__name__} has arrays alone; take one "
            "that the configuration names."
        )
    return dataset.source


def stored_image(dataset: Dataset, index: int) -> ImageData:
    """The image of an example as it is stored; of a user's own dataset what evaluation sees."""
    if isinstance(dataset, ImageDataset):
        return dataset.source[index].image
    return np.asarray(dataset.evaluation(index)["image"])


def file_names(dataset: Dataset, predictions: Predictions) -> list[str]:
    """The name of each example that was predicted."""
    names = example_names(dataset)
    return [names[index] for index in predictions]


def example_names(dataset: Dataset) -> list[str]:
    """The name of every example."""
    return [printable(name_and_truth(line)[0]) for line in dataset.names()]


def example_files(dataset: Dataset, indices: Sequence[int]) -> list[str]:
    """The path of the photo of each of these examples; empty where it has none."""
    if not isinstance(dataset, ImageDataset) or not indices or not file_of(dataset.source[indices[0]].image):
        return [""] * len(indices)  # of records nothing is opened to find that out
    images = (dataset.source[index].image for index in indices)
    return [file_of(image) for image in images]


def write_entries(
    entries: Sequence[Mapping[str, Any]], columns: Sequence[str], rows: Iterable[Sequence[Cell]], folder: Path
) -> None:
    """Writes `predictions.json` of entries, and `predictions.csv` of rows, one an example, into a folder."""
    text = json.dumps(entries, ensure_ascii=False, indent=2)
    (folder / "predictions.json").write_text(text, encoding="utf-8")
    table = Table(name="predictions", title="Predictions", columns=tuple(columns), rows=tuple(map(tuple, rows)))
    (folder / "predictions.csv").write_text(to_csv(table), encoding="utf-8", newline="")


def no_crops(task: str) -> UserError:
    """What is said where objects are to be cut out, and a task finds none."""
    return UserError(f"--crops cuts out the objects that a detector finds, but the task is {task}; leave it out.")


def photo_panel(dataset: Dataset, example: Example, cell: tuple[int, int]) -> np.ndarray:
    """What evaluation sees of an example, as large as it can be in a cell."""
    from jaxft.reporting.mosaic import fitted, pixels_of  # matplotlib takes a while to import

    return fitted(pixels_of(np.asarray(dataset.evaluation(example.index)["image"])), cell)[0]


def fed_image(dataset: Dataset, index: int, rng: np.random.Generator, truth: Callable[[Any], str]) -> Fed:
    """An example as training sees it; `truth` says in words what its label means."""
    from jaxft.reporting.mosaic import pixels_of

    arrays = dataset.training(index, rng)
    own = dataset.source[index].name if isinstance(dataset, ImageDataset) else f"example {index}"
    example = Example(index=index, name=printable(own), truth=truth(arrays["label"]), predicted="", wrong=0.0)
    return Fed(pixels_of(np.asarray(arrays["image"])), example)


def draw_titled(
    dataset: Dataset,
    predictions: Predictions,
    title: "Callable[[Prediction], Sequence[Line]]",
    file: Path,
    plots: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Draws examples as evaluation sees them, each under its name and the lines that `title` makes of its prediction.

    Args:
        plots: pictures to add, by what to write over them.
    """
    from jaxft.reporting.mosaic import Line, mosaic  # matplotlib takes a while to import

    some = dict(list(predictions.items())[:SHOWN])
    images = [np.asarray(dataset.evaluation(index)["image"]) for index in some]
    names = [Line(name, "gray", "start") for name in file_names(dataset, some)]
    titles = [[name, *title(prediction)] for name, prediction in zip(names, some.values(), strict=True)]
    mosaic([*images, *plots.values()], [*titles, *([Line(name)] for name in plots)], file)
