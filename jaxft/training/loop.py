"""The training loop, read from top to bottom: `fit` is the whole run, from Python and from the command line.

Configuration -> data -> abstract model -> stages -> first values, or the last checkpoint -> for each stage: one
compiled step, again and again; in between a line of metrics, a checkpoint, an evaluation.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import nnx
from jax import Array
from jax.experimental import multihost_utils
from rich.console import Console

from jaxft.activity import doing
from jaxft.config import Config
from jaxft.data.dataset import Dataset
from jaxft.data.loader import Batches
from jaxft.processes import check_shared
from jaxft.reporting.console import make_console
from jaxft.reporting.progress import Reporter
from jaxft.reporting.screen import Screen
from jaxft.run import RunDirectory
from jaxft.training.beginning import begin
from jaxft.training.checkpoint import Checkpoints, best_value
from jaxft.training.evaluation import Predictor, evaluate
from jaxft.training.features import with_features
from jaxft.training.fitted import Callback, Event, Fitted
from jaxft.training.forgetting import watch_forgetting
from jaxft.training.histograms import Histograms
from jaxft.training.judge import Judge
from jaxft.training.late_metrics import LateMetrics
from jaxft.training.layout import abstract, first_says, outside_meshes
from jaxft.training.own import Loss, Own
from jaxft.training.recording import record, record_beginning
from jaxft.training.resuming import removed_if_unfinished
from jaxft.training.setup import Setup
from jaxft.training.stages import Stage
from jaxft.training.state import TrainState, enter
from jaxft.training.step import Compiled
from jaxft.training.stopping import Interrupted, Stop, stop_signals
from jaxft.training.trace import Trace
from jaxft.training.watchdog import watched


@outside_meshes()
def fit(
    config: Config,
    workdir: str | Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    callbacks: Sequence[Callback] = (),
    model: nnx.Module | None = None,
    datasets: tuple[Dataset, Dataset | None] | None = None,
    loss: Loss | None = None,
    parent: Config | None = None,
    console: Console | None = None,
) -> Fitted:
    """Trains a model, or goes on with a run.

    Args:
        workdir: the run directory.
        resume: go on with the run in it, from its last checkpoint; start one where there is none.
        stop_after: end in order after so many steps of the whole run, as a signal would.
        callbacks: called after each step and each evaluation. Where one raises, the state is saved first.
        model: one of your own with its values, in the place of the configured one; the same when the run goes on.
        datasets: the splits to train and to validate on, in the place of those configured; None evaluates nothing.
        loss: (model, batch) -> the loss, or (the loss, metrics), in the place of the task's.
        parent: a configuration that this one was made from; the run's page shows what was changed in it.
        console: where to print; the terminal by default.

    Raises:
        UserError: something outside the program is wrong; what the run directory holds stays whole.
    """
    own = Own(model, datasets, loss, parent)
    run, console = RunDirectory.at(workdir), console or make_console(quiet=jax.process_index() != 0)
    began = time.perf_counter()
    with ExitStack() as entered, Screen(console) as screen, doing("starting"):
        start = begin(config, run, own, resume=resume, screen=screen)
        setup, stage, state, saved = start.setup, start.stage, start.state, start.saved
        if jax.process_index() == 0:
            if not start.resumes:
                entered.enter_context(removed_if_unfinished(run))
                run.create(setup.written, setup.classes, setup.examples, setup.names)
            else:
                run.save_config(setup.written)
            record_beginning(start, run)
        multihost_utils.sync_global_devices("the run directory is there")
        check_shared(run.config_file)
        with Checkpoints(run.checkpoints, keep=config.keep_checkpoints) as checkpoints:
            if state is None:
                with doing("loading the last checkpoint"):
                    state = checkpoints.state(setup.abstract_state(stage))
                screen.say(setup.progress(int(state.step)))
            setup = with_features(setup, state, screen)
            reporter = Reporter(
                run.path,
                start_step=int(state.step),
                course=setup.course,
                screen=screen,
                starting=time.perf_counter() - began,
            )
            watching = watched(config.hardware.hang_after, run.path, jax.process_index())
            with reporter, watching, stop_signals(several=jax.process_count() > 1) as stop:
                best = best_value(checkpoints, setup.best_metric) if saved else None
                judge = Judge(setup.config, setup.best_metric, best, reporter.evaluations())
                loop = Loop(setup, run, checkpoints, reporter, judge, stop, callbacks, stop_after)
                state = loop.run(state, stage)
                screen.say(reporter.spent.sentence())
            with doing("saving"):
                checkpoints.wait()
        if int(state.step) == 0 and not start.resumes and jax.process_index() == 0:
            run.remove()  # what was stopped before its first step has nothing to go on from
    return Fitted(run.path, setup, state, judge.best, loop.complete, stop.number)


@dataclass
class Loop:
    """What the steps of a run share; `run` and what it calls stand in the order in which they are called."""

    setup: Setup
    run_directory: RunDirectory
    checkpoints: Checkpoints
    reporter: Reporter
    judge: Judge
    stop: Stop
    callbacks: Sequence[Callback]
    stop_after: int | None
    complete: bool = False
    evaluated_step: int = 0  # the step of the last evaluation
    prepared: bool = False  # whether the evaluation is compiled, or about to be
    ended: bool = False  # early, because the evaluations get no better

    def __post_init__(self) -> None:
        setup, data = self.setup, self.setup.config.data
        self.predictor = Predictor(
            setup.task,
            setup.model,
            setup.layout,
            batch_size=data.batch_size,
            workers=data.workers,
            precision=setup.config.precision,
            stored=setup.prediction,
            compiling=lambda number: self.reporter.doing(f"compiling the evaluation, program {number}"),
        )
        self.metrics = LateMetrics(self.reporter)
        self.histograms = Histograms(setup, self.reporter)
        self.trace = Trace(setup.config.hardware.profile, self.run_directory.path / "profile")

    def run(self, state: TrainState, stage: Stage) -> TrainState:
        """Trains from a state of a stage to the end of the last one, or until something asks to stop."""
        setup, step = self.setup, int(state.step)
        with setup.batches(step) as batches, closing(self.predictor), closing(self.trace), closing(self.histograms):
            self.beside = watch_forgetting(setup, self.run_directory, self.reporter)
            self.end_if_judged()
            evaluated = first_says(any(line["step"] == step for line in self.reporter.evaluations()))
            self.evaluated_step = step if evaluated else 0
            if step and setup.evaluates_after(step) and not evaluated:
                self.evaluate(stage, state, step)  # the run was stopped between a checkpoint and its evaluation
            for following in setup.stages[stage.index :]:
                if following is not stage:
                    state = enter(following, stage, state, setup.layout)
                stage = following
                state = self.train(stage, state, batches)
                if self.stopping(int(state.step)):
                    break
        judged = setup.validation is None or self.evaluated_step == setup.total_steps
        self.complete = self.ended or (int(state.step) == setup.total_steps and judged)
        return state

    def stopping(self, step: int) -> bool:
        """Whether something has asked the run to stop after a step."""
        asked = bool(self.stop) or self.ended or self.stop.asked
        return asked or (self.stop_after is not None and step >= self.stop_after)

    def train(self, stage: Stage, state: TrainState, batches: Batches) -> TrainState:
        """Data, step, data, step, to the end of a stage."""
        setup, config, step = self.setup, self.setup.config, int(state.step)
        compiled = Compiled(
            setup.training_step(stage),
            updates_state=True,
            budget=setup.shapes,
            compiling=lambda number: self.reporter.doing(
                f"compiling the training step of phase {stage.index + 1}, program {number}"
            ),
        )
        before: Mapping[str, Array] | None = None
        while step < stage.last and not self.stopping(step):
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            self.trace.before(step + 1)
            try:
                placed, inputs = setup.layout.batch(batch), setup.inputs(stage, step)
                self.histograms(stage, state, step, placed, inputs)
                state, metrics = compiled(state, placed, inputs)
            except Interrupted:
                break
            jax.block_until_ready(before)  # no more than one step is queued: on a CPU each holds its own temporaries
            before = metrics
            self.metrics.add(metrics)
            self.stop.agree()
            step += 1
            self.trace.after(step, metrics)
            evaluates = setup.evaluates_after(step)
            pauses = evaluates or step % setup.steps_per_epoch == 0 or step == setup.total_steps
            self.reporter.advance(step, config.data.batch_size, waited)
            self.call_back(stage, Event("step", step, step // setup.steps_per_epoch, metrics, state))
            if pauses:
                jax.block_until_ready(metrics)  # its time belongs to the steps before the pause
            if pauses or self.stopping(step) or step % config.log_every == 0:
                self.log(stage, state, step, compiled.compilations)
            if pauses or (config.checkpoint_every and step % config.checkpoint_every == 0):
                self.save(stage, state)
            if evaluates and not self.stop:  # a signal leaves no time; the evaluation is made up when the run goes on
                self.evaluate(stage, state, step)
            elif pauses and setup.validation is None:
                self.reporter.draw()
            self.prepare_evaluation(state)
        if step and self.stopping(step):
            self.save(stage, state)
        return state

    def prepare_evaluation(self, state: TrainState) -> None:
        """Lets the evaluation be compiled while the first epoch runs."""
        if self.setup.validation is None or self.prepared:
            return
        self.prepared = True
        with suppress(Interrupted):  # which the loop sees, too
            self.predictor.prepare(abstract(state.evaluated), self.setup.validation)

    def call_back(self, stage: Stage, event: Event) -> None:
        """Tells the callbacks; where one raises, the state of a single process is saved first."""
        try:
            asked = [callback(event) for callback in self.callbacks]
        except BaseException:
            if jax.process_count() == 1:  # several would have to save together
                self.save(stage, event.state)
                self.checkpoints.wait()
            raise
        if True in asked:
            self.stop.ask()

    def log(self, stage: Stage, state: TrainState, step: int, compilations: int) -> None:
        """Holds a line of the mean metrics since the last call, and writes the line before."""
        self.write(stage, state)
        settled = {"learning_rate": stage.highest_rate(step - 1), "compilations": compilations}
        self.metrics.hold(step, state.all_finite, settled)

    def write(self, stage: Stage, state: TrainState) -> None:
        """Writes the line that is held; ends a run whose numbers were not finite any more."""
        if not self.metrics.write():
            self.save(stage, state)  # no step since has changed it
            raise self.checkpoints.not_finite(int(state.step), self.run_directory)

    def save(self, stage: Stage, state: TrainState) -> None:
        """Saves what is needed to go on from here, unless it is saved already; all metrics of the steps before are
        written first."""
        self.write(stage, state)
        with self.reporter.doing("saving"):
            self.reporter.flush()
            self.checkpoints.save(state, {"phase": stage.index})

    def evaluate(self, stage: Stage, state: TrainState, step: int) -> None:
        """Evaluates, saves the model if it is the best so far, and draws."""
        setup, dataset, epoch = self.setup, self.setup.validation, step // self.setup.steps_per_epoch
        assert dataset is not None
        when = f"step {step}" if step % setup.steps_per_epoch else f"epoch {epoch}"
        with self.reporter.doing(f"evaluating {when}") as counted:
            try:
                evaluated = self.beside(evaluate(self.predictor, setup.task, state.evaluated, dataset, counted=counted))
            except Interrupted:
                return  # as after a signal during the last step: the evaluation is made up when the run goes on
            metrics = evaluated.metrics
            better, remark = self.judge.judge(metrics)
            if better:
                self.checkpoints.save_best(state, {"best": self.judge.best, "metric": setup.best_metric})
        with self.reporter.doing("drawing"):
            record(setup, self.run_directory, step, evaluated, best=better)
        self.checkpoints.wait()  # the line below says that this is done, also after a kill
        self.reporter.evaluation(step, metrics, better, remark)
        self.evaluated_step = step
        self.reporter.draw(*setup.best_metric)
        self.end_if_judged()
        self.call_back(stage, Event("evaluation", step, epoch, metrics, state))

    def end_if_judged(self) -> None:
        """Ends the run where its evaluations say so; the first process, which has seen them all, decides."""
        if not self.ended and first_says(bool(self.judge.ended)):
            self.ended = True
            self.reporter.say(f"The run ends early: {self.judge.ended}.")
