"""Steps of training and evaluation as jaxft's loop runs them, each prepared to be timed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from benchmarks.batches import labels, pixels
from converters.verify import CLASSIFICATION as TASK
from jaxft import config, create_model
from jaxft.models.paths import filled, modules, values
from jaxft.precision import dtype_of
from jaxft.tasks.classification.task import ClassificationTask
from jaxft.tasks.task import Task
from jaxft.training.layout import one_device
from jaxft.training.optim import set_modes
from jaxft.training.stages import lay_out
from jaxft.training.state import initial_state
from jaxft.training.step import Compiled, StepInputs, key_data, predict_step, train_step

OPTIMIZER = config.Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=1e-3)
EVERYTHING = (config.Rule(pattern="*"),)
Batch = dict[str, Array]
Step = Callable[[], None]


def training(model: str, batch: int, size: int, precision: str = "float32", steps: int = 1) -> Step:
    """A classifier's training step of all parameters, `steps` times."""
    task = ClassificationTask(TASK.fields, dtype_of(precision))
    return training_step(create_model(model), task, EVERYTHING, images(batch, size), precision, steps)


def training_head(model: str, batch: int, size: int) -> Step:
    """A classifier's training step of the last layer alone."""
    network = create_model(model)
    rules = config.Rule(pattern=head_of(network)), config.Rule(pattern="*", frozen=True)
    return training_step(network, TASK, rules, images(batch, size))


def evaluation(model: str, batch: int, size: int) -> Step:
    """A classifier's evaluation step."""
    return evaluation_step(create_model(model), TASK, images(batch, size))


def head_alone(model: str, batch: int, size: int) -> Step:
    """Loss, gradient and update of the last layer on stored features."""
    network: Any = create_model(model)
    network.eval()
    layer = dict(modules(network))[head_of(network)]
    examples = images(batch, size)
    features = jax.jit(lambda pixels: network.features(TASK.images(pixels)))(examples["image"])

    def step(params: dict[str, Array], batch: Batch) -> dict[str, Array]:
        def loss(params: dict[str, Array]) -> Array:
            head: Any = filled(layer, params)
            return TASK.loss(lambda _: head(batch["features"]), batch)[0]

        return jax.tree.map(lambda value, grad: value - 0.01 * grad, params, jax.grad(loss)(params))

    run = partial(Compiled(step), values(layer), examples | {"features": features})
    return lambda: finish(run())


def training_step(
    model: Any, task: Task, rules: tuple[config.Rule, ...], batch: Batch, precision: str = "float32", steps: int = 1
) -> Step:
    """The training step as the loop runs it, `steps` times one after the other."""
    settings = config.Config(optimizer=OPTIMIZER, phases=(config.Phase(rules=rules),))
    parameters = values(model, nnx.Param)
    shapes = {path: tuple(value.shape) for path, value in parameters.items()}
    (stage,) = lay_out(settings, shapes, steps_per_epoch=1000)
    set_modes(model, stage.groups, stage.batch_norm)
    state = initial_state(stage, parameters, values(model, nnx.BatchStat), one_device(), ema=False)
    state = jax.tree.map(jnp.copy, state)  # its memory is given to the step
    function = train_step(model, task.loss, stage.groups.trained, stage.chain, precision=precision)
    step = Compiled(function, updates_state=True)
    inputs = StepInputs(key_data(0), stage.numbers(0))

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, batch, inputs)
        finish((state, metrics))

    return run


def evaluation_step(model: Any, task: Task, batch: Batch) -> Step:
    """The evaluation step as the loop runs it."""
    model.eval()
    run = partial(Compiled(predict_step(nnx.clone(model), task.predict)), values(model), batch)
    return lambda: finish(run())


def images(batch: int, size: int) -> Batch:
    """Images of noise as the loop gives them to a step."""
    return {"image": jnp.asarray(pixels(batch, size)), "label": jnp.asarray(labels(batch))}


def head_of(model: Any) -> str:
    """The path of the last layer."""
    return next(path for path, value in values(model).items() if value.ndim == 2).rpartition(".")[0]


def finish(result: object) -> None:
    """Waits until it is there."""
    jax.block_until_ready(result)
