"""The page about data: what they are, what the model is fed, what occurs twice or is odd, which labels may be wrong."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxft.activity import doing
from jaxft.config import Config
from jaxft.data.cores import on_all_cores
from jaxft.data.dataset import Dataset, name_and_truth
from jaxft.data.duplicates import Member, find_duplicates
from jaxft.data.photo import ImageData
from jaxft.data.photo import Photo as Stored
from jaxft.errors import UserError
from jaxft.pages.photos import LARGE, SHOWN, SMALL
from jaxft.places import write_whole
from jaxft.reporting.details import Example, printable, worst_first
from jaxft.reporting.page import Block, Gallery, Note, Page, Photo, Section, embedded, link_to, render
from jaxft.reporting.survey import Survey
from jaxft.run import RunDirectory
from jaxft.tasks.task import Fed, Task

GROUPS = 40
"""Groups of duplicates in a gallery at most."""


@dataclass(frozen=True)
class Split:
    """A split with what was found in it; `names` without the ground truth."""

    dataset: Dataset
    survey: Survey
    names: Sequence[str]


def write_browse(config: Config, run: RunDirectory | None, file: Path) -> Iterator[str]:
    """Writes the page, and says in a line each what is in it that a person should look at.

    Args:
        run: a run on these data, for suspicious labels.

    Raises:
        UserError: the data cannot be listed, the run has no evaluation, or the page cannot be written.
    """
    task, data = config.task.task(config.dtype), config.data
    with doing("listing the data"):
        train, validation = task.datasets(data, config.seed)
    held_out = f"{data.train} (held out)" if data.holds_out else str(data.validation)
    datasets = {data.train: train} | ({} if validation is None else {held_out: validation})
    splits = {name: _split(task, config, name, dataset) for name, dataset in datasets.items()}
    names = {name for split in splits.values() for name in split.names}
    labels = [] if run is None else [_suspicious(run, names)]
    groups = find_duplicates({name: _images(task, split.dataset) for name, split in splits.items()})
    sections = [
        *(_data(task, number, name, split) for number, (name, split) in enumerate(splits.items(), 1)),
        _duplicates(task, splits, groups),
        _fed(task, train, config.seed),
        *labels,
    ]
    kinds = f"{config.task.kind}, {' and '.join(f'{len(each.names):,} in {name}' for name, each in splits.items())}"
    page = Page(f"Data: {data.root}", kinds, sections)
    try:
        write_whole(file, render(page).encode(errors="replace"))
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error}); choose another --output.") from error
    for name, split in splits.items():
        for remark in split.survey.remarks:
            yield f"{name}: {remark.title}"
    yield from (note.text for note in sections[len(splits)].blocks if isinstance(note, Note))


def _split(task: Task, config: Config, name: str, dataset: Dataset) -> Split:
    """A split as its files have it, where nothing is cut off it or repeated: what is trained on may lack what only
    the file says, such as boxes that were left out."""
    data = config.data
    if name == data.train and not data.holds_out and data.subset == 1 and data.balance == "none" and not data.splits:
        dataset = task.dataset(data, name, dataset.classes)
    return Split(dataset, task.survey(dataset), [printable(name_and_truth(line)[0]) for line in dataset.names()])


def _images(task: Task, dataset: Dataset) -> list[ImageData]:
    return [task.stored(dataset, index) for index in range(len(dataset))]


def _data(task: Task, number: int, name: str, split: Split) -> Section:
    """A split: tables, plots, and what is odd with photos of it."""
    survey = split.survey
    blocks: list[Block] = [*survey.tables, *survey.plots]
    for remark in survey.remarks:
        if not remark.examples:
            blocks.append(Note(f"{remark.title}.", warning=True))
            continue
        with doing(f"reading photos of {name}"):
            photos = [_photo(task, split.dataset, one) for one in remark.examples]
        more = f"{len(photos)} of {remark.count:,} photos" if remark.count > len(photos) else ""
        blocks.append(Gallery(remark.title, photos, more))
    return Section(f"split-{number}", f"Split {name}: {len(split.names):,} examples", blocks)


def _photo(task: Task, dataset: Dataset, example: Example) -> Photo:
    """An example as it is stored, with its objects."""
    lines = tuple(line for line in (example.name, f"is {example.truth}", example.predicted) if line.strip())
    if not example.objects:
        return _drawn(task.stored(dataset, example.index), example, lines)
    try:
        pixels = task.photo(dataset, example.index)  # as its objects were measured
    except UserError:
        return Photo("", lines, link=link_to(example.file))
    size = (pixels.shape[1], pixels.shape[0])
    return Photo(embedded(pixels, LARGE), lines, link=link_to(example.file), size=size, objects=example.objects)


def _drawn(image: ImageData, example: Example, lines: tuple[str, ...], *, wrong: bool = False) -> Photo:
    """A stored image, or what is there of it."""
    source, size = "", (0, 0)
    try:
        stored = Stored(image)
        longest = LARGE if example.objects else SMALL
        pixels, _ = stored.pixels(max_shrink=max(stored.width, stored.height) / longest)
        source, size = embedded(pixels, longest), (stored.width, stored.height)
    except UserError:
        pass  # it is said among what cannot be used
    return Photo(source, lines, wrong, link_to(example.file), size, example.objects)


def _fed(task: Task, dataset: Dataset, seed: int) -> Section:
    """Training examples of the first epoch as the model is fed them."""
    places = np.linspace(0, len(dataset) - 1, min(len(dataset), SHOWN)).astype(int).tolist()

    def fed(index: int) -> Fed | str:
        try:
            return task.fed(dataset, index, np.random.default_rng([seed, 0, index]))  # as the loader draws
        except UserError as error:
            return str(error)

    photos, blocks, later = list[Photo](), list[Block](), ""
    for found in on_all_cores(fed, places, "augmenting"):
        if isinstance(found, str):
            blocks.append(Note(found, warning=True))
            continue
        later, example, (height, width) = found.later, found.example, found.pixels.shape[:2]
        source = embedded(found.pixels, LARGE if example.objects else SMALL)
        photos.append(
            Photo(source, (example.name, f"is {example.truth}"), size=(width, height), objects=example.objects)
        )
    text = f"Then {later}." if later else ""
    return Section("fed", "What the model is fed", [Gallery("After augmentation", photos, text), *blocks])


def _duplicates(task: Task, splits: Mapping[str, Split], groups: Sequence[tuple[Member, ...]]) -> Section:
    """Photos that occur more than once: with different labels, in several splits, within one."""
    kinds: dict[str, list[tuple[Member, ...]]] = {
        "Nearly the same photo with different ground truth": [],
        "Photos in several splits": [],
        "Photos twice in one split": [],
    }
    different, several, within = kinds.values()
    for group in groups:
        if len({splits[one.split].survey.truths[one.position] for one in group}) > 1:
            different.append(group)
        elif len({one.split for one in group}) > 1:
            several.append(group)
        else:
            within.append(group)
    blocks: list[Block] = []
    for title, found in kinds.items():
        if not found:
            continue
        photos = [
            photo for number, group in enumerate(found[:GROUPS], 1) for photo in _group(task, splits, group, number)
        ]
        shown = f"The first {GROUPS} of {len(found):,} groups." if len(found) > GROUPS else ""
        blocks += [Note(f"{title}: {len(found):,} groups.", warning=True), Gallery(title, photos, shown)]
    return Section("duplicates", "Duplicates", blocks or [Note("No photo occurs more than once.")])


def _group(task: Task, splits: Mapping[str, Split], group: Sequence[Member], number: int) -> Iterator[Photo]:
    for one in group:
        split = splits[one.split]
        truth, image = split.survey.truths[one.position], task.stored(split.dataset, one.position)
        name = split.names[one.position]
        file = str(image.resolve()) if isinstance(image, Path) else ""
        example = Example(index=one.position, name=name, truth=truth, predicted="", wrong=0.0, file=file)
        where = f"group {number}, {one.split}" + (f", {one.how}" if one.how else "")
        yield _drawn(image, example, (where, name, f"is {truth}"))


def _suspicious(run: RunDirectory, names: Collection[str]) -> Section:
    """The examples that the best model of a run finds most wrong, by their loss: their labels may be."""
    evaluation = run.evaluation()
    if evaluation is None:
        raise UserError(f"{run.path} has no evaluation yet, which says what its model finds wrong; leave --run out.")
    examples = evaluation.details.examples
    if not any(example.name in names for example in examples):
        raise UserError(f"{run.path} was evaluated on other photos, none of which is here; name a run on these data.")
    wrong = [one for one in examples if not one.wrong <= 0]
    ordered = worst_first(wrong)[: 2 * SHOWN]
    photos = []
    for one in ordered:
        lines = (one.name, f"is {one.truth}", f"the model says {one.predicted}")
        off = not one.cells or any(row != column for row, column in one.cells)
        photos.append(_drawn(Path(one.file), one, lines, wrong=off) if one.file else Photo("", lines, off))
    text = f"By the best model of {run.path}, after step {evaluation.step}: is the label right, or the model?"
    return Section("labels", "Suspicious labels", [Gallery("Most wrong", photos, text)])
