"""What a split of photos with several labels holds, and what is odd in it."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.source import Source
from jaxft.reporting.details import Table
from jaxft.reporting.survey import Survey, histogram, remark, unbalanced
from jaxft.tasks.photo_survey import survey_sources


def survey(source: Source, seen: int) -> Survey:
    """How many photos have each label, how many labels a photo has, sizes of photos, and remarks.

    Args:
        seen: the side of what the model sees of a photo, pixels.
    """
    found = [source[index] for index in range(len(source))]
    targets = np.stack([np.asarray(one.label) for one in found]) > 0
    counts = targets.sum(axis=0).tolist()
    rows = ((name, count, round(count / len(found), 4)) for name, count in zip(source.classes, counts, strict=True))
    labels = Table(name="classes", title="Labels", columns=("label", "photos", "share"), rows=tuple(rows))
    examples, photos = survey_sources(found, (written_labels(row, source.classes) for row in targets), seen)
    none = [example for example in examples if not example.truth]
    remarks = (
        *photos.remarks,
        *remark("none", f"Photos without a label: {len(none):,}", none),
        *unbalanced(source.classes, counts, "photos"),
    )
    each = histogram("labels", "Labels of a photo", "labels", targets.sum(axis=1).tolist(), "photos", whole=True)
    return Survey(
        truths=tuple(example.truth for example in examples),
        tables=(labels, *photos.tables),
        plots=(each, *photos.plots),
        remarks=remarks,
    )


def written_labels(labels: np.ndarray, names: Sequence[str]) -> str:
    """The labels that a photo has, of 0 or 1 for each name."""
    return ", ".join(name for name, has in zip(names, labels, strict=True) if has > 0)
