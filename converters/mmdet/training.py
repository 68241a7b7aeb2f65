"""An MMDetection configuration as a `jaxft.config.Config`, and what of it has no part in that.

A batch is that of one device and one pass, and the learning rate is the file's, as they stand there; what they become
is decided when the run starts, after what the command line changes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from converters.mmdet import data, pipeline
from converters.mmdet.evaluation import read_evaluators
from converters.mmdet.file import is_mmdet, read
from converters.mmdet.hooks import read_hooks
from converters.mmdet.incremental import read_incremental
from converters.mmdet.initial import checkpoint
from converters.mmdet.model import class_counts, model_dict, parse, with_classes
from converters.mmdet.optimizer import read_wrapper
from converters.mmdet.rules import read_rules
from converters.mmdet.runner import close
from converters.mmdet.schedule import Loop, evaluations, length, read_evaluation_loop, read_loop, read_schedule
from converters.mmdet.section import ConfigError, Ignored, Section, flag, grouped, text, whole
from jaxft.config import Config, Data, Detection, Model, Phase, Pretrained
from jaxft.errors import UserError
from jaxft.fields import explain, replace


@dataclass(frozen=True)
class Reading:
    """A configuration, and the entries of its file that were passed over, each with the reason."""

    config: Config
    ignored: tuple[Ignored, ...] = ()

    def told(self) -> tuple[str, ...]:
        """What was passed over, in lines for a person: one a reason, with the entries; none where nothing was."""
        lines = [f"  {', '.join(keys)}: {reason}." for reason, keys in grouped(self.ignored).items()]
        return ("These settings of the file have no part in the run:", *lines) if lines else ()


def read_config(path: str | Path) -> Reading:
    """What an MMDetection configuration says about a run: every entry has its effect, or is among those passed over.

    Raises:
        UserError: it cannot be read, or holds something that this project does not do; the message names its key.
    """
    return understood(read(path))


def understood(whole_config: Mapping[str, Any]) -> Reading:
    """`read_config` of what a file holds.

    Raises:
        UserError: it holds something that this project does not do; the message names its key.
    """
    ignored: list[Ignored] = []
    try:
        return Reading(_config(whole_config, ignored), tuple(ignored))
    except pydantic.ValidationError as error:
        # Of numbers beyond their range, under the names that they have in jaxft.
        raise ConfigError(error.title, f"{error.title} out of range", explain(error, {})) from error


def _config(whole_config: Mapping[str, Any], ignored: list[Ignored]) -> Config:
    top = Section(whole_config, "", ignored)
    model = with_classes(model_dict(whole_config), None)
    parse(model, None, ignored)
    told = "heads have as many classes as the data"
    ignored += [Ignored(f"{path}.num_classes", count, told) for path, count in class_counts(model).items()]
    whole_model = top.section("model")
    grown = read_incremental(whole_model)
    if "data_preprocessor" in whole_model.values:
        top.ignore("data_preprocessor", because="the model has one of its own")
    top.elsewhere("data_preprocessor")
    evaluated = top.has("val_dataloader")
    loop = read_loop(top.section("train_cfg"), evaluated=evaluated)
    scaling = top.optional("auto_scale_lr")
    wrapper = read_wrapper(top.section("optim_wrapper"), scaling)
    parts = wrapper.optimizer.accumulate
    hooks = read_hooks(top, parts)
    phase = Phase(
        **length(loop, parts), rules=read_rules(model, wrapper.paramwise), schedule=read_schedule(top, loop, parts)
    )
    photos, task = _data(top, model, loop)
    task = replace(task, {f"incremental.{name}": value for name, value in grown.items()})
    config = Config(
        model=Model(mmdet=json.loads(json.dumps(model))),
        pretrained=_pretrained(top, model, grown=bool(grown)),
        data=photos,
        task=task,
        optimizer=wrapper.optimizer,
        phases=(phase,),
        precision=wrapper.precision,  # type: ignore[arg-type]
        auto_scale_lr=scaling.take("enable", flag, False),
        seed=_seed(top),
        **hooks,
        **(evaluations(loop, parts) if evaluated else {}),
    )
    scaling.done()
    close(top)
    return config


def _data(top: Section, model: Mapping[str, Any], loop: Loop) -> tuple[Data, Detection]:
    """Which photos, how they become arrays, and how what is found in them is judged."""
    masks = bool((model.get("roi_head") or {}).get("mask_head"))
    alone = model.get("type") == "RPN"
    names = [name for name in ("val", "test") if top.has(f"{name}_dataloader")]
    root = data.roots(*(top.values.get(f"{name}_dataloader") for name in ("train", *names)))
    train, loader = data.training_split(top.section("train_dataloader"), root, infinite=loop.unit == "step")
    splits = {name: data.evaluation_split(top.section(f"{name}_dataloader"), root) for name in names}
    top.elsewhere("val_dataloader", "test_dataloader")
    data.same_classes(train, tuple(splits.values()))
    fields = pipeline.preprocessing(Section(model, "model", top.ignored))
    steps = pipeline.training_steps(train, masks=masks, labels=not alone)
    fields |= steps
    if fields.get("pad_shapes") == pipeline.padded(steps, fields["divisor"]):
        del fields["pad_shapes"]  # which the training photos have anyway; those of an evaluation are not padded to it
    if splits:
        fields["test_transforms"] = pipeline.evaluation_steps(splits)
    if "val" in splits:
        if not top.has("val_cfg"):
            told = "with a val_dataloader there must be one; without validation all of val_dataloader, val_cfg and "
            raise top.refused("val_cfg", None, f"{told}val_evaluator are None")
        read_evaluation_loop(top.section("val_cfg"), "ValLoop")
        fields |= read_evaluators(top, "val_evaluator", splits["val"].part, root, masks=masks)
    else:
        top.only(val_cfg=None, val_evaluator=None)
        if "test" in splits and top.has("test_evaluator"):
            fields |= read_evaluators(top, "test_evaluator", splits["test"].part, root, masks=masks)
    photos = Data(
        source="coco",
        root=root,
        splits={"train": train.part} | {name: split.part for name, split in splits.items()},
        train="train",
        validation="val" if "val" in splits else None,
        classes=train.classes,
        single_class="object" if alone else None,
        batch_size=loader.batch_size,
        batch_per_device=True,
        shuffle=loader.shuffle,
    )
    return photos, Detection(masks=masks, **fields)


def _seed(top: Section) -> int:
    """`randomness`; a run without a seed has that of every run here."""
    section = top.optional("randomness")
    section.ignore("deterministic", because="JAX computes the same again anyway")
    section.ignore("diff_rank_seed", because="every photo draws from a stream of its own")
    seed = section.take("seed", whole, Config().seed)
    section.done()
    return seed


def _pretrained(top: Section, model: Mapping[str, Any], *, grown: bool) -> Pretrained:
    """The whole model's checkpoint where there is one, or the backbone's; nothing where everything is drawn, or an old
    detector gives the first weights."""
    if source := top.take("load_from", text, None):
        return Pretrained(source=source)
    if grown:
        Section(model.get("backbone") or {}, "model.backbone", top.ignored).ignore(
            "init_cfg", because="the old detector's weights take its place"
        )
        return Pretrained()
    if found := checkpoint(Section(model, "model")):
        return Pretrained(source=found.source, prefix=found.start)
    found = checkpoint(Section(model.get("backbone") or {}, "model.backbone"))
    if found is None:
        return Pretrained()
    others = [name for name in ("neck", "rpn_head", "roi_head", "bbox_head") if model.get(name)]
    if model.get("type") == "RPN":
        others = ["bbox_head" if name == "rpn_head" else name for name in others]
    # A classifier's own head has no place here, nor a bias that Caffe's stem has beside its normalization.
    beside = [] if found.start else ["~backbone.fc", "~backbone.conv1.bias", "~backbone.head"]
    skip = tuple(dict.fromkeys([*others, *beside]))
    return Pretrained(source=found.source, prefix=found.start, skip=skip, rename={"": "backbone."})


def load_any(path: Path) -> Reading:
    """A configuration of this project or of MMDetection.

    Raises:
        UserError: it is neither, or not valid.
    """
    from jaxft.config import load

    if not is_mmdet(path):
        return Reading(load(path))
    try:
        return read_config(path)
    except UserError as error:
        told = str(error)
        raise UserError(told if told.startswith(str(path)) else f"{path}: {told}") from error
