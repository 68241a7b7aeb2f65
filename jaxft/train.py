"""Fine-tune a model: `python -m jaxft.train --config configs/hotdog.py`. The loop is in `jaxft/training/loop.py`."""

import sys

from jaxft.memory import keep_memory, peak

if __name__ == "__main__":
    keep_memory()  # before what would be imported twice

from jaxft.checks import check_places
from jaxft.cli import interrupted, launched_as_several, parse, run_command, start
from jaxft.errors import UserError
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory


def main() -> int:
    """The command."""
    options, workdir = parse(sys.argv[1:])
    if not options.dry_run and (options.full or options.compile):
        raise UserError(
            f"--{'full' if options.full else 'compile'} says what a dry run prints; add --dry-run or leave it out."
        )
    config, run = options.settings, RunDirectory.at(workdir)
    if not (options.distributed or launched_as_several()):  # which look at it together, once they have joined
        check_places(config, None if options.dry_run else run, resume=options.resume)
    start(distributed=options.distributed, preemptible=True)
    import jax

    from jaxft.pages.making import report_of
    from jaxft.training.fitted import resuming
    from jaxft.training.loop import fit

    console = make_console(quiet=jax.process_index() != 0)
    for line in options.passed_over:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if options.dry_run:
        from jaxft.dry_run import print_plan

        begun = run.config() if options.resume else None
        print_plan(config, console, begun=begun, full=options.full, compiling=options.compile)
        return 0
    try:
        fitted = fit(config, workdir, resume=options.resume, parent=options.parent, console=console)
    except KeyboardInterrupt as interrupt:
        return interrupted(interrupt, f"go on with {resuming(workdir)}" if run.has_checkpoint() else "nothing is kept")
    console.print(f"Peak memory: {peak(jax.local_devices())}.", highlight=False)
    console.print(fitted.summary, highlight=False)
    report_of(fitted, console)
    return 0 if fitted.complete else 128 + (fitted.signal or 0)


if __name__ == "__main__":
    run_command(main)
