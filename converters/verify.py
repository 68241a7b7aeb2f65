"""The proof: the same weights and images through PyTorch and through us, in evaluation and in training."""

import dataclasses
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from converters.ledger import load_pretrained, to_torch
from converters.report import STEPS, Report, difference, worst
from converters.rules import leaves
from converters.verify_reference import away_from_kinks, perturb, reference
from converters.verify_state import state_dict
from jaxft import config
from jaxft.models import BUILDERS, abstract_model, class_layers, initialize_missing
from jaxft.models.paths import filled, modules, values
from jaxft.models.streams import QUICK, initial_rngs
from jaxft.precision import precise
from jaxft.tasks.classification import Classification
from jaxft.tasks.classification.task import ClassificationTask
from jaxft.training.layout import one_device
from jaxft.training.optim import Numbers, set_modes
from jaxft.training.stages import lay_out
from jaxft.training.state import TrainState, initial_state
from jaxft.training.step import Compiled, StepInputs, key_data, train_step

if TYPE_CHECKING:
    import torch


CLASSIFICATION = ClassificationTask(Classification())
OPTIMIZER = config.Optimizer(learning_rate=0.001, momentum=0.9, weight_decay=1e-3)
HEAD_RATE = 10.0


def verify(
    name: str,
    *,
    size: int = 64,
    batch: int = 8,
    num_classes: int = 10,
    dtype: str = "float32",
    seed: int = 0,
    theirs: "torch.nn.Module | None" = None,
) -> Report:
    """Runs PyTorch's model and ours on the same random images and compares all that training depends on.

    Args:
        name: one of `jaxft.list_models()`.
        size, batch: of the random images.
        dtype: float32, or float64 on both sides to tell an error from rounding.
        theirs: PyTorch's model where it is not the one `reference` builds; it is changed.

    Dropout and stochastic depth are off on both sides: the two draw from different generators.

    Raises:
        UserError: the reference is not installed.
    """
    import torch

    start = time.perf_counter()
    torch.manual_seed(seed)
    options = {"image_size": size} if "image_size" in inspect.signature(BUILDERS[name]).parameters else {}
    theirs = theirs or reference(name, num_classes, **options)
    with torch.no_grad():
        perturb(theirs, seed)
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    labels = random.integers(0, num_classes, batch).astype(np.int32)
    away_from_kinks(theirs, np.array(CLASSIFICATION.images(jnp.asarray(pixels))))
    with precision(dtype):
        ours = abstract_model(name, num_classes, **options)
        load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
        initialize_missing(ours, lambda: BUILDERS[name](num_classes, rngs=initial_rngs(seed), **options))
        heads = class_layers(partial(abstract_model, name, **options))
        return compare(name, theirs, ours, heads, pixels, labels, dtype, start)


def compare(
    name: str,
    theirs: "torch.nn.Module",
    ours: nnx.Module,
    heads: Sequence[str],
    pixels: np.ndarray,
    labels: np.ndarray,
    dtype: str,
    start: float,
) -> Report:
    """The report on two models of one architecture; `ours` holds the weights of `theirs` (in float32).

    `heads` are the paths of the class-dependent layers; they get a rate of their own.
    """
    import torch

    theirs.to(getattr(torch, dtype))
    without_chance(theirs, ours)
    ours = widened(ours, dtype)
    task = ClassificationTask(CLASSIFICATION.fields, dtype)
    images = np.array(task.images(jnp.asarray(pixels)))

    stages, logits = evaluate_both(theirs, ours, images)
    round_trip = comes_back(theirs, to_torch(ours))

    # One side after the other: together, their optimizers would not leave a ViT-H/14 enough of 24 GiB.
    weight = getattr(ours, "auxiliary_weight", 0.0)
    their_loss, their_grads, their_statistics = torch_training(theirs, heads, images, labels, weight)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    step, state = training(ours, task, heads, dtype)
    state, metrics = step(state, batch)
    gradients = worst(as_torch(ours, state.opt_state[0]), their_grads, 1e-2)
    statistics = worst(as_torch(ours, state.stats), their_statistics, 0.0)
    del their_grads
    for _ in range(STEPS - 1):
        state, _ = step(state, batch)
    return Report(
        model=name,
        parameters=sum(parameter.numel() for parameter in theirs.parameters()),
        stages=stages,
        logits=logits,
        loss=difference(metrics["loss"], their_loss),
        gradients=gradients,
        statistics=statistics,
        steps=worst(as_torch(ours, state.params), dict(theirs.named_parameters()), 0.0),
        round_trip=round_trip,
        seconds=time.perf_counter() - start,
    )


def comes_back(theirs: "torch.nn.Module", exported: Mapping[str, np.ndarray]) -> bool:
    """Whether an export is bit for bit the state dict of PyTorch's model, which loads it with `strict=True`."""
    source = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    same = exported.keys() == source.keys() and all(
        value.dtype == source[key].dtype and np.array_equal(value, source[key]) for key, value in exported.items()
    )
    theirs.load_state_dict(state_dict(exported), strict=True)
    return same


