"""What a split of labeled photos holds, and what is odd in it."""

import numpy as np

from jaxft.data.source import Source
from jaxft.reporting.details import Table
from jaxft.reporting.survey import Survey, unbalanced
from jaxft.tasks.photo_survey import survey_sources


def survey(source: Source, seen: int) -> Survey:
    """Classes and how many examples each has, sizes of photos, and remarks.

    Args:
        seen: the side of what the model sees of a photo, pixels.
    """
    found = [source[index] for index in range(len(source))]
    labels = [int(one.label) for one in found]
    counts = np.bincount(labels, minlength=len(source.classes)).tolist()
    rows = ((name, count, round(count / len(found), 4)) for name, count in zip(source.classes, counts, strict=True))
    classes = Table(name="classes", title="Classes", columns=("class", "examples", "share"), rows=tuple(rows))
    examples, photos = survey_sources(found, (source.classes[label] for label in labels), seen)
    remarks = (*photos.remarks, *unbalanced(source.classes, counts, "examples"))
    return Survey(
        truths=tuple(example.truth for example in examples),
        tables=(classes, *photos.tables),
        plots=photos.plots,
        remarks=remarks,
    )
