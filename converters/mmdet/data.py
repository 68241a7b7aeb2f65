"""The data sets and loaders of an MMDetection configuration: which photos of which files, and how many at a time."""

import os.path
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from converters.mmdet.section import ConfigError, Section, flag, number, text, texts, whole, wholes
from jaxft.parts import ClassBalanced, Concat, Files, Part, Repeat

COCO = (
    *("CocoDataset", "CityscapesDataset", "DeepFashionDataset", "Objects365V1Dataset", "Objects365V2Dataset"),
    *("LVISDataset", "LVISV05Dataset", "LVISV1Dataset"),
)
VOC = ("VOCDataset", "XMLDataset")
MIXING = "MultiImageMixDataset"
WRAPPERS = ("RepeatDataset", "ClassBalancedDataset", "ConcatDataset", MIXING)
# Why data sets of MMDetection's own kinds are not read.
REFUSED = {
    "OpenImagesDataset": "Open Images' CSV files are not read; convert them to COCO's JSON",
    "OpenImagesChallengeDataset": "Open Images' CSV files are not read; convert them to COCO's JSON",
    "DSDLDetDataset": "DSDL's YAML files are not read; convert them to COCO's JSON",
    "WIDERFaceDataset": "WIDER FACE's folders are not read; convert its XML files to COCO's JSON",
}
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# Why entries of a loader or a data set are passed over.
SPEED = "it says how photos are fetched, not which; see --data.workers"
EVALUATION = "the figures of an evaluation do not depend on the order or the batches of its photos"


@dataclass(frozen=True)
class Split:
    """One split: its files, the names of its classes (empty for all that the files name), and its pipeline's steps;
    where photos are mixed, those of each photo by itself, and in `mixed` those that follow."""

    part: Part
    classes: tuple[str, ...]
    pipeline: list[Section]
    where: str
    mixed: list[Section] | None = None


@dataclass(frozen=True)
class Loader:
    """What a training loader says beside its data set: photos of one device in one pass, and whether they change."""

    batch_size: int
    shuffle: bool


def roots(*loaders: Any) -> str:
    """The folder that all data sets of some loaders have in common; `.` where there is none."""
    found = {_path(root) for loader in loaders for root in _roots(loader)}
    try:
        return os.path.commonpath(found) or "."
    except ValueError:  # of none, or of relative and absolute ones
        return "."


