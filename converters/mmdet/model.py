"""MMDetection's configurations as models of this project: `create_model("faster-rcnn_r50_fpn_1x_coco.py")`.

Every setting of a `model` dict is taken, checked to be the one that is built, or an error that names its key. Each
function below turns one part of it into a constructor that only lacks `rngs`, so that nothing is drawn before all of it
is understood.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flax import nnx

from converters.mmdet import values
from converters.mmdet.backbones import backbone
from converters.mmdet.dense import dense_head, rpn_head
from converters.mmdet.file import read
from converters.mmdet.incremental import plain
from converters.mmdet.initial import Part as Initial
from converters.mmdet.initial import planned, read_initial
from converters.mmdet.necks import neck
from converters.mmdet.roi import roi_head
from converters.mmdet.section import ConfigError, Ignored, Part, Section, whole
from jaxft.errors import UserError
from jaxft.initialization.drawing import fill
from jaxft.models.detectors.detector import SingleStage, TwoStage
from jaxft.models.streams import initial_rngs

SINGLE_STAGE = {"RetinaNet": "RetinaHead", "FCOS": "FCOSHead", "ATSS": "ATSSHead", "GFL": "GFLHead"}
TWO_STAGE = ("FasterRCNN", "MaskRCNN", "CascadeRCNN")
WITHOUT_KEYS = {"train_cfg", "test_cfg", "data_preprocessor", "init_cfg", "loss_bbox", "loss_mask", "bbox_coder"}
WITHOUT_KEYS |= {"frozen_stages", "norm_eval", "requires_grad", "style", "roi_layer"}


def create_model(
    config: str | Path | Mapping[str, Any], *, num_classes: int | None = None, rngs: nnx.Rngs | None = None
) -> nnx.Module:
    """The detector that an MMDetection configuration describes, under MMDetection's names, freshly initialized.

    Args:
        config: a configuration file, `mmdet::NAME` for one of the installed package, or its `model` dict.
        num_classes: in the place of the configuration's own numbers, in every head.
        rngs: where initial values and sampling draw from; seed 0 where it is None.

    Raises:
        UserError: the file cannot be read, or something in it is not built; the message names its key.
    """
    return parse(config, num_classes)(rngs=rngs or nnx.Rngs(0))


def parse(
    config: str | Path | Mapping[str, Any], num_classes: int | None = None, ignored: list[Ignored] | None = None
) -> Part:
    """The detector's constructor, which takes `rngs` alone.

    `ignored` collects what of the configuration is passed over; the other arguments are those of `create_model`.
    """
    model = model_dict(config)
    section = Section(with_classes(model, num_classes), "model", ignored)
    section.elsewhere("init_cfg")  # `initial` reads it, here and below
    _check_levels(section)
    kind = section.type([*TWO_STAGE, *SINGLE_STAGE, "RPN"])
    divisor = _divisor(section)
    parts: dict[str, Any] = {"backbone": backbone(section), "neck": neck(section)}
    if kind in TWO_STAGE:
        parts |= _two_stage(section, kind, divisor)
    elif kind == "RPN":
        train, test = section.section("train_cfg"), section.section("test_cfg")
        parts["bbox_head"] = rpn_head(section, train.section("rpn"), test.section("rpn"), divisor)
        train.ignore("rpn_proposal", because="an RPN alone has no second stage")
        train.done()
        test.done()
    else:
        parts["bbox_head"] = dense_head(section, SINGLE_STAGE[kind], divisor)
    section.done()
    initial = read_initial(with_classes(model, num_classes), section.ignored)
    detector = partial(_assemble, TwoStage if kind in TWO_STAGE else SingleStage, parts, initial)
    if any(part.rules for part in initial):
        _check_initial(detector)
    return detector


def _check_initial(detector: Part) -> None:
    """Refuses rules that do not fit the layers, which takes the model to know; most files have none."""
    try:
        nnx.eval_shape(lambda: detector(rngs=initial_rngs(0)))
    except UserError as error:
        raise ConfigError("init_cfg", "init_cfg does not fit the model", f"init_cfg: {error}") from error


def _two_stage(parent: Section, kind: str, divisor: int | None) -> dict[str, Any]:
    train, test = parent.section("train_cfg"), parent.section("test_cfg")
    parts: dict[str, Any] = {
        "rpn_head": rpn_head(parent, train.section("rpn"), test.section("rpn"), divisor),
        "rpn_proposal": None,
    }
    if train.has("rpn_proposal"):
        parts["rpn_proposal"] = values.selection(train.section("rpn_proposal"))
    train.elsewhere("rpn_proposal")
    parts["roi_head"] = roi_head(parent.section("roi_head"), train, test, cascade=kind == "CascadeRCNN")
    train.done()
    test.done()
    return parts


def _assemble(
    detector: type[nnx.Module], parts: Mapping[str, Any], initial: Sequence[Initial], *, rngs: nnx.Rngs
) -> nnx.Module:
    made = detector(**{name: part(rngs=rngs) if callable(part) else part for name, part in parts.items()})
    if drawn := planned(made, initial):  # or else no key is taken
        fill(made, drawn, rngs.params())
    return made


def model_dict(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The `model` of a configuration: of a file, of a whole configuration, or the dictionary itself. Of one that learns
    new classes beside an old detector's the new one."""
    whole_config = read(config) if isinstance(config, str | Path) else config
    found = whole_config if "type" in whole_config else whole_config.get("model")
    if not isinstance(found, Mapping):
        where = config if isinstance(config, str | Path) else "This configuration"
        raise UserError(f"{where} has no `model` dict, as configurations of MMDetection have.")
    beside = whole_config.get("data_preprocessor") if found is not whole_config else None
    # MMEngine's runner gives a model the one of the file where it has none.
    return ({"data_preprocessor": beside} if beside else {}) | plain(found)


