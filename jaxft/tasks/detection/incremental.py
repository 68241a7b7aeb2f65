"""Training data of a detector that learns new classes: without the objects of those that it knows."""

from dataclasses import replace

from jaxft.errors import UserError
from jaxft.tasks.detection import Incremental
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.results import category_ids


def new_objects(source: ObjectSource, fields: Incremental) -> tuple[ObjectSource, str]:
    """A source without the objects of its first `old_classes`, and what of it a person should know.

    Raises:
        UserError: there is no new class; or there are such objects, and they are to be refused.
    """
    if fields.old_classes >= len(source.classes):
        raise UserError(
            f"task.incremental.old_classes is {fields.old_classes}, but the data have the {len(source.classes)} "
            f"classes {', '.join(source.classes[:10])}; let data.classes name the old ones first, then new ones."
        )
    known = set(category_ids(source)[: fields.old_classes])
    examples, dropped, photos = [], 0, 0
    for example in source.examples:
        objects = example.objects
        new = objects.labels >= fields.old_classes
        dropped, photos = dropped + int((~new).sum()), photos + int(not new.all())
        shapes = tuple(shape for shape, kept in zip(objects.shapes, new, strict=False) if kept)
        left = objects._replace(**{name: getattr(objects, name)[new] for name in KEPT}, shapes=shapes)
        truth = tuple(entry for entry in example.truth if entry["category_id"] not in known)
        examples.append(example._replace(objects=left, truth=truth))
    names = ", ".join(source.classes[: fields.old_classes][:10])
    said = f"{dropped:,} objects of the old classes {names} in {photos:,} photos"
    if dropped and fields.old_objects == "refuse":
        raise UserError(
            f"{source.where} has {said}, which task.incremental.old_objects refuses; take them out of the file, or set "
            "it to drop, so that the teacher alone says what they look like."
        )
    remark = f"{said} are dropped: the teacher alone says what they look like" if dropped else ""
    return replace(source, examples=tuple(examples)), remark


KEPT = ("boxes", "labels", "ignored", "areas")
"""The arrays of `Objects`, an entry an object."""