def _roots(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "ann_file" in value:
            root = value.get("data_root")
            yield root if isinstance(root, str) and root else "."  # what is no text, `_files` refuses
        for below in (value.get(name) for name in ("dataset", "datasets")):
            yield from _roots(below)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _roots(item)


def training_split(section: Section, root: str, *, infinite: bool) -> tuple[Split, Loader]:
    """The photos to train on; `root` is what `roots` found, `infinite` whether the loop counts iterations."""
    _common(section)
    section.ignore("drop_last", because="an epoch has whole batches; the photos that are left come in another epoch")
    size = section.take("batch_size", whole, 1)
    sampler = section.section("sampler")  # without one MMEngine fails, or, where it is None, does not shuffle
    sampler.type(["DefaultSampler", *(["InfiniteSampler"] if infinite else [])])
    shuffle = sampler.take("shuffle", flag, True)
    sampler.ignore("seed", because="the run's seed decides the order of photos")
    sampler.ignore("round_up", because="jaxft's processes share each batch evenly")
    sampler.done()
    if section.has("batch_sampler"):
        batches = section.section("batch_sampler")
        batches.type(["AspectRatioBatchSampler"])
        batches.ignore("drop_last", because="photos of another shape never fill a batch up")
        batches.done()
    split = _split(section, root, mixes=True)
    return split, Loader(size, shuffle)


def evaluation_split(section: Section, root: str) -> Split:
    """The photos to evaluate; `root` is what `roots` found."""
    _common(section)
    section.ignore("drop_last", "batch_size", "sampler", "batch_sampler", because=EVALUATION)
    return _split(section, root)


def _common(section: Section) -> None:
    section.ignore("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "timeout", because=SPEED)
    section.only(num_batch_per_epoch=None, worker_init_fn=None, multiprocessing_context=None)
    if section.has("collate_fn"):
        function = section.values["collate_fn"]
        collate = section.section("collate_fn") if isinstance(function, Mapping) else Section({}, "")
        if collate.values:
            collate.type(["pseudo_collate"])
            collate.done()
        else:
            section.only(collate_fn="pseudo_collate")


def _split(loader: Section, root: str, *, mixes: bool = False) -> Split:
    section = loader.section("dataset")
    loader.done()
    found: list[Split] = []
    part = _part(section, root, found, mixes=mixes)
    first = found[0]
    for other in found[1:]:
        if other.classes != first.classes:
            key = f"{other.where}.metainfo.classes"
            raise ConfigError(key, key, f"{key} are other classes than those of {first.where}.")
        if [step.values for step in other.pipeline] != [step.values for step in first.pipeline]:
            key = f"{other.where}.pipeline"
            raise ConfigError(key, key, f"{key} is another one than that of {first.where}; jaxft has one for a split.")
    return replace(first, part=part)


def _part(section: Section, root: str, found: list[Split], *, mixes: bool = False) -> Part:
    """The part of a data set; `found` gets the data sets that read files. `mixes` says whether the photos of this one
    may be mixed, because the split has no others."""
    name = str(section.values.get("type", "")).rpartition(".")[2]
    if name in REFUSED:
        key = section.key("type")
        raise ConfigError(key, f"{key} = {name}", f"{key} is {name!r}: {REFUSED[name]}.")
    kind = section.type([*COCO, *VOC, *WRAPPERS])
    section.ignore("lazy_init", because=SPEED)
    if kind == "RepeatDataset":
        times = section.take("times", whole)
        part: Part = Repeat(times=times, part=_part(section.section("dataset"), root, found, mixes=mixes))
    elif kind == "ClassBalancedDataset":
        threshold = section.take("oversample_thr", number)
        inner = _part(section.section("dataset"), root, found)
        part = ClassBalanced(oversample_threshold=threshold, part=inner)
    elif kind == MIXING:
        if not mixes:
            told = "only the whole data set of training can be mixed, and a RepeatDataset may be around it"
            raise section.refused("type", kind, told)
        part = _part(section.section("dataset"), root, found)
        found[:] = [replace(split, mixed=_mixed(section)) for split in found]
    elif kind == "ConcatDataset":
        section.ignore("ignore_keys", because="it names properties of data sets that may differ without harm")
        parts = tuple(_part(item, root, found) for item in section.listed("datasets"))
        part = Concat(parts=parts)
    else:
        split = _files(section, kind, root)
        found.append(split)
        return split.part
    section.done()
    return part


def _mixed(section: Section) -> list[Section]:
    """The steps of a `MultiImageMixDataset` itself, without those that it leaves out."""
    section.only(max_refetch=15)
    skipped = section.take("skip_type_keys", texts, ())
    steps = section.listed("pipeline")
    kinds = [step.values.get("type") for step in steps]
    if absent := [name for name in skipped if name not in kinds]:
        raise section.refused("skip_type_keys", skipped, f"no step of the pipeline is of the type {absent[0]}")
    for step, kind in zip(steps, kinds, strict=True):
        if kind in skipped:
            step.pass_over(str(kind), because="skip_type_keys names it")
    return [step for step, kind in zip(steps, kinds, strict=True) if kind not in skipped]


def _files(section: Section, kind: str, root: str) -> Split:
    """One annotation file and its photos."""
    local_only(section)
    section.only(proposal_file=None, return_classes=False, caption_prompt=None)
    section.ignore("serialize_data", "max_refetch", because=SPEED)
    section.ignore("seg_map_suffix", because="no semantic maps are read")
    where = _path(section.take("data_root", text, ""))
    annotations = _path(section.take("ann_file", text))
    names = section.optional("metainfo")
    classes = names.take("classes", _names, VOC_CLASSES if kind == "VOCDataset" else ())
    names.ignore(*names.values, because="of metainfo only classes is read; MMDetection draws with the rest")
    if kind == "XMLDataset" and not classes:
        key = section.key("metainfo.classes")
        raise ConfigError(key, f"{key} is missing", f"{key} is missing; an XMLDataset must say what its classes are.")
    prefix = section.optional("data_prefix")
    if kind in VOC:
        section.only(img_subdir="JPEGImages", ann_subdir="Annotations")
        folder = os.path.join(where, _path(prefix.take("sub_data_root", text, "")))
        annotations = os.path.relpath(os.path.join(where, annotations), folder)
        where, source, photos = _path(folder), "voc", "."
    else:
        source, photos = "coco", _path(prefix.take("img", text, ""))
        prefix.ignore("seg", because="no semantic maps are read")
        prefix.ignore("sub_data_root", because="of a COCO file's data_prefix only img is read")
    prefix.done()
    part = Files(
        source=source,  # type: ignore[arg-type]
        root=_path(os.path.relpath(where, root)) if os.path.isabs(where) == os.path.isabs(root) else where,
        annotation_file=annotations,
        image_folder=photos,
        indices=section.take("indices", _indices, None),
        **_filter(section, kind),
    )
    pipeline = section.listed("pipeline")
    section.done()
    return Split(part, classes, pipeline, section.path)


def local_only(section: Section) -> None:
    """Refuses `backend_args` of anything but the local disk."""
    section.only(file_client_args=None)
    if section.has("backend_args"):
        backend = section.section("backend_args")
        backend.only(backend="local")
        backend.done()
    section.elsewhere("backend_args")


def _filter(section: Section, kind: str) -> dict[str, Any]:
    """Which photos and objects are left out; MMDetection leaves none out in test mode."""
    if not section.has("filter_cfg"):
        section.ignore("test_mode", because="without a filter_cfg no photo is left out anyway")
    testing = section.take("test_mode", flag, False)
    if testing:
        section.ignore("filter_cfg", because="MMDetection does not filter in test mode")
        return {}
    filters = section.optional("filter_cfg")
    kept = {
        "keep_empty": not filters.take("filter_empty_gt", flag, False),
        "min_side": filters.take("min_size", whole, 0),
    }
    if kind in VOC:
        kept["min_box_side"] = filters.take("bbox_min_size", whole, 0)
    filters.done()
    return kept


def _names(value: Any) -> tuple[str, ...]:
    """A list of names, or a text file with a name a line."""
    if isinstance(value, str) and os.path.isfile(value):
        with open(value, encoding="utf-8") as lines:
            return tuple(line.rstrip("\n\r") for line in lines)
    return texts(value)


def _indices(value: Any) -> int | tuple[int, ...]:
    """A whole number, or a list of them."""
    return wholes(value) if isinstance(value, list | tuple) else whole(value)


def _path(path: str) -> str:
    return os.path.normpath(path) if path else "."


def same_classes(train: Split, others: Sequence[Split]) -> None:
    """Refuses a split that has other classes than the training split."""
    for other in others:
        if other.classes != train.classes:
            key = f"{other.where}.metainfo.classes"
            raise ConfigError(key, key, f"{key} are other classes than those of the training data.")