def structure(value: Any) -> str:
    """What the keys of a `model` dict depend on, as text: all but training, tests, losses and first values."""
    if isinstance(value, Mapping):
        return str({key: structure(item) for key, item in sorted(value.items()) if key not in WITHOUT_KEYS})
    return str([structure(item) for item in value]) if isinstance(value, list | tuple) else repr(value)


def class_counts(model: Mapping[str, Any]) -> dict[str, int]:
    """The number of classes of each head that has one, by its dotted path."""
    return {path: head.get("num_classes", 80) for path, head in _heads(model) if isinstance(head, Mapping)}


def with_classes(model: Mapping[str, Any], num_classes: int | None) -> dict[str, Any]:
    """A copy of a `model` dict with another number of classes in every head.

    Raises:
        UserError: `num_classes` is None and the heads do not agree.
    """
    changed = copy.deepcopy(dict(model))
    if num_classes is not None:
        for _, head in _heads(changed):
            head["num_classes"] = num_classes
    elif len(set(map(str, (counts := class_counts(model)).values()))) > 1:
        listed = ", ".join(f"{path}.num_classes = {count}" for path, count in counts.items())
        raise ConfigError(next(iter(counts)), "heads of different numbers of classes", f"The heads disagree: {listed}.")
    return changed


def _heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    roi_head = model.get("roi_head")
    places = [("model.bbox_head", model.get("bbox_head"))]
    if isinstance(roi_head, Mapping):
        places += [(f"model.roi_head.{name}", roi_head.get(name)) for name in ("bbox_head", "mask_head")]
    for path, found in places:
        if isinstance(found, Mapping):
            yield path, found
        elif isinstance(found, list | tuple):
            yield from ((f"{path}.{index}", head) for index, head in enumerate(found))


def _divisor(section: Section) -> int | None:
    """What the sides of padded photos are multiples of; None where all are padded to one size."""
    given = section.has("data_preprocessor")
    preprocessor = section.optional("data_preprocessor")  # `preprocessing` reads the rest of it
    if not given:
        return 32
    kinds = [step.values.get("type") for step in preprocessor.listed("batch_augments")]
    return None if "BatchFixedSizePad" in kinds else preprocessor.take("pad_size_divisor", whole, 1)


def _check_levels(model: Section) -> None:
    """Refuses a dense head whose strides are for another number of maps than the neck puts out."""
    neck = model.values.get("neck")
    count = neck.get("num_outs") if isinstance(neck, Mapping) else None
    for name in ("rpn_head", "bbox_head"):
        head = model.values.get(name)
        if not isinstance(head, Mapping) or count is None:
            continue
        anchors = head.get("anchor_generator")
        within, owner = (".anchor_generator", anchors) if isinstance(anchors, Mapping) else ("", head)
        strides = owner.get("strides")
        if isinstance(strides, list | tuple) and len(strides) != count:
            key = model.key(f"{name}{within}.strides")
            raise ConfigError(
                key,
                f"{key} does not fit the neck",
                f"{key} is {list(strides)}, for {len(strides)} maps, but model.neck.num_outs is {count}.",
            )
