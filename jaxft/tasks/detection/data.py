"""The sources of photos with objects: COCO's JSON files and PASCAL VOC's folders, and what is made of several."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxft.config import Data
from jaxft.data.download import data_root
from jaxft.data.source import random_share
from jaxft.errors import UserError
from jaxft.parts import ClassBalanced, Concat, Files, Part, Repeat
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.dataset import ObjectDataset, evaluation_dataset, training_dataset
from jaxft.tasks.detection.evaluator import with_metric
from jaxft.tasks.detection.incremental import new_objects
from jaxft.tasks.detection.objects import ObjectSource, split_objects
from jaxft.tasks.detection.voc import read_voc

COUNTS = ("outside", "flat", "no_area", "set_aside")
"""What an `ObjectSource` counts of its boxes."""


def open_datasets(data: Data, fields: Detection, seed: int) -> tuple[ObjectDataset, ObjectDataset | None]:
    """The training and the validation split, None where there is to be none.

    Raises:
        UserError: annotations are missing or wrong, the splits have other classes, or no photo is left to train on.
    """
    fields = with_metric(fields, data)
    old, validation = fields.incremental.old_classes, None
    if (
        old and data.validation is not None and not data.holds_out
    ):  # its file names old classes, that of new ones may not
        validation = open_source(data, fields, data.validation, data.classes)
    names = data.classes if validation is None else validation.classes
    train = open_source(data, fields, data.train, names, training=True)
    if data.balance != "none":
        raise UserError(
            "data.balance repeats examples of one class each, and photos of objects have several; leave it out, or "
            "give the training split a ClassBalanced in data.splits."
        )
    cuts = [name for name in ("holdout", "folds", "subset") if getattr(data, name) != getattr(Data(), name)]
    if cuts and not isinstance(data.splits.get(data.train), Files | None):
        raise UserError(
            f"data.{cuts[0]} cannot cut the split {data.train!r}, because data.splits repeats its photos or joins "
            f"several files; leave data.{cuts[0]} out."
        )
    if data.holds_out:
        train, validation = split_objects(train, data, seed)
    elif data.validation is not None and validation is None:
        validation = open_source(data, fields, data.validation, train.classes)
    if data.subset < 1:
        train = train.only(np.flatnonzero(random_share(len(train), data.subset, seed)))
    train, remark = new_objects(train, fields.incremental) if old else (train, "")
    kept = train.only(_kept(train, keep_empty=fields.keep_empty, min_side=fields.min_side))
    if not len(kept):
        raise UserError(
            f"{train.where} has no photo to train on: {len(train)} photos, none of which has an object and sides of "
            f"{fields.min_side} pixels (--task.keep-empty, --task.min-side)."
        )
    for source, purpose in ((kept, "train on"), (validation, "evaluate")):
        if source is not None and not any(len(example.objects.labels) for example in source.examples):
            raise UserError(f"{source.where} has no object to find in the {len(source)} photos to {purpose}.")
    # Training reads no entries, which take more memory than all else.
    learned = replace(kept, examples=tuple(example._replace(truth=()) for example in kept.examples))
    trained = replace(training_dataset(learned, fields), remark=remark)
    return trained, None if validation is None else evaluation_dataset(validation, fields)


def open_dataset(data: Data, fields: Detection, split: str, classes: tuple[str, ...]) -> ObjectDataset:
    """One split, to evaluate a model of these classes on.

    Raises:
        UserError: as of `open_source`.
    """
    fields = with_metric(fields, data)
    return evaluation_dataset(open_source(data, fields, split, classes), fields)


def open_source(
    data: Data, fields: Detection, split: str, classes: tuple[str, ...], *, training: bool = False
) -> ObjectSource:
    """One split, whose annotations are read; photos are not opened.

    Args:
        classes: those to find; all that the annotations name where it is empty.
        training: whether photos that `data.splits` repeats are repeated.

    Raises:
        UserError: annotations are missing or wrong, or the source is not one of detection.
    """
    if data.source not in ("coco", "voc"):
        raise UserError(
            f"The task is detection, which takes the data sources coco and voc; {data.source!r} is neither of them."
        )
    if data.single_class is not None:
        classes = data.classes
    part = data.splits.get(split)
    if part is None:
        _check_there(data, split)
        source = _read(data, fields, _by_pattern(data, split), classes)
    else:
        source = _open(data, fields, part if training else _once(part, split), classes)
    source = replace(source, check_how=data.check)
    return source if data.single_class is None else source.as_one_class(data.single_class)


def _check_there(data: Data, split: str) -> None:
    """Refuses the name of a split that neither `data.splits` nor a file has, where there are splits to mean."""
    files = _by_pattern(data, split)
    file = data_root(data) / files.annotation_file
    if data.splits and not file.exists():
        raise UserError(
            f"There is no split {split!r}: data.splits has {', '.join(data.splits)}, and there is no file {file}."
        )


def _by_pattern(data: Data, split: str) -> Files:
    """Where a split is that is not in `data.splits`."""
    if data.source == "voc":
        return Files(annotation_file=f"ImageSets/Main/{split}.txt")
    file = (data.annotation_file or "annotations/instances_{split}.json").replace("{split}", split)
    return Files(annotation_file=file, image_folder=data.image_folder.replace("{split}", split))


def _once(part: Part, split: str) -> Part:
    """A part as evaluation sees it: no photo twice, and from one file, whose ids are those of the results."""
    match part:
        case Repeat() | ClassBalanced():
            return _once(part.part, split)
        case Concat(parts=(inner,)):
            return _once(inner, split)
        case Concat():
            raise UserError(
                f"The split {split!r} joins several files, which is for training; evaluate on one of them, as a split "
                "of its own in data.splits."
            )
    return part


def _open(data: Data, fields: Detection, part: Part, classes: tuple[str, ...]) -> ObjectSource:
    match part:
        case Files():
            source = _small_ignored(_read(data, fields, part, classes), part.min_box_side)
            source = source.only(_kept(source, keep_empty=part.keep_empty, min_side=part.min_side))
            return source if part.indices is None else source.only(_chosen(source, part.indices))
        case Concat():
            first = _open(data, fields, part.parts[0], classes)
            return _joined([first, *(_open(data, fields, inner, first.classes) for inner in part.parts[1:])])
    source = _open(data, fields, part.part, classes)
    positions = np.arange(len(source))
    if isinstance(part, Repeat):
        return source.only(np.tile(positions, part.times))
    factors = repeat_factors([set(example.objects.labels.tolist()) for example in source.examples], part)
    return source.only(np.repeat(positions, [math.ceil(factor) for factor in factors]))


def _read(data: Data, fields: Detection, files: Files, classes: tuple[str, ...]) -> ObjectSource:
    """All photos of one annotation file."""
    root = data_root(data) / Path(files.root).expanduser()
    if (files.source or data.source) == "coco":
        file, photos = root / files.annotation_file, root / files.image_folder
        old = fields.incremental.old_classes
        return read_coco(file, photos, classes, masks=fields.masks, complete=not data.classes, old=old)
    if fields.masks:
        raise UserError("The data source 'voc' has no masks; set --task.no-masks or convert the data to COCO.")
    listing = Path(files.annotation_file)
    if listing.parent != Path("ImageSets/Main") or listing.suffix != ".txt" or files.image_folder != ".":
        raise UserError(
            f"data.splits has the VOC list {files.annotation_file} and the folder {files.image_folder} below {root}; "
            "expected ImageSets/Main/NAME.txt, beside Annotations and JPEGImages, and no image_folder."
        )
    return read_voc(root, listing.stem, classes)


def _small_ignored(source: ObjectSource, least: int) -> ObjectSource:
    """A source whose narrow and low objects are ignored, as by the `bbox_min_size` of MMDetection's `XMLDataset`."""
    if not least:
        return source
    examples = []
    for example in source.examples:
        objects = example.objects
        small = ((objects.boxes[:, 2:] - objects.boxes[:, :2]) < least).any(1)
        examples.append(example._replace(objects=objects._replace(ignored=objects.ignored | small)))
    return replace(source, examples=tuple(examples))


