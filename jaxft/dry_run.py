"""What a run would do to each part of its model, how large it is, and what it takes to compile; before it starts."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from jaxft.activity import doing
from jaxft.config import Config
from jaxft.initialization.drawing import draws
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import walk
from jaxft.precision import described
from jaxft.reporting.screen import Screen
from jaxft.reporting.written import written
from jaxft.training.batch import resolved
from jaxft.training.features import check_features
from jaxft.training.optim import set_modes
from jaxft.training.setup import Setup, set_up
from jaxft.training.stages import Stage
from jaxft.training.step import Compiled
from jaxft.training.stopping import interruptible

DEEPEST = 2  # names of a path by which the summary cuts a model


@dataclass(frozen=True)
class Leaf:
    """What becomes of one parameter or statistic in a phase.

    Attributes:
        source: the checkpoint's key; empty where the value is drawn.
        kind: trained, frozen, tracked (a statistic) or kept (a statistic that stays as it is).
        rates: the learning rate at the steps that are shown; empty where nothing is trained.
        decay: the weight decay of what is trained.
        batch_norm: of BatchNorm: which statistics it uses, batch or running.
        drawn: the kind of initialiser of `model.init` that draws it; empty where none does.
    """

    path: str
    source: str
    shape: tuple[int, ...]
    size: int
    bytes: int
    kind: str
    rates: tuple[float, ...] = ()
    decay: float = 0.0
    batch_norm: str = ""
    drawn: str = ""

    @property
    def is_parameter(self) -> bool:
        """Whether it is no statistic."""
        return self.kind in ("trained", "frozen")


def print_plan(
    config: Config, console: Console, *, begun: Config | None = None, full: bool = False, compiling: bool = False
) -> None:
    """Prints, for each phase of a configuration, a row a part of the model, and sizes.

    Args:
        begun: the configuration of a run that is to go on.
        full: a row a parameter or statistic instead.
        compiling: compile the training steps, too, for which one photo of each shape is opened, and print seconds and
            bytes.

    Raises:
        UserError: the run could not be started.
    """
    with Screen(console) as screen, doing("planning"):
        config, remark = resolved(config, jax.device_count(), begun)
        if remark:
            screen.say(remark)
        setup = set_up(config, copies=begun is not None)
        ledger = setup.load_weights()
        setup.with_teacher()
        screen.say(described(config.precision))
        for dataset in setup.datasets:
            screen.say(dataset.report(config.data.batch_size))
        for line in [*setup.edits, *([] if ledger is None else [ledger.summary()]), *setup.distilled]:
            screen.say(line)
        screen.say(
            f"{setup.steps_per_epoch} steps an epoch, {setup.total_steps} in all, on {setup.layout.mesh.size} device(s)"
        )
        kept = check_features(setup)
        if kept is not None:
            screen.say(kept)
        sources = {row.path: row.key for row in ledger.having("mapped")} if ledger else {}
        for line in initialized(setup, sources):
            screen.say(line)
        for stage in setup.stages:
            phase = config.phases[stage.index]
            steps = stage.last - stage.first
            highest = int(np.max(list(stage.learning_rates.values()), axis=0).argmax())
            shown = tuple(dict.fromkeys((0, highest, steps - 1)))
            leaves = list(planned(setup, stage, sources, shown))
            table = full_table(leaves, shown) if full else summary_table(leaves, shown)
            length = f"{steps} steps" if phase.steps else f"{phase.epochs} epoch(s), {steps} steps"
            table.title = f"phase {stage.index + 1}: {length}"
            console.print(table)
            screen.say(counts(leaves))
            console.print(sizes_table(setup, stage))
            if compiling and kept is not None:
                screen.say("The step from stored features is not compiled here, but by the run, in a moment.")
            elif compiling:
                for line in compiled(setup, stage):
                    screen.say(line)


def initialized(setup: Setup, sources: Mapping[str, str]) -> Iterator[str]:
    """How much each rule of `model.init` draws, a line each; `sources` as of `planned`."""
    drawn = draws(setup.model, setup.config.model.init)
    for index, rule in enumerate(setup.config.model.init):
        paths = [path for path, draw in drawn.items() if draw.rule == index]
        new = [path for path in paths if path not in sources]
        kept = f", {len(paths) - len(new)} that the checkpoint fills stay" if len(new) < len(paths) else ""
        named = f": {', '.join(new[:3])}{', ...' if len(new) > 3 else ''}" if new else ""
        yield f"model.init.{index} ({rule.how.type}) draws {len(new)} arrays{named}{kept}"


def planned(setup: Setup, stage: Stage, sources: Mapping[str, str], shown: Sequence[int]) -> Iterator[Leaf]:
    """Every parameter and statistic of the model during a stage.

    Args:
        sources: the checkpoint's key of each filled leaf, by our dotted path.
        shown: the steps of the stage whose rates are shown, from 0.
    """
    model = nnx.clone(setup.model)
    set_modes(model, stage.groups, stage.batch_norm)
    drawn = {path: draw.how.type for path, draw in draws(model, setup.config.model.init).items() if draw.how}
    for path, owner, _, variable in walk(model):
        mode = ("running" if owner.running_only else "batch") if isinstance(owner, BatchNorm) else ""
        size, place = variable.size, (path, sources.get(path, ""), tuple(variable.shape))
        common = (*place, size, size * variable.dtype.itemsize)
        if isinstance(variable, nnx.BatchStat):
            yield Leaf(*common, kind="kept" if mode == "running" else "tracked", batch_norm=mode)
            continue
        group = stage.groups.group(path)
        if group.frozen:
            yield Leaf(*common, kind="frozen", batch_norm=mode, drawn=drawn.get(path, ""))
        else:
            rates = tuple(float(stage.learning_rates[group.label][step]) for step in shown)
            how = drawn.get(path, "")
            yield Leaf(*common, kind="trained", rates=rates, decay=group.weight_decay, batch_norm=mode, drawn=how)


def parts(leaves: Sequence[Leaf], depth: int = 1) -> Iterator[tuple[str, list[Leaf]]]:
    """The leaves by the first name of their paths; what is not all treated alike by the next name, too."""
    found: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        found.setdefault(".".join(leaf.path.split(".")[:depth]), []).append(leaf)
    for name, members in found.items():
        alike = len({(leaf.kind, leaf.rates) for leaf in members if leaf.is_parameter}) <= 1
        if alike or depth == DEEPEST:
            yield name, members
        else:
            yield from parts(members, depth + 1)


def summary_table(leaves: Sequence[Leaf], shown: Sequence[int]) -> Table:
    """A row a part of the model."""
    rates = [f"rate at {step}" for step in shown]
    table = Table("part", "parameters", "bytes", "state", *rates, "decay", "values", "BatchNorm's statistics")
    for name, members in parts(leaves):
        parameters = [leaf for leaf in members if leaf.is_parameter]
        trained = [leaf for leaf in parameters if leaf.kind == "trained"]
        size, moving = (sum(leaf.size for leaf in some) for some in (parameters, trained))
        state = "trained" if moving == size else "frozen" if not moving else f"{moving / size:.0%} trained"
        new = sum(1 for leaf in members if not leaf.source)
        table.add_row(
            name,
            f"{size:,}",
            written(sum(leaf.bytes for leaf in members)),
            state if parameters else "",
            *(_range([leaf.rates[position] for leaf in trained]) for position in range(len(shown))),
            _range([leaf.decay for leaf in trained]),
            "new" if new == len(members) else f"checkpoint, {new} new" if new else "checkpoint",
            ", ".join(sorted({leaf.batch_norm for leaf in members} - {""})),
        )
    return table


def _range(values: Sequence[float]) -> str:
    texts = list(dict.fromkeys(f"{value:.3g}" for value in sorted(values)))
    return " to ".join(dict.fromkeys((texts[0], texts[-1]))) if texts else ""


def full_table(leaves: Sequence[Leaf], shown: Sequence[int]) -> Table:
    """A row a parameter or statistic."""
    table = Table("path", "source key", "shape", *(f"rate at {step}" for step in shown), "decay", "state")
    for leaf in leaves:
        rates = [f"{rate:.3g}" for rate in leaf.rates] or [""] * len(shown)
        mode = f", {leaf.batch_norm} statistics" if leaf.batch_norm and leaf.is_parameter else ""
        table.add_row(
            leaf.path,
            leaf.source or (f"(new, {leaf.drawn})" if leaf.drawn else "(new)"),
            "x".join(map(str, leaf.shape)) or "scalar",
            *rates,
            f"{leaf.decay:.3g}" if leaf.kind == "trained" else "",
            leaf.kind + mode,
        )
    return table


def counts(leaves: Sequence[Leaf]) -> str:
    """How many numbers are trained, frozen, and statistics."""
    groups = {"trained": ("trained",), "frozen": ("frozen",), "statistics": ("tracked", "kept")}
    totals = {name: sum(leaf.size for leaf in leaves if leaf.kind in kinds) for name, kinds in groups.items()}
    return "  ".join(f"{name}: {count:,} numbers" for name, count in totals.items())


def sizes_table(setup: Setup, stage: Stage) -> Table:
    """What the state of a run takes during a stage, in all and on each device."""
    state = setup.abstract_state(stage)
    rows: dict[str, Any] = {
        "parameters": state.params,
        "statistics": state.stats,
        "optimizer state": state.opt_state,
        "moving average": state.ema,
        **({"teacher": setup.teaching.arrays} if setup.teaching else {}),
    }
    table = Table("state", "numbers", "bytes", "bytes a device")
    for name, tree in (rows | {"in all": list(rows.values())}).items():
        sizes = [(leaf.size, leaf.size * leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree)]
        count, total = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
        table.add_row(name, f"{count:,}", written(total), written(setup.layout.bytes_per_device(tree)))
    return table


def compiled(setup: Setup, stage: Stage) -> Iterator[str]:
    """Compiles the training step of a stage for each of its shapes; a line each, with seconds and bytes a device."""
    step = Compiled(setup.training_step(stage), updates_state=True)
    inputs = setup.inputs(stage, stage.first)
    buckets, firsts = np.unique(setup.train.buckets, return_index=True)
    for number, first in enumerate(firsts.tolist(), 1):
        what = f"the training step of phase {stage.index + 1}, program {number} of {len(buckets)}"
        with doing(f"compiling {what}"):
            example = setup.train.training(first, np.random.default_rng(0))
            batch = setup.layout.abstract_batch(example, setup.config.data.batch_size)
            began = time.perf_counter()
            compiler = step.compiler(setup.abstract_state(stage), batch, inputs)
            traced = time.perf_counter()
            memory = interruptible(compiler).memory_analysis()
        seconds = f"traced in {traced - began:.1f} s, compiled in {time.perf_counter() - traced:.1f} s"
        temporaries = f", {written(memory.temp_size_in_bytes)} of temporaries a device" if memory is not None else ""
        yield f"{what}: {seconds}{temporaries}"
