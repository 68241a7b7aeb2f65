"""The hooks of an MMDetection configuration that decide something: logs, checkpoints, averages, and an early end."""

from collections.abc import Callable
from typing import Any

from converters.mmdet.section import ConfigError, Section, flag, number, text, texts, whole
from jaxft.config import EarlyStopping, Ema

Fields = dict[str, Any]
# Hooks that change neither the model nor its figures, whatever they are told, and why.
PASSED_OVER = {
    "IterTimerHook": "times are always measured",
    "RuntimeInfoHook": "it notes the state of a run for MMEngine's logs",
    "DistSamplerSeedHook": "each epoch has an order of its own anyway",
    "DetVisualizationHook": "jaxft draws what its own settings say",
    "CheckInvalidLossHook": "a loss that is no number always ends the run",
    "NumClassCheckHook": "heads always have as many classes as the data",
    "SyncBuffersHook": "statistics are the same on all devices",
    "SyncNormHook": "statistics are the same on all devices",
    "SetEpochInfoHook": "no loss here depends on the epoch",
    "EmptyCacheHook": "JAX manages the memory of devices itself",
    "MemoryProfilerHook": "it prints figures of memory",
    "ProfilerHook": "it prints figures of time",
}
GREATER = ("acc", "top", "AR@", "auc", "precision", "mAP", "mDice", "mIoU", "mAcc", "aAcc")
OPTIONS = {"save_best": "best-metric", "monitor": "early-stopping.metric"}
KEPT = "jaxft keeps the last and the best state, whole, in its run directory"


def read_hooks(top: Section, parts: int) -> Fields:
    """The fields of `jaxft.config.Config` that the hooks give; a step has `parts` of MMEngine's iterations."""
    found: Fields = {}
    kinds: set[str] = set()
    default = top.optional("default_hooks")
    for name in list(default.values):
        if default.has(name):
            found |= _hook(default.section(name), parts, kinds)
        elif name == "param_scheduler":
            key = default.key(name)
            raise ConfigError(key, key, f"{key} is None; leave out param_scheduler for a rate that stays.")
        else:
            default.elsewhere(name)
    default.done()
    for section in top.listed("custom_hooks"):
        found |= _hook(section, parts, kinds)
    return found


def _hook(section: Section, parts: int, kinds: set[str]) -> Fields:
    readers: dict[str, Callable[[Section, int], Fields]] = {
        "LoggerHook": _logger,
        "ParamSchedulerHook": lambda section, parts: {},
        "CheckpointHook": _checkpoint,
        "EMAHook": _average,
        "EarlyStoppingHook": _early_stopping,
    }
    kind = section.type([*readers, *PASSED_OVER])
    section.ignore("priority", because="what hooks do has a fixed order")
    if kind in PASSED_OVER:
        section.pass_over(kind, because=PASSED_OVER[kind])
        return {}
    if kind in kinds:
        raise section.refused("type", kind, "there is another one before, and jaxft has one of each kind")
    kinds.add(kind)
    fields = readers[kind](section, parts)
    section.done()
    return fields


def _logger(section: Section, parts: int) -> Fields:
    others = ("ignore_last", "interval_exp_name", "out_dir", "out_suffix", "keep_local", "file_client_args")
    section.ignore(*others, "log_metric_by_epoch", "backend_args", because="jaxft's logs have one form and one place")
    return {"log_every": max(section.take("interval", whole, 10) // parts, 1)}


def _checkpoint(section: Section, parts: int) -> Fields:
    fields: Fields = {}
    if section.take("by_epoch", flag, True):
        section.ignore("interval", because="there is a checkpoint after each epoch")
    elif (interval := section.take("interval", whole, -1)) > 0:
        fields["checkpoint_every"] = max(interval // parts, 1)
    others = ("save_optimizer", "save_param_scheduler", "out_dir", "max_keep_ckpts", "save_last", "filename_tmpl")
    section.ignore(*others, "published_keys", "save_begin", "file_client_args", "backend_args", because=KEPT)
    best = section.values.get("save_best")
    if isinstance(best, list | tuple):
        if len(best) != 1:
            raise section.refused("save_best", best, "jaxft keeps the best model by one figure")
        section.values["save_best"] = best[0]
    if section.has("save_best"):
        if (monitor := section.take("save_best", text)) != "auto":
            fields["best_metric"] = _figure(section, "save_best", monitor)
    else:
        section.ignore("save_best", "rule", "greater_keys", "less_keys", because="there is no save_best to speak of")
    section.elsewhere("save_best", "rule", "greater_keys", "less_keys")
    return fields


def _figure(section: Section, key: str, monitor: str) -> str:
    """A figure's name here, with a `-` before one that should be small."""
    name = monitor.rpartition("/")[2]
    if name.startswith("AR"):
        told = f"--{OPTIONS[key]} proposal_{name} or proposal_fast_{name}"
        raise section.refused(key, monitor, f"jaxft has it for each kind of metric; leave it out, and write {told}")
    name = name if name.startswith(("bbox_", "segm_", "loss")) else f"bbox_{name}"
    rule = section.take("rule", text, None)
    greater, less = section.take("greater_keys", texts, GREATER), section.take("less_keys", texts, ("loss",))
    if rule is None:
        known = [name.lower() for name in greater], [name.lower() for name in less]
        ups, downs = ([key for key in keys if key in monitor.lower()] for keys in known)
        if not ups and not downs:
            raise section.refused("rule", rule, f"whether a large or a small {monitor} is good must be said")
        rule = "greater" if ups else "less"
    if rule not in ("greater", "less"):
        raise section.refused("rule", rule, "greater or less was expected")
    return name if rule == "greater" else f"-{name}"


def _average(section: Section, parts: int) -> Fields:
    kind = section.take("ema_type", text, "ExponentialMovingAverage")
    if kind not in ("ExponentialMovingAverage", "ExpMomentumEMA"):
        raise section.refused("ema_type", kind, "jaxft has ExponentialMovingAverage and ExpMomentumEMA")
    if parts > 1:
        key = section.key("type")
        raise ConfigError(
            key, f"{key} with accumulation", f"{key}: an average has no accumulative_counts beside it; leave one out."
        )
    section.only(begin_epoch=0)
    section.ignore("strict_load", "device", because="the average is a part of the run's state")
    return {
        "ema": Ema(
            decay=1 - section.take("momentum", number, 0.0002),
            warmup=section.take("gamma", number, 2000.0) if kind == "ExpMomentumEMA" else 0.0,
            begin=section.take("begin_iter", whole, 0),
            interval=section.take("interval", whole, 1),
            buffers=section.take("update_buffers", flag, False),
        )
    }


def _early_stopping(section: Section, parts: int) -> Fields:
    return {
        "early_stopping": EarlyStopping(
            metric=_figure(section, "monitor", section.take("monitor", text)),
            patience=section.take("patience", whole, 5),
            min_delta=section.take("min_delta", number, 0.1),
            strict=section.take("strict", flag, False),
            check_finite=section.take("check_finite", flag, True),
            threshold=section.take("stopping_threshold", number, None),
        )
    }
