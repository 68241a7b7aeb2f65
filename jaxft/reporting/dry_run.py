"""What a run would do to every parameter, as a table, before it does it."""

from collections.abc import Mapping

from flax import nnx
from rich.console import Console
from rich.table import Table

from jaxft import config
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import walk
from jaxft.optim import Plan, warmup_steps


def print_plan(
    console: Console,
    model: nnx.Module,
    sources: Mapping[str, str],
    plan: Plan,
    phase: config.Phase,
    steps_per_epoch: int,
) -> None:
    """Prints a row a parameter or statistic, and totals.

    Args:
        model: in the modes of the phase.
        sources: the checkpoint's key of each filled leaf, by our dotted path.
        steps_per_epoch: rates are shown at the first step of the phase, after its warm-up, and at its last.
    """
    steps = phase.epochs * steps_per_epoch
    shown = (0, warmup_steps(phase.schedule, steps_per_epoch), steps - 1)
    columns = ["path", "source key", "shape", *(f"rate at {step}" for step in shown), "decay", "state"]
    table = Table(*columns, title=f"{phase.epochs} epoch(s), {steps} steps")
    totals = {"trained": 0, "frozen": 0, "statistics": 0}
    for path, owner, _, variable in walk(model):
        shape = tuple(variable.shape)
        if isinstance(variable, nnx.BatchStat):
            kept = isinstance(owner, BatchNorm) and owner.running_only
            kind, rates, decay, state = "statistics", [""] * 3, "", "kept" if kept else "tracked"
        else:
            group = plan.group(path)
            kind = "frozen" if group.frozen else "trained"
            rates = [""] * 3 if group.frozen else [f"{float(group.rate(step)):.3g}" for step in shown]
            decay, state = "" if group.frozen else f"{group.weight_decay:.3g}", kind
            if isinstance(owner, BatchNorm):
                state += ", running statistics" if owner.running_only else ", batch statistics"
        totals[kind] += variable.size
        table.add_row(path, sources.get(path, "(new)"), "x".join(map(str, shape)) or "scalar", *rates, decay, state)
    console.print(table)
    console.print("  ".join(f"{name}: {count:,} numbers" for name, count in totals.items()), highlight=False)
