"""The loops and the schedulers of an MMDetection configuration: how long, at which rates, and when it is evaluated."""

from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from converters.mmdet.section import ConfigError, Section, flag, whole
from jaxft.config import Phase, Schedule
from jaxft.schedulers import Scheduler

SCHEDULER: pydantic.TypeAdapter[Scheduler] = pydantic.TypeAdapter(Scheduler)
Unit = Literal["epoch", "step"]


@dataclass(frozen=True)
class Loop:
    """`train_cfg`: the length, in epochs or in MMEngine's iterations, and when an evaluation may happen."""

    unit: Unit
    length: int
    interval: int
    begin: int


def read_loop(section: Section, *, evaluated: bool) -> Loop:
    """The training loop of `train_cfg`, of a file that has something to evaluate or has not."""
    by_epoch = section.take("by_epoch", flag, True)
    if "type" in section.values:
        by_epoch = section.type(["EpochBasedTrainLoop", "IterBasedTrainLoop"]) == "EpochBasedTrainLoop"
    if not evaluated:
        section.ignore("val_interval", "val_begin", because="nothing is evaluated")
    section.only(dynamic_intervals=None)
    loop = Loop(
        unit="epoch" if by_epoch else "step",
        length=section.take("max_epochs" if by_epoch else "max_iters", whole),
        interval=section.take("val_interval", whole, 1 if by_epoch else 1000),
        begin=section.take("val_begin", whole, 1),
    )
    section.done()
    return loop


def read_evaluation_loop(section: Section, kind: str) -> None:
    """`val_cfg` or `test_cfg`, which have nothing to choose."""
    if "type" in section.values:
        section.type([kind])
    section.only(fp16=False)
    section.done()


def length(loop: Loop, parts: int) -> dict[str, Any]:
    """The length of the phase; a step has several `parts`, each of which MMEngine counts as an iteration."""
    if loop.unit == "epoch":
        return {"epochs": loop.length}
    return {"epochs": Phase().epochs, "steps": _steps(loop.length, parts, "train_cfg.max_iters")}


def evaluations(loop: Loop, parts: int) -> dict[str, Any]:
    """The fields of `jaxft.config.Config` that say when an evaluation happens."""
    if loop.unit == "epoch":
        return {"evaluate_unit": "epoch", "evaluate_every": loop.interval, "evaluate_from": max(loop.begin, 1)}
    return {
        "evaluate_unit": "step",
        "evaluate_every": _steps(loop.interval, parts, "train_cfg.val_interval"),
        "evaluate_from": max(-(-loop.begin // parts), 1),
    }


def _steps(iterations: int, parts: int, key: str) -> int:
    if iterations % parts:
        raise ConfigError(
            key,
            f"{key} is not whole steps",
            f"{key} is {iterations}, which is not whole steps of optim_wrapper.accumulative_counts = {parts}.",
        )
    return iterations // parts


def read_schedule(top: Section, loop: Loop, parts: int) -> Schedule:
    """`param_scheduler`: MMEngine's schedulers, by its own counting of iterations."""
    schedulers = tuple(_scheduler(section, loop) for section in top.listed("param_scheduler"))
    return Schedule(schedulers=schedulers, micro_batches=bool(schedulers) and parts > 1)


def _scheduler(section: Section, loop: Loop) -> Scheduler:
    name = section.type(list(_names()))
    section.only(last_step=-1, param_name=None)
    section.ignore("verbose", because="MMEngine prints more by it")
    by_epoch = section.take("by_epoch", flag, True)
    if by_epoch and loop.unit == "step":
        key = section.key("by_epoch")
        raise ConfigError(key, key, f"{key}: a loop of iterations has schedulers by iterations alone; set it to False.")
    return section.fields(SCHEDULER, type=name, by_epoch=by_epoch)


def _names() -> list[str]:
    return [str(kind.type) for kind in Scheduler.__origin__.__args__]  # type: ignore[attr-defined]
