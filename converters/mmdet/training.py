"""The training values of an MMDetection configuration as a `jaxft.config.Config`.

The batch and the learning rate are those of one of MMDetection's processes, as they stand in the file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.mmdet.data import read_data, read_detection
from converters.mmdet.file import is_mmdet, read
from converters.mmdet.model import model_dict, with_classes
from converters.mmdet.rules import read_rules
from converters.mmdet.section import ConfigError, Section, flag, number, numbers, text, whole
from jaxft.config import Config, Model, Optimizer, Phase, Pretrained, Schedule
from jaxft.errors import UserError


def read_config(path: str | Path) -> Config:
    """What an MMDetection configuration says about a run: model, first weights, data, photos, optimizer, schedule.

    Raises:
        UserError: it cannot be read, or holds something that this project does not do; the message names its key.
    """
    whole_config = read(path)
    model = with_classes(model_dict(whole_config), None)
    wrapper = Section(whole_config, "config").section("optim_wrapper")
    wrapper.path = "optim_wrapper"
    parts = wrapper.take("accumulative_counts", whole, 1)
    amp = wrapper.type(["OptimWrapper", "AmpOptimWrapper"]) == "AmpOptimWrapper"
    batch = parts * Section(whole_config, "config").section("train_dataloader").take("batch_size", whole, 1)
    data, times = read_data(whole_config, model, batch)
    paramwise = wrapper.section("paramwise_cfg", {}) if wrapper.has("paramwise_cfg") else Section({}, "paramwise_cfg")
    optimizer = _optimizer(wrapper, whole_config, batch, parts)
    rules = read_rules(model, paramwise)
    phase = Phase(epochs=times * _epochs(whole_config), rules=rules, schedule=_schedule(whole_config, times, optimizer))
    return Config(
        model=Model(mmdet=json.loads(json.dumps(model))),
        pretrained=_pretrained(whole_config, model),
        data=data,
        task=read_detection(whole_config, model),
        optimizer=optimizer,
        phases=(phase,),
        precision="bfloat16" if amp else "float32",
    )


def _optimizer(wrapper: Section, config: Mapping[str, Any], batch: int, parts: int) -> Optimizer:
    section = wrapper.section("optimizer")
    kind = section.type(["SGD", "Adam", "AdamW"])
    rate = section.take("lr", number)
    scaling = Section(config.get("auto_scale_lr") or {}, "auto_scale_lr")
    if scaling.take("enable", flag, False):
        rate *= batch / scaling.take("base_batch_size", whole)
    options: dict[str, Any] = {"learning_rate": rate, "accumulate": parts}
    if kind == "SGD":
        options |= {
            "momentum": section.take("momentum", number, 0.0),
            "nesterov": section.take("nesterov", flag, False),
        }
        options["weight_decay"] = section.take("weight_decay", number, 0.0)
        section.only(dampening=0)
    else:
        first, second = section.take("betas", numbers, (0.9, 0.999))
        options |= {"betas": (first, second), "eps": section.take("eps", number, 1e-8)}
        options["weight_decay"] = section.take("weight_decay", number, 0.01 if kind == "AdamW" else 0.0)
        section.only(amsgrad=False)
    section.done()
    if wrapper.has("clip_grad"):
        clip = wrapper.section("clip_grad")
        clip.only(norm_type=2)
        options["clip_norm"] = clip.take("max_norm", number)
        clip.done()
    wrapper.ignore("paramwise_cfg", "clip_grad", "loss_scale", "dtype")
    wrapper.only(constructor="DefaultOptimWrapperConstructor")
    wrapper.done()
    names = {"SGD": "sgd", "Adam": "adam", "AdamW": "adamw"}
    return Optimizer(name=names[kind], **options)  # type: ignore[arg-type]


def _epochs(config: Mapping[str, Any]) -> int:
    section = Section(config, "config").section("train_cfg")
    section.path = "train_cfg"
    if "type" in section.values:
        section.type(["EpochBasedTrainLoop"])
    section.only(by_epoch=True)
    return section.take("max_epochs", whole)


def _schedule(config: Mapping[str, Any], times: int, optimizer: Optimizer) -> Schedule:
    """The schedulers, whose factors MMEngine multiplies, as one warm-up and one decay."""
    found = config.get("param_scheduler") or []
    options: dict[str, Any] = {}
    for index, values in enumerate(found if isinstance(found, list | tuple) else [found]):
        step = Section(values, f"param_scheduler.{index}")
        kind = step.type(["LinearLR", "ConstantLR", "MultiStepLR", "CosineAnnealingLR"])
        by_epoch = step.take("by_epoch", flag, True)
        begin, end = step.take("begin", whole, 0), step.take("end", whole, 10**9)
        if kind in ("LinearLR", "ConstantLR"):
            step.only(end_factor=1.0)
            # MMEngine reaches the whole rate at the last step before `end`.
            options["warmup"] = float(max(end - begin - 1, 0) * (times if by_epoch else 1))
            options["warmup_unit"] = "epoch" if by_epoch else "step"
            options["warmup_shape"] = "linear" if kind == "LinearLR" else "constant"
            options["warmup_factor"] = step.take("start_factor" if kind == "LinearLR" else "factor", number, 1 / 3)
        elif kind == "MultiStepLR":
            milestones = step.take("milestones", numbers)
            options["decay"], options["unit"] = "multistep", "epoch" if by_epoch else "step"
            options["milestones"] = tuple(milestone * (times if by_epoch else 1) for milestone in milestones)
            options["gamma"] = step.take("gamma", number, 0.1)
        else:
            options |= _cosine(step, begin, end, config, optimizer)
        if begin and kind != "CosineAnnealingLR":
            key = step.key("begin")
            raise ConfigError(key, f"{key} is not 0", f"{key} is {begin}; jaxft warms up and decays from the start.")
        step.ignore("convert_to_iter_based", "verbose")
        step.done()
    return Schedule(**options)


def _cosine(step: Section, begin: int, end: int, config: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A cosine over all the training, the warm-up excepted, is what jaxft has."""
    length, epochs = step.take("T_max", whole, end - begin), _epochs(config)
    step.ignore("eta_min_ratio")
    if begin or length != epochs:
        key = step.key("T_max")
        raise ConfigError(key, f"{key} is not all epochs", f"{key}: a cosine must last all {epochs} epochs, from 0.")
    return {"decay": "cosine", "final": step.take("eta_min", number, 0.0) / optimizer.learning_rate}


