"""What a run would do to every parameter, as a table, before it does it."""

from collections.abc import Mapping

from flax import nnx
from rich.console import Console
from rich.table import Table

from jaxft.config import Config
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import walk
from jaxft.training.optim import set_modes
from jaxft.training.schedules import warmup_steps
from jaxft.training.setup import set_up
from jaxft.training.stages import Stage


def print_plan(config: Config, console: Console) -> None:
    """Prints, for each phase of a configuration, a row a parameter or statistic, and totals. No photo is opened.

    Raises:
        UserError: the run could not be started.
    """
    setup = set_up(config)
    ledger = setup.load_weights()
    for dataset in (setup.train, setup.validation):
        console.print(dataset.report(config.data.batch_size), highlight=False, markup=False)
    if ledger is not None:
        console.print(ledger.summary(), highlight=False)
    sources = {row.path: row.key for row in ledger.having("mapped")} if ledger else {}
    for stage in setup.stages:
        model = nnx.clone(setup.model)
        set_modes(model, stage.groups, stage.batch_norm)
        warmup = warmup_steps(config.phases[stage.index].schedule, setup.steps_per_epoch)
        print_stage(console, model, sources, stage, warmup, config.phases[stage.index].epochs)


def print_stage(
    console: Console, model: nnx.Module, sources: Mapping[str, str], stage: Stage, warmup: int, epochs: int
) -> None:
    """Prints a row a parameter or statistic of a stage, and totals.

    Args:
        model: in the modes of the stage.
        sources: the checkpoint's key of each filled leaf, by our dotted path.
        warmup: rates are shown at the first step of the stage, after so many steps of it, and at its last.
    """
    steps = stage.last - stage.first
    shown = (0, warmup, steps - 1)
    columns = ["path", "source key", "shape", *(f"rate at {step}" for step in shown), "decay", "state"]
    table = Table(*columns, title=f"{epochs} epoch(s), {steps} steps")
    totals = {"trained": 0, "frozen": 0, "statistics": 0}
    for path, owner, _, variable in walk(model):
        shape = tuple(variable.shape)
        if isinstance(variable, nnx.BatchStat):
            kept = isinstance(owner, BatchNorm) and owner.running_only
            kind, rates, decay, state = "statistics", [""] * 3, "", "kept" if kept else "tracked"
        else:
            group = stage.groups.group(path)
            kind = "frozen" if group.frozen else "trained"
            rates = [""] * 3 if group.frozen else [f"{stage.learning_rates[group.label][step]:.3g}" for step in shown]
            decay, state = "" if group.frozen else f"{group.weight_decay:.3g}", kind
            if isinstance(owner, BatchNorm):
                state += ", running statistics" if owner.running_only else ", batch statistics"
        totals[kind] += variable.size
        table.add_row(path, sources.get(path, "(new)"), "x".join(map(str, shape)) or "scalar", *rates, decay, state)
    console.print(table)
    console.print("  ".join(f"{name}: {count:,} numbers" for name, count in totals.items()), highlight=False)
