"""The sources of photos with objects: COCO's JSON files and PASCAL VOC's folders."""

from jaxft.config import Data
from jaxft.data.download import data_root
from jaxft.errors import UserError
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.dataset import ObjectDataset, evaluation_dataset, training_dataset
from jaxft.tasks.detection.objects import ObjectSource, split_objects
from jaxft.tasks.detection.voc import read_voc


def open_datasets(data: Data, fields: Detection, seed: int) -> tuple[ObjectDataset, ObjectDataset | None]:
    """The training and the validation split, None where there is to be none.

    Raises:
        UserError: annotations are missing or wrong, the splits have other classes, or no photo is left to train on.
    """
    train = open_source(data, fields, data.train, data.classes)
    validation = None
    if data.holdout:
        train, validation = split_objects(train, data.holdout, seed)
    elif data.validation is not None:
        validation = open_source(data, fields, data.validation, data.classes or train.classes)
    kept = [
        index
        for index, example in enumerate(train.examples)
        if min(example.width, example.height) >= fields.min_side
        and (fields.keep_empty or not example.objects.ignored.all())
    ]
    if not kept:
        raise UserError(
            f"{train.where} has no photo to train on: {len(train)} photos, none of which has an object and sides of "
            f"{fields.min_side} pixels (--task.keep-empty, --task.min-side)."
        )
    trained = training_dataset(train.only(kept), fields)
    return trained, None if validation is None else evaluation_dataset(validation, fields)


def open_source(data: Data, fields: Detection, split: str, classes: tuple[str, ...]) -> ObjectSource:
    """One split, whose annotations are read; photos are not opened.

    Args:
        classes: those to find; all that the annotations name where it is empty.

    Raises:
        UserError: annotations are missing or wrong, or the source is not one of detection.
    """
    if data.source not in ("coco", "voc"):
        raise UserError(
            f"The task is detection, which takes the data sources coco and voc; {data.source!r} is neither of them."
        )
    root = data_root(data)
    if data.single_class is not None:
        classes = data.classes
    if data.source == "voc":
        if fields.masks:
            raise UserError("The data source 'voc' has no masks; set --task.no-masks or convert the data to COCO.")
        source = read_voc(root, split, classes)
    else:
        file = root / (data.annotation_file or "annotations/instances_{split}.json").replace("{split}", split)
        photos = root / data.image_folder.replace("{split}", split)
        source = read_coco(file, photos, classes, masks=fields.masks, complete=not data.classes)
    return source if data.single_class is None else source.as_one_class(data.single_class)