def _kept(source: ObjectSource, *, keep_empty: bool, min_side: int) -> list[int]:
    """The positions of photos that are large enough and, where it matters, have an object. Every entry of the file is
    one, also crowds and what training leaves out, as for MMDetection's `filter_empty_gt`."""
    known = set(source.category_ids)
    return [
        index
        for index, example in enumerate(source.examples)
        if min(example.width, example.height) >= min_side
        and (keep_empty or any(entry["category_id"] in known for entry in example.truth))
    ]


def _chosen(source: ObjectSource, indices: int | tuple[int, ...]) -> list[int]:
    """The positions that MMEngine's `indices` mean."""
    positions = list(range(len(source)))
    if isinstance(indices, int):
        return positions[:indices] if indices >= 0 else positions[indices:]
    if outside := [index for index in indices if not -len(source) <= index < len(source)]:
        raise UserError(
            f"{source.where} has {len(source)} photos, but the indices of data.splits name number {outside[0]}."
        )
    return [positions[index] for index in indices]


def repeat_factors(labels: list[set[int]], part: ClassBalanced) -> list[float]:
    """How often each photo counts (LVIS, arXiv 1908.03195, section 4): as often as its rarest class wants,
    sqrt(threshold / share of the photos that have the class), and at least once.

    Args:
        labels: the classes in each photo.
    """
    counts = Counter(label for found in labels for label in found)
    wanted = {label: math.sqrt(part.oversample_threshold / (count / len(labels))) for label, count in counts.items()}
    return [max([1.0, *(wanted[label] for label in found)]) for found in labels]


def _joined(sources: list[ObjectSource]) -> ObjectSource:
    """One source after the other; all were read for the same classes."""
    return replace(
        sources[0],
        where=" + ".join(dict.fromkeys(source.where for source in sources)),
        examples=tuple(example for source in sources for example in source.examples),
        **{name: sum(getattr(source, name) for source in sources) for name in COUNTS},
    )
