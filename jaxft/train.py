"""The training loop: `python -m jaxft.train --config configs/hotdog.py`.

Configuration -> data -> model -> pretrained weights -> then, for each phase: rules -> optimizer -> one compiled step ->
checkpoints. `Trainer` holds what the phases share; its methods stand in the order in which they are called.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.experimental import multihost_utils
from rich.console import Console

from converters import Ledger
from jaxft import config, dry_run, pictures
from jaxft.checkpoint import Checkpoints
from jaxft.command import parse
from jaxft.console import make_console
from jaxft.data import Rows, steps_per_epoch, train_batches
from jaxft.data.splits import open_splits
from jaxft.distributed import device_mesh, global_batch, join_processes, replicated, state_shardings
from jaxft.errors import UserError, run_command
from jaxft.inference import Inference, inference
from jaxft.models.paths import filled, values
from jaxft.optim import Plan, plan, set_modes, transformation
from jaxft.process import prepare
from jaxft.report import Reporter
from jaxft.run import RunDirectory
from jaxft.setup import head_named, pretrained, task
from jaxft.signals import Stopped, stop_signals
from jaxft.step import Compiled, TrainState, initial_state, train_step


@dataclasses.dataclass
class Trainer:
    """One run: its settings, its data, and where its results go."""

    settings: config.Config
    run: RunDirectory
    train: Rows
    test: Rows
    mesh: jax.sharding.Mesh
    checkpoints: Checkpoints
    reporter: Reporter
    inference: Inference
    best: float

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.train.groups, self.settings.data.batch_size)

    @property
    def total_steps(self) -> int:
        return sum(phase.epochs for phase in self.settings.phases) * self.steps_per_epoch

    def phase(self, index: int, model: nnx.Module, step: int, resume: bool) -> tuple[nnx.Module, int]:
        """Trains from `step` to the end of a phase; returns the model and the step it has reached."""
        settings = self.settings
        first = sum(earlier.epochs for earlier in settings.phases[:index]) * self.steps_per_epoch
        last = first + settings.phases[index].epochs * self.steps_per_epoch
        if step >= last:
            return model, step
        groups = phase_plan(settings, index, model, self.steps_per_epoch)
        optimizer = transformation(groups, settings.optimizer)
        state = initial_state(model, lambda path: groups.group(path).frozen, optimizer, step)
        state = jax.device_put(state, state_shardings(state, self.mesh, settings.fsdp))
        if resume and self.checkpoints.notes()["phase"] == index:
            state = dataclasses.replace(state, opt_state=self.checkpoints.optimizer(state.opt_state))
        function = train_step(
            model,
            task(settings),
            optimizer,
            seed=settings.seed,
            dtype=settings.precision,
            parts=settings.optimizer.accumulate,
        )
        shapes = len(np.unique(self.train.groups))
        compiled = Compiled(function, self.mesh, fsdp=settings.fsdp, updates_state=True, budget=shapes)
        state = self.steps(index, compiled, state, step, last, lambda at: groups.highest_rate(at - first))
        return filled(model, state.model), last

    def steps(
        self, index: int, compiled: Compiled, state: TrainState, step: int, last: int, rate: Callable[[int], float]
    ) -> TrainState:
        """Data, step, data, step; in between a line of metrics, an evaluation, a checkpoint."""
        settings = self.settings
        batches = train_batches(
            self.train,
            batch_size=settings.data.batch_size,
            seed=settings.seed,
            start_step=step,
            workers=settings.data.workers,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        pending: list[Mapping[str, Array]] = []
        with batches, stop_signals() as stop:
            while step < last:
                began = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - began
                state, metrics = compiled(state, global_batch(batch, self.mesh))
                pending.append(metrics)
                if len(pending) > 1:  # no more than one step is queued: on a CPU each holds its own temporaries
                    jax.block_until_ready(pending[-2])
                step += 1
                epoch_ends = step % self.steps_per_epoch == 0
                self.reporter.advance(step, self.steps_per_epoch, settings.data.batch_size, waited)
                if epoch_ends or stop or step % settings.log_every == 0:
                    settled = {"learning_rate": rate(step - 1), "compilations": compiled.compilations}
                    self.log(index, state, step, pending, settled)
                    pending = []
                if epoch_ends:
                    self.evaluate(index, state, step)
                every = settings.checkpoint_every
                # Asked once: a signal that comes after this line waits for the next step, unless this one is saved.
                saved = epoch_ends or bool(stop) or (every > 0 and step % every == 0)
                if saved:
                    self.checkpoints.save(state, self.notes(index))
                if saved and stop and step < self.total_steps:
                    raise Stopped(stop[0], step)
        return state

    def log(
        self,
        index: int,
        state: TrainState,
        step: int,
        pending: list[Mapping[str, Array]],
        settled: Mapping[str, float],
    ) -> None:
        """Writes the mean metrics since the last call; ends a run whose numbers are not finite any more."""
        fetched = jax.device_get(pending)
        if not bool(state.healthy):
            good = int(state.step)
            self.checkpoints.save(state, self.notes(index))
            raise UserError(
                f"The loss or its gradient was not finite in step {good + 1}. The last good state, of step {good}, is "
                f"saved in {self.run.path}. Start again with a lower --optimizer.learning-rate, a warm-up, or "
                "--optimizer.clip-norm."
            )
        means = {name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]}
        self.reporter.train(step, step // self.steps_per_epoch, means | dict(settled))

    def evaluate(self, index: int, state: TrainState, step: int) -> None:
        """Evaluates, saves the model if it is the best so far, and draws."""
        metrics = self.inference.evaluate(state.model, self.test)
        better = metrics[self.inference.score] > self.best
        if better:
            self.best = metrics[self.inference.score]
            self.checkpoints.save(state, self.notes(index), best=True)
        self.reporter.evaluation(step, step // self.steps_per_epoch, metrics, better)
        self.draw(state)
        self.reporter.restart_clock()

    def draw(self, state: TrainState) -> None:
        """The learning curves, and some test photos with what the model says of them now."""
        folder = self.run.pictures
        if jax.process_index() == 0:
            pictures.learning_curves(self.run.metrics_file, folder / "learning_curves.png", self.inference.score)
        self.inference.draw(state.model, self.test, folder / "predictions.png")

    def notes(self, index: int) -> dict[str, float]:
        """What a checkpoint says besides its arrays."""
        return {"phase": index, "best": self.best}


def phase_plan(settings: config.Config, index: int, model: nnx.Module, steps: int) -> Plan:
    """Applies the rules of a phase: which parameter gets what, and the modes of the model's layers."""
    phase = settings.phases[index]
    shapes = {path: value.shape for path, value in values(model, nnx.Param).items()}
    groups = plan(shapes, settings.optimizer, phase, steps)
    set_modes(model, groups, phase.batch_norm)
    return groups


