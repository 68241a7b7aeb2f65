"""Fine-tune a model: `python -m jaxft.train --config configs/hotdog.py`. The loop is in `jaxft/training/loop.py`."""

import sys

from jaxft.cli import parse, run_command, start
from jaxft.reporting.console import make_console


def main() -> int:
    """The command."""
    options, workdir = parse(sys.argv[1:])
    start(distributed=options.distributed)
    import jax

    from jaxft.training.loop import fit

    console = make_console(quiet=jax.process_index() != 0)
    if options.dry_run:
        from jaxft.reporting.dry_run import print_plan

        print_plan(options.settings, console)
        return 0
    fitted = fit(options.settings, workdir, resume=options.resume, console=console)
    if fitted.complete:
        metric = fitted.setup.task.primary_metric.name
        console.print(
            f"Finished: best validation {metric} {fitted.best:.4f}. Checkpoints, metrics and pictures are in "
            f"{workdir}; next:\n  python -m jaxft.export --run {workdir} --format torch --output {workdir.name}.pth",
            highlight=False,
        )
        return 0
    if fitted.step == 0:
        console.print("Stopped before the first step; nothing is kept.", highlight=False)
    else:
        console.print(
            f"Stopped after step {fitted.step}; all is saved. Go on with:\n"
            f"  python -m jaxft.train --workdir {workdir} --resume",
            highlight=False,
        )
    return 128 + (fitted.signal or 0)


if __name__ == "__main__":
    run_command(main)
