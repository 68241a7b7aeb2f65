"""Training and evaluation steps against PyTorch (channels-last, float32) in the same run.

    python -m benchmarks.steps

The ratio is PyTorch's seconds divided by ours: 1.0 is as fast, 0.5 takes twice as long. The rows "head only" train the
last layer alone; there the ratio is (our forward pass + our step of the head on stored features) / our step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from flax import nnx
from jax import Array
from rich.live import Live
from rich.table import Table

from benchmarks.timing import interleaved
from converters.verify import CLASSIFICATION as TASK
from converters.verify import torch_loss
from converters.verify_reference import reference
from jaxft import config, create_model
from jaxft.models import abstract_model
from jaxft.models.paths import filled, values
from jaxft.tasks.task import Task
from jaxft.training.layout import one_device
from jaxft.training.optim import set_modes
from jaxft.training.stages import lay_out
from jaxft.training.state import initial_state
from jaxft.training.step import Compiled, StepInputs, key_data, predict_step, train_step

OPTIMIZER = config.Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=1e-3)
Rules = tuple[config.Rule, ...]
Batch = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times steps of training and evaluation."""

    models: tuple[str, ...] = ("resnet18", "resnet50", "efficientnet_lite0")
    """Names of models."""
    batch: int = 32
    """Images a step."""
    size: int = 224
    """Side of the images, pixels."""
    rounds: int = 5
    """Timed runs of each program, in turn."""


def our_training(model: Any, task: Task, optimizer: config.Optimizer, rules: Rules, batch: Batch) -> Callable[[], None]:
    """Our training step as the loop runs it."""
    settings = config.Config(optimizer=optimizer, phases=(config.Phase(rules=rules),))
    parameters = values(model, nnx.Param)
    shapes = {path: tuple(value.shape) for path, value in parameters.items()}
    (stage,) = lay_out(settings, shapes, steps_per_epoch=1000)
    set_modes(model, stage.groups, stage.batch_norm)
    state = initial_state(stage, parameters, values(model, nnx.BatchStat), one_device(), ema=False)
    state = jax.tree.map(jnp.copy, state)  # its memory is given to the step
    step = Compiled(train_step(model, task.loss, stage.groups.trained, stage.chain), updates_state=True)
    inputs = StepInputs(key_data(0), stage.numbers(0))

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch, inputs)
        jax.block_until_ready((state, metrics))

    return run


def our_evaluation(model: Any, batch: Batch) -> Callable[[], None]:
    """Our evaluation step as the loop runs it."""
    model.eval()
    step = Compiled(predict_step(nnx.clone(model), TASK.predict))
    arrays = values(model)
    return lambda: jax.block_until_ready(step(arrays, batch))


def our_head_alone(model: Any, head: str, batch: Batch) -> Callable[[], None]:
    """Loss, gradient and update of the last layer on stored features."""
    model.eval()
    layer = getattr(model, head)
    features = jax.jit(lambda images: model.features(TASK.images(images)))(batch["image"])

    @jax.jit
    def step(params: dict[str, Array], features: Array) -> dict[str, Array]:
        def loss(params: dict[str, Array]) -> Array:
            def classify(_: Array) -> Array:
                return filled(layer, params)(features)

            return TASK.loss(classify, batch)[0]

        return jax.tree.map(lambda value, grad: value - 0.01 * grad, params, jax.grad(loss)(params))

    params = values(layer)
    return lambda: jax.block_until_ready(step(params, features))


def their_steps(name: str, images: np.ndarray, labels: np.ndarray) -> tuple[Callable[[], None], Callable[[], None]]:
    """PyTorch's training and evaluation step."""
    model = reference(name, 1000).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    auxiliary_weight = getattr(abstract_model(name), "auxiliary_weight", 0.0)

    def training() -> None:
        model.train()
        optimizer.zero_grad()
        torch_loss(model, images, labels, auxiliary_weight).backward()
        optimizer.step()

    def evaluation() -> None:
        model.eval()
        with torch.inference_mode():
            torch_loss(model, images, labels, auxiliary_weight)

    return training, evaluation


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (options.batch, options.size, options.size, 3), dtype=np.uint8)
    labels = random.integers(0, 1000, options.batch).astype(np.int32)
    batch = {"image": jnp.asarray(pixels), "label": jnp.asarray(labels)}
    images = np.array(TASK.images(batch["image"]))

    title = f"batch {options.batch}, {options.size} px, {torch.get_num_threads()} threads, median of {options.rounds}"
    table = Table("model", "step", "PyTorch, s", "jaxft, s", "ratio", title=title)
    with Live(table, refresh_per_second=1):
        for name in options.models:
            model = create_model(name)
            head = next(path for path, value in values(model).items() if value.ndim == 2).rpartition(".")[0]
            theirs = dict(zip(("training", "evaluation"), their_steps(name, images, labels), strict=True))
            everything, head_only = (
                (config.Rule(pattern="*"),),
                (
                    config.Rule(pattern=head),
                    config.Rule(pattern="*", frozen=True),
                ),
            )
            ours = {
                "training": our_training(create_model(name), TASK, OPTIMIZER, everything, batch),
                "evaluation": our_evaluation(create_model(name), batch),
            }
            for step in ("training", "evaluation"):
                seconds = interleaved({"theirs": theirs[step], "ours": ours[step]}, options.rounds)
                ratio = seconds["theirs"] / seconds["ours"]
                table.add_row(name, step, f"{seconds['theirs']:.3f}", f"{seconds['ours']:.3f}", f"{ratio:.2f}")
            parts = {
                "step": our_training(create_model(name), TASK, OPTIMIZER, head_only, batch),
                "forward": ours["evaluation"],
                "head": our_head_alone(create_model(name), head, batch),
            }
            seconds = interleaved(parts, options.rounds)
            ratio = (seconds["forward"] + seconds["head"]) / seconds["step"]
            table.add_row(name, "head only", "", f"{seconds['step']:.3f}", f"{ratio:.2f}")


if __name__ == "__main__":
    main()
