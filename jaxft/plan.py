"""What a run takes on a TPU slice that is not here: `python -m jaxft.plan --config FILE --topology v5e:16x16`."""

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from jaxft.activity import doing
from jaxft.cli import run_command, start, with_config
from jaxft.config import Config
from jaxft.errors import UserError
from jaxft.planning.chips import parse
from jaxft.planning.collectives import by_kind
from jaxft.reporting.console import make_console
from jaxft.reporting.written import written

if TYPE_CHECKING:
    from jaxft.planning.program import Planned


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compiles the training step for a TPU slice, on any machine with libtpu, and prints what it takes: whether it
    fits, the time by published peaks, what travels. It needs no device, no photo and no checkpoint. Any field of the
    configuration can be given on the command line."""

    config: str
    """The configuration, as of `jaxft train`."""
    topology: tuple[str, ...] = ("v5e:4x4",)
    """The slice, such as v5e:16x16, to compile for. Further ones, of any kind of chip, h100:8 too, are added by
    arithmetic: the same program for each chip."""
    batch_per_device: int | None = None
    """Examples of a chip in one part of optimizer.accumulate, in the place of the configuration's batch."""
    classes: int | None = None
    """Classes of the data, where the configuration does not say how many."""
    phase: int | None = None
    """Which phase, from 1; by default the one that trains most parameters."""
    json: bool = False
    """Print one JSON object on standard output, and all else on standard error."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


def main() -> None:
    """The command."""
    options = with_config(Options, sys.argv[1:], "plan")
    slices = [parse(name) for name in options.topology]
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what else is here is not asked
    start()
    from jaxft.planning.program import abstract_devices, compiled_for, set_up_for
    from jaxft.reporting.screen import Screen

    console = make_console(stderr=options.json)
    with Screen(console) as screen, doing("planning"):
        with doing("asking libtpu"):
            devices = abstract_devices(slices[0])
        setup, remark = set_up_for(
            options.settings, devices, batch_per_device=options.batch_per_device, classes=options.classes
        )
        for line in [*([remark] if remark else []), *setup.edits]:
            screen.say(line)
        stages = setup.stages
        if options.phase is not None and not 1 <= options.phase <= len(stages):
            raise UserError(f"There is no phase {options.phase}; the configuration has {len(stages)}, from 1.")
        stage = max(stages, key=setup.trained_numbers) if options.phase is None else stages[options.phase - 1]
        planned = compiled_for(setup, stage, slices[0])
        scaled = [[one.elsewhere(other) for other in slices] for one in planned]
    if options.json:
        print(json.dumps({"programs": [[summary(one) for one in row] for row in scaled]}, indent=2))
        return
    for row in scaled:
        show(row, stage.index + 1, console)


def summary(one: "Planned") -> dict[str, Any]:
    """All figures as plain values; sizes are bytes a chip, times are seconds a step."""
    return {
        "topology": one.topology.name,
        "chips": one.topology.count,
        "batch": one.batch,
        "precision": one.precision,
        "memory": {**one.state, "batch": one.inputs, "temporaries": one.temporaries, "program": one.code},
        "memory_needed": one.memory,
        "memory_there": one.topology.chip.memory,
        "fits": one.fits,
        "largest_batch": one.largest_batch,
        "flops": one.flops,
        "bytes_moved": one.bytes,
        "seconds_computing": one.computing,
        "bound_by": one.bound,
        "seconds_travelling": one.travelling,
        "images_per_second": one.images_per_second,
        "collectives": [
            {"kind": way.kind, "bytes": way.bytes, "chips": way.devices, "seconds": one.seconds_of(way)}
            for way in one.travels
        ],
        "seconds_to_trace_and_compile": list(one.seconds),
    }


def show(row: list["Planned"], phase: int, console: Console) -> None:
    """Prints a compiled step, and the same on other slices."""
    one = row[0]
    chip = one.topology.chip
    each = one.batch // one.topology.count
    console.print(
        f"Phase {phase} on {one.topology.name}: {one.topology.count} chips, {each} examples a chip and step, "
        f"{one.batch:,} in all, {one.precision}. Traced in {one.seconds[0]:.0f} s, compiled in {one.seconds[1]:.0f} s.",
        highlight=False,
    )
    console.print(memory_table(one))
    verdict = "fits" if one.fits else "DOES NOT FIT"
    console.print(
        f"It {verdict} into {written(chip.memory)}. About {one.largest_batch:,} examples a step fit, if temporaries "
        "grow in proportion.",
        highlight=False,
    )
    console.print(
        f"A step computes {one.flops / 1e12:.3f} TFLOP and moves {written(one.bytes)} a chip: at least "
        f"{one.computing * 1e3:.2f} ms at the published peaks, bound by {one.bound}.",
        highlight=False,
    )
    console.print(travel_table(one) if one.travels else "Nothing travels between the chips.")
    console.print(scaling_table(row))


def memory_table(one: "Planned") -> Table:
    """Bytes a chip."""
    table = Table("on each chip", "bytes")
    parts = {**one.state, "batch": one.inputs, "temporaries (activations, gradients)": one.temporaries}
    for name, size in (parts | {"program": one.code, "in all": one.memory}).items():
        table.add_row(name, written(size))
    return table


def travel_table(one: "Planned") -> Table:
    """What travels, by kind."""
    step = one.computing + one.travelling
    table = Table("between the chips", "operations", "bytes", "ms", "of the step")
    for kind, ways in by_kind(one.travels).items():
        seconds, size = sum(map(one.seconds_of, ways)), sum(way.bytes for way in ways)
        table.add_row(kind, str(len(ways)), written(size), f"{seconds * 1e3:.3f}", f"{seconds / step:.1%}")
    return table


def scaling_table(row: list["Planned"]) -> Table:
    """The program on each slice, as many examples a chip."""
    table = Table("slice", "chips", "examples a step", "fits", "ms computing", "ms travelling", "images/s, at most")
    for one in row:
        table.add_row(
            one.topology.name,
            str(one.topology.count),
            f"{one.batch:,}",
            "yes" if one.fits else "no",
            f"{one.computing * 1e3:.2f}",
            f"{one.travelling * 1e3:.3f}",
            f"{one.images_per_second:,.0f}",
        )
    return table


if __name__ == "__main__":
    run_command(main)