def _pretrained(config: Mapping[str, Any], model: Mapping[str, Any]) -> Pretrained:
    """The whole model's checkpoint where there is one, or the backbone's; nothing where everything is drawn."""
    for found in (config.get("load_from"), _checkpoint(model, "model")[0]):
        if found:
            return Pretrained(source=found)
    source, prefix = _checkpoint(model.get("backbone") or {}, "model.backbone")
    if not source:
        return Pretrained()
    others = [name for name in ("neck", "rpn_head", "roi_head", "bbox_head") if model.get(name)]
    if model.get("type") == "RPN":
        others = ["bbox_head" if name == "rpn_head" else name for name in others]
    # A classifier's own head has no place here, nor a bias that Caffe's stem has beside its normalization.
    beside = ["~head", "~neck"] if prefix else ["~backbone.fc", "~backbone.conv1.bias", "~backbone.head"]
    rename = {prefix: "backbone."} if prefix else {"": "backbone."}
    return Pretrained(source=source, skip=tuple(dict.fromkeys([*others, *beside])), rename=rename)


def _checkpoint(part: Mapping[str, Any], path: str) -> tuple[str, str]:
    """The source and the prefix of `init_cfg`; empty where it draws values."""
    found = part.get("init_cfg")
    if isinstance(found, list | tuple) or not found:
        return "", ""
    section = Section(found, f"{path}.init_cfg")
    if section.take("type", text) != "Pretrained" or not section.has("checkpoint"):
        return "", ""
    source, prefix = section.take("checkpoint", text), section.take("prefix", text, "")
    scheme, mark, name = source.partition("://")
    if scheme == "torchvision" and mark:
        # In MMEngine a bare name means torchvision's first weights.
        model, _, weights = name.partition(".")
        source = f"torchvision://{model}/{weights or 'IMAGENET1K_V1'}"
    return source, prefix


def load_any(path: Path) -> Config:
    """A configuration of this project or of MMDetection.

    Raises:
        UserError: it is neither, or not valid.
    """
    from jaxft.config import load

    if not is_mmdet(path):
        return load(path)
    try:
        return read_config(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