def show_plan(settings: config.Config, model: nnx.Module, ledger: Ledger | None, steps: int, console: Console) -> None:
    """What each phase does to every parameter."""
    sources = {row.path: row.key for row in ledger.having("mapped")} if ledger else {}
    for index, phase in enumerate(settings.phases):
        groups = phase_plan(settings, index, model, steps)
        dry_run.print_plan(console, model, sources, groups, phase, steps)


def train(settings: config.Config, run: RunDirectory, *, resume: bool, dry: bool, console: Console) -> None:
    """The whole run."""
    train_rows, test_rows = open_splits(settings)
    classes = train_rows.classes
    if settings.model.num_classes not in (None, len(classes)):
        raise UserError(
            f"model.num_classes is {settings.model.num_classes}, but the data have the {len(classes)} classes "
            f"{', '.join(classes[:10])}; leave it out or correct it."
        )
    if resume and run.classes() != classes:
        raise UserError(f"The data have the classes {classes}, but {run.path} was started with {run.classes()}.")
    if settings.data.batch_size > len(train_rows):
        raise UserError(
            f"A batch of {settings.data.batch_size} is larger than the {len(train_rows)} training examples; "
            "lower --data.batch-size."
        )
    for rows in (train_rows, test_rows):
        console.print(rows.report(settings.data.batch_size), highlight=False, markup=False)
    steps = steps_per_epoch(train_rows.groups, settings.data.batch_size)
    mesh = device_mesh(settings.data.batch_size, settings.optimizer.accumulate)
    written, settings = settings, head_named(settings)
    model, ledger = pretrained(settings, classes)
    if ledger is not None:
        console.print(ledger.summary(), highlight=False)
    if dry:
        return show_plan(settings, model, ledger, steps, console)
    # Every phase's rules are tried before the first one runs, and before anything is written.
    for index in range(len(settings.phases)):
        phase_plan(settings, index, model, steps)
    if not resume and jax.process_index() == 0:
        run.create(written, classes)
    multihost_utils.sync_global_devices("the run directory is there")

    step, best = 0, -1.0
    with Checkpoints(run.checkpoints) as checkpoints:
        resume = resume and checkpoints.step() is not None  # a run may have ended before its first checkpoint
        if resume:
            step, best = checkpoints.step() or 0, checkpoints.notes()["best"]
            model = filled(model, checkpoints.model(replicated(values(model), mesh), "last"))
        total = sum(phase.epochs for phase in settings.phases) * steps
        template = nnx.clone(model)
        template.eval()
        at_work = inference(settings, template, classes, mesh)
        with Reporter(run.path, start_step=step, total_steps=total, console=console) as reporter:
            trainer = Trainer(settings, run, train_rows, test_rows, mesh, checkpoints, reporter, at_work, best)
            for index in range(len(settings.phases)):
                model, step = trainer.phase(index, model, step, resume)
        checkpoints.wait()
    console.print(
        f"Finished: best test {at_work.score} {trainer.best:.4f}. Checkpoints, metrics and pictures are in {run.path}; "
        "next:\n"
        f"  python -m jaxft.export --run {run.path} --format torch --output {run.path.name}.pth",
        highlight=False,
    )


def main() -> int:
    """The command."""
    options, run = parse(sys.argv[1:])
    if options.distributed:
        join_processes()
    prepare()
    console = make_console(quiet=jax.process_index() != 0)
    try:
        train(options.settings, run, resume=options.resume, dry=options.dry_run, console=console)
    except Stopped as stopped:
        console.print(
            f"Stopped after step {stopped.step}; all is saved. Go on with:\n"
            f"  python -m jaxft.train --workdir {run.path} --resume",
            highlight=False,
        )
        return 128 + stopped.number
    return 0


if __name__ == "__main__":
    run_command(main)
