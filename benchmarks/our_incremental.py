"""Steps of the second stage of `benchmarks.incremental`, as jaxft's loop runs them, each prepared to be timed."""

from typing import Any

from benchmarks.our_steps import Step, finish
from configs.gfl_lite0_bccd_platelets import config
from jaxft.config import replace
from jaxft.training.setup import Setup, set_up
from jaxft.training.step import Compiled, predict_step


def opened(root: str, teacher: str, weight: float) -> Setup:
    """The run before its first array; with a weight of 0 it has no teacher."""
    changes = {"data.root": root, "task.incremental.teacher": teacher, "task.incremental.weight": weight}
    return set_up(replace(config, changes | {"data.workers": 0})).with_teacher()


def training(root: str, teacher: str, weight: float) -> Step:
    """The training step on one batch of photos, again and again."""
    setup = opened(root, teacher, weight)
    stage = setup.stages[0]
    step = Compiled(setup.training_step(stage), updates_state=True)
    state, inputs = setup.first_state(stage, setup.load_weights()), setup.inputs(stage, 0)
    batch = batch_of(setup)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch, inputs)
        finish((state, metrics))

    return run


def forward(root: str, teacher: str) -> Step:
    """What the teacher puts out for such a batch."""
    setup = opened(root, teacher, 1.0)
    task: Any = setup.task
    assert setup.teacher is not None
    assert setup.teaching is not None

    def outputs(model: Any, batch: Any) -> Any:
        return model.outputs(task.images(batch["image"], batch["size"]))._asdict()

    step, batch = Compiled(predict_step(setup.teacher.model, outputs, setup.config.precision)), batch_of(setup)
    arrays = setup.teaching.arrays
    return lambda: finish(step(arrays, batch))


def batch_of(setup: Setup) -> Any:
    """The first batch of a run."""
    with setup.batches() as batches:
        return setup.layout.batch(next(batches))