def without_chance(theirs: "torch.nn.Module", ours: nnx.Module) -> None:
    """Sets every probability of dropout and stochastic depth to 0."""
    for module in theirs.modules():
        for name in ("p", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for _, ours_module in modules(ours):
        if hasattr(ours_module, "rate"):
            ours_module.rate = 0.0


def evaluate_both(theirs: "torch.nn.Module", ours: Any, images: np.ndarray) -> tuple[dict[str, float], float]:
    """The differences in evaluation mode: after each stage that our model names, and of the logits."""
    import torch

    def forward(arrays: dict[str, jax.Array], images: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        model: Any = filled(ours, arrays)
        return model.stages(images), model(images)

    ours.eval()
    theirs.eval()
    run = Compiled(lambda arrays, batch: precise(forward, "float32")(arrays, batch["image"]), options=QUICK)
    our_stages, our_logits = run(values(ours), {"image": jnp.asarray(images)})
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        theirs.get_submodule(stage).register_forward_hook(
            lambda _, inputs, output, stage=stage: seen.__setitem__(stage, output.clone())
        )
        for stage in our_stages
    ]
    with torch.no_grad():
        their_logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    stages = {
        stage: difference(value, channels_last(seen[stage].numpy(), value.shape))
        for stage, value in sorted(our_stages.items(), key=lambda item: list(seen).index(item[0]))
    }
    return stages, difference(our_logits, their_logits.numpy())


def channels_last(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's feature map in the order of axes of ours, whose shape is given; some have the channels last already."""
    if array.ndim != 4:
        return array
    turned = array.transpose(0, 2, 3, 1)
    return turned if turned.shape == shape else array


def training(ours: nnx.Module, task: ClassificationTask, heads: Sequence[str], dtype: str) -> tuple[Any, TrainState]:
    """Our compiled step with two groups of rates, and its first state; the optimizer's keeps each step's gradient."""
    parameters = values(ours, nnx.Param)
    rules = [config.Rule(pattern=head, lr_scale=HEAD_RATE) for head in heads]
    phase = config.Phase(rules=(*rules, config.Rule(pattern="*")))
    settings = config.Config(optimizer=OPTIMIZER, phases=(phase,))
    (stage,) = lay_out(settings, {path: tuple(value.shape) for path, value in parameters.items()}, steps_per_epoch=1)
    set_modes(ours, stage.groups, phase.batch_norm)
    inputs = StepInputs(key_data(0), stage.numbers(0))

    def chain(numbers: Numbers) -> optax.GradientTransformation:
        return optax.chain(recorder(), stage.chain(numbers))

    state = initial_state(stage, parameters, values(ours, nnx.BatchStat), one_device(), ema=False)
    state = dataclasses.replace(state, opt_state=chain(inputs.numbers).init(parameters))
    # The old state's memory goes to the new one: the largest models fill the memory of a laptop.
    step = train_step(ours, task.loss, stage.groups.trained, chain, precision=dtype)
    compiled = Compiled(step, updates_state=True, options=QUICK)
    return lambda state, batch: compiled(state, batch, inputs), state


def recorder() -> optax.GradientTransformation:
    """Passes gradients on unchanged and keeps them as its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, _, __=None: (grads, grads)
    )


def torch_training(
    theirs: "torch.nn.Module", heads: Sequence[str], images: np.ndarray, labels: np.ndarray, auxiliary_weight: float
) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Takes PyTorch's model through all steps; the loss, the gradients and the statistics of the first one."""
    theirs.train()
    optimizer = torch_optimizer(theirs, heads)
    first = torch_loss(theirs, images, labels, auxiliary_weight)
    first.backward()
    gradients = {key: value.grad for key, value in theirs.named_parameters()}
    optimizer.step()
    statistics = {key: value.clone() for key, value in theirs.named_buffers()}
    for _ in range(STEPS - 1):
        optimizer.zero_grad()
        torch_loss(theirs, images, labels, auxiliary_weight).backward()
        optimizer.step()
    optimizer.zero_grad()
    return first.detach().numpy(), gradients, statistics


def torch_loss(
    theirs: "torch.nn.Module", images: np.ndarray, labels: np.ndarray, auxiliary_weight: float
) -> "torch.Tensor":
    """PyTorch's cross-entropy on a batch `[N, H, W, 3]`, that of auxiliary heads added with their weight."""
    import torch

    outputs = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    loss, target = torch.nn.functional.cross_entropy, torch.from_numpy(labels).long()
    return loss(logits, target) + auxiliary_weight * sum(loss(extra, target) for extra in auxiliary)


def torch_optimizer(theirs: "torch.nn.Module", heads: Sequence[str]) -> "torch.optim.Optimizer":
    """PyTorch's SGD with a higher rate for the heads."""
    import torch

    rate, prefixes = OPTIMIZER.learning_rate, tuple(f"{head}." for head in heads)
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in theirs.named_parameters() if not name.startswith(prefixes)]},
        {"params": [p for name, p in theirs.named_parameters() if name.startswith(prefixes)], "lr": rate * HEAD_RATE},
    ]
    return torch.optim.SGD(groups, lr=rate, momentum=OPTIMIZER.momentum, weight_decay=OPTIMIZER.weight_decay)


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """64-bit arithmetic in JAX where the dtype asks for it."""
    with jax.enable_x64(dtype == "float64"):
        yield


def widened(model: nnx.Module, dtype: str) -> nnx.Module:
    """A copy with its floating-point arrays in `dtype`."""
    arrays = values(model)
    return filled(
        model, {p: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v for p, v in arrays.items()}
    )


def as_torch(ours: nnx.Module, arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Arrays by our path as arrays under PyTorch's names and in its order of axes."""
    return {leaf.key: leaf.to_torch(np.asarray(arrays[leaf.path])) for leaf in leaves(ours) if leaf.path in arrays}
