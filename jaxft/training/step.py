"""One step of training and one of prediction as pure functions on arrays, compiled once and never again unnoticed."""

import dataclasses
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jaxft.errors import UserError
from jaxft.memory import give_back_if_large
from jaxft.models.layers import Wide
from jaxft.models.layers.onednn import Option, compiled, for_onednn
from jaxft.models.layers.rematerialization import rematerializing
from jaxft.models.paths import filled, values, walk
from jaxft.precision import dtype_of, precise
from jaxft.training.ema import averaged
from jaxft.training.layout import context_of, on_host
from jaxft.training.optim import Numbers
from jaxft.training.state import TrainState
from jaxft.training.stopping import Work, at_once

Arrays = dict[str, Array]
Batch = Mapping[str, Array]
LossFunction = Callable[..., tuple[Array, Arrays]]
ArrayLoss = Callable[[Arrays, Arrays, Arrays, Batch, Array, "Teaching | None"], tuple[Array, Any]]
Gathered = Callable[[Mapping[str, Array]], Arrays]
Step = Callable[[TrainState, Batch, "StepInputs"], tuple[TrainState, Arrays]]


class Teaching(NamedTuple):
    """What the loss of a run with a teacher takes besides the model and the batch; see `jaxft.training.teaching`.

    Attributes:
        arrays: the teacher's parameters and statistics by dotted path.
        numbers: the weights in the loss, the temperature.
    """

    arrays: Mapping[str, Array]
    numbers: Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepInputs:
    """What may change from step to step, or from run to run, without compiling again.

    Attributes:
        key: uint32, the data of the run's random key; with the number of the step it decides all that is random.
        numbers: see `jaxft.training.optim.Numbers`.
        ema_momentum: the share of the new values in the moving average, see `jaxft.training.ema`.
        teaching: of a run with a teacher.
    """

    key: np.ndarray
    numbers: Numbers
    ema_momentum: float = 0.0
    teaching: Teaching | None = None


@cache
def key_data(seed: int) -> np.ndarray:
    """The data of a random key on the host, where every process has it.

    Computed once: a second time it would wait for whatever the host's device is drawing by then.
    """
    with on_host():
        return np.asarray(jax.random.key_data(jax.random.key(seed)))


def train_step(
    template: nnx.Module,
    loss_function: LossFunction,
    trained: Collection[str],
    chain: Callable[[Numbers], optax.GradientTransformation],
    *,
    parts: int = 1,
    precision: str = "float32",
    gathered: Gathered = dict,
    rematerialize: bool = False,
    through: Callable[[ArrayLoss], ArrayLoss] = lambda loss: loss,
) -> Step:
    """A function (state, batch, inputs) -> (state, metrics of the batch), to be compiled.

    Args:
        template: the model in its training modes; it may be abstract.
        loss_function: (model, batch) -> (loss, metrics), such as a task's `loss`; with a teacher (model, batch,
            teaching) -> the same.
        trained: the paths of the parameters that are not frozen.
        chain: makes the optimizer of its numbers, which are inputs; see `jaxft.training.stages.Stage.chain`.
        parts: in how many parts a batch goes through the model; the step is taken on their mean gradient.
        precision: see `jaxft.precision`; what is cast is said by `computing`, gradients come back in the parameters'
            own type, and are summed in it.
        gathered: see `jaxft.training.layout.Layout.gathered`.
        rematerialize: see `jaxft.models.layers.rematerialization`.
        through: makes of the loss of arrays one that takes batches of another kind; see `jaxft.training.features`.
    """
    trained = sorted(trained)
    loss = through(
        loss_of_arrays(template, loss_function, precision=precision, gathered=gathered, rematerialize=rematerialize)
    )

    def gradient(
        params: Arrays, frozen: Arrays, stats: Arrays, batch: Batch, key: Array, teaching: Teaching | None
    ) -> Gradient:
        grads, (stats, metrics) = jax.grad(loss, has_aux=True)(params, frozen, stats, batch, key, teaching)
        return Gradient(grads, stats, metrics)

    def mean_gradient(
        params: Arrays, frozen: Arrays, stats: Arrays, batch: Batch, key: Array, teaching: Teaching | None
    ) -> Gradient:
        def one(index: Array | int, stats: Arrays, key: Array) -> Gradient:
            # Part i takes every `parts`-th example: a device keeps its own, and nothing travels.
            rows = {name: array.reshape(-1, parts, *array.shape[1:])[:, index] for name, array in batch.items()}
            return gradient(params, frozen, stats, rows, key, teaching)

        def body(sums: Gradient, item: tuple[Array, Array]) -> tuple[Gradient, None]:
            part = one(item[0], sums.stats, item[1])
            add = partial(jax.tree.map, jnp.add)
            return Gradient(add(sums.grads, part.grads), part.stats, add(sums.metrics, part.metrics)), None

        first = jax.eval_shape(partial(one, 0), stats, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (first.grads, first.metrics))
        items = (jnp.arange(parts), jax.random.split(key, parts))
        sums, _ = jax.lax.scan(body, Gradient(zeros[0], stats, zeros[1]), items)
        grads, metrics = jax.tree.map(lambda leaf: leaf / parts, (sums.grads, sums.metrics))
        return Gradient(grads, sums.stats, metrics)

    def step(state: TrainState, batch: Batch, inputs: StepInputs) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(inputs.key)), state.step)
        params = {path: state.params[path] for path in trained}
        frozen = {path: value for path, value in state.params.items() if path not in params}
        of_batch = gradient if parts == 1 else mean_gradient
        found = of_batch(params, frozen, state.stats, batch, key, inputs.teaching)
        updates, opt_state = chain(inputs.numbers).update(found.grads, state.opt_state, params)
        finite = state.all_finite & jnp.isfinite(found.metrics["loss"]) & jnp.isfinite(optax.tree.norm(found.grads))
        after = Changing(state.step + 1, optax.apply_updates(params, updates), found.stats, opt_state)
        before = Changing(state.step, params, state.stats, state.opt_state)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
        everything = frozen | kept.params
        ema = state.ema
        if ema is not None:
            present = everything | kept.stats
            new = {path: averaged(average, present[path], inputs.ema_momentum) for path, average in ema.items()}
            ema = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, ema)
        return TrainState(kept.step, finite, everything, kept.stats, ema, kept.opt_state), found.metrics

    return precise(step, precision)


def loss_of_arrays(
    template: nnx.Module,
    loss_function: LossFunction,
    *,
    precision: str = "float32",
    gathered: Gathered = dict,
    rematerialize: bool = False,
) -> ArrayLoss:
    """The loss as a function of arrays: (trained parameters, frozen ones, statistics, batch, key, teaching) -> (loss,
    (statistics afterwards, metrics)); arguments as of `train_step`."""

    def loss(
        params: Arrays, frozen: Arrays, stats: Arrays, batch: Batch, key: Array, teaching: Teaching | None = None
    ) -> tuple[Array, Any]:
        model = computing(template, params | frozen | stats, dtype_of(precision), gathered)
        reseed(model, key)
        with rematerializing(rematerialize) as blocks:
            value, metrics = loss_function(model, batch, *(() if teaching is None else (teaching,)))
        if rematerialize and not blocks:
            raise UserError(
                f"hardware.rematerialize keeps the inputs of blocks alone, but the {type(template).__name__} has none "
                "that it knows; leave it out."
            )
        return value, (values(model, nnx.BatchStat), metrics)

    return loss


class Gradient(NamedTuple):
    """What a part of a batch gives: the gradient, the new statistics, the metrics."""

    grads: Arrays
    stats: Arrays
    metrics: Arrays


class Changing(NamedTuple):
    """The parts of a state that a step changes only if all is finite."""

    step: Array
    params: Arrays
    stats: Arrays
    opt_state: optax.OptState


def predict_step(
    template: nnx.Module,
    predict: Callable[[Any, Batch], Arrays],
    precision: str = "float32",
    gathered: Gathered = dict,
) -> Callable[[Mapping[str, Array], Batch], Arrays]:
    """A function (model's arrays, batch) -> predictions, to be compiled. `template` is in evaluation mode."""

    def step(arrays: Mapping[str, Array], batch: Batch) -> Arrays:
        return predict(computing(template, arrays, dtype_of(precision), gathered), batch)

    return precise(step, precision)


def computing(template: nnx.Module, arrays: Mapping[str, Array], dtype: str, gathered: Gathered = dict) -> nnx.Module:
    """A copy of `template` that holds `arrays` as its arithmetic wants them, in training as in evaluation.

    Parameters of two and more axes are cast to `dtype`; those of one axis, `Wide` ones, and whatever is no parameter
    (statistics, constants, tables of indices) stay as they are.
    """
    if dtype == "float32":
        return filled(template, gathered(arrays))
    narrow = {
        place.path: arrays[place.path].astype(dtype)
        for place in walk(template)
        if isinstance(place.variable, nnx.Param)
        and not isinstance(place.variable, Wide)
        and arrays[place.path].ndim > 1
        and jnp.issubdtype(arrays[place.path].dtype, jnp.floating)
    }
    return filled(template, gathered({**arrays, **narrow}))


def reseed(model: nnx.Module, key: Array) -> None:
    """Gives every random stream of a model (dropout, drop-path) a key of its own that depends on `key` and its path."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.RngStream):
            node.key.set_value(jax.random.fold_in(key, zlib.crc32(repr(path).encode())))
            node.count.set_value(jnp.zeros((), jnp.uint32))


class RecompilationError(RuntimeError):
    """A step met a batch of another shape than it was compiled for."""


def _shapes(batch: Mapping[str, Any]) -> tuple:
    return tuple((name, batch[name].shape, str(batch[name].dtype)) for name in sorted(batch))


class Compiled:
    """A function of (state, batch, ...) that is compiled once for each shape of batch, at most `budget` times.

    Args:
        function: pure; where `updates_state`, its first result has the structure and shardings of its first argument,
            whose memory it is given.
        budget: how many shapes of batch are expected.
        compiling: is told the number of the program before each compilation, to be entered while it lasts.
        options: of XLA's, as of `jax.jit`.
    """

    def __init__(
        self,
        function: Callable,
        *,
        updates_state: bool = False,
        budget: int = 1,
        compiling: Callable[[int], AbstractContextManager] = lambda _: nullcontext(),
        options: Mapping[str, Option] = MappingProxyType({}),
    ) -> None:
        self._options = options
        self._function, self._updates_state = function, updates_state
        self._budget, self._compiling = budget, compiling
        self._programs: dict[tuple, Callable] = {}
        self._begun: dict[tuple, Work[Callable]] = {}

    @property
    def compilations(self) -> int:
        """How often the function was compiled."""
        return len(self._programs)

    def expect(self, shapes: int) -> None:
        """Allows so many shapes of batch, where fewer were expected."""
        self._budget = max(self._budget, shapes)

    def __call__(self, state: Any, batch: Batch, *rest: Any) -> Any:
        """Runs the function.

        Raises:
            RecompilationError: the batch has a shape that the budget does not cover; the message names the array.
        """
        shapes = _shapes(batch)
        give_back_if_large()
        if shapes not in self._programs:
            self._refuse_beyond_budget(shapes)
            with self._compiling(self.compilations + 1):
                begun = self._begun.pop(shapes, None) or self._begin(False, state, batch, *rest)
                self._programs[shapes] = begun.result()
        return self._programs[shapes](state, batch, *rest)

    def _refuse_beyond_budget(self, shapes: tuple) -> None:
        if self.compilations < self._budget:
            return
        known = {item for seen in self._programs for item in seen}
        new = ", ".join(f"{name} {shape} {dtype}" for name, shape, dtype in shapes if (name, shape, dtype) not in known)
        raise RecompilationError(
            f"The step was compiled {self.compilations} time(s), as expected, and now meets the new shape {new}. "
            "Pad the data to fixed shapes."
        )

    def prepare(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> None:
        """Begins to compile for a shape of batch while something else goes on; what does not compile, fails when it is
        called. It is traced at once.

        Arrays may be abstract, with shardings.
        """
        shapes = _shapes(batch)
        if shapes not in self._programs and shapes not in self._begun:
            self._begun[shapes] = self._begin(True, state, batch, *rest)

    def _begin(self, patient: bool, state: Any, batch: Mapping[str, Any], *rest: Any) -> Work[Callable]:
        with at_once():
            return Work(self.compiler(state, batch, *rest), patient=patient)

    def compiler(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> Callable[[], jax.stages.Compiled]:
        """Traces the function for a shape of batch; what is returned compiles it. Arrays may be abstract."""
        return partial(compiled, self.lowered(state, batch, *rest), _platform(state), self._options)

    def lowered(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> jax.stages.Lowered:
        """The function traced for a shape of batch, not compiled yet; arrays may be abstract, with shardings."""
        function = for_onednn(self._function) if _platform(state) == "cpu" else self._function
        jitted = jax.jit(function)
        if self._updates_state:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
            jitted = jax.jit(function, donate_argnums=0, out_shardings=(shardings, None))
        with context_of(batch):
            return jitted.lower(state, batch, *rest)


def _platform(state: Any) -> str:
    """Where a function of `state` runs."""
    shardings = (leaf.sharding for leaf in jax.tree.leaves(state) if isinstance(leaf, Array | jax.ShapeDtypeStruct))
    devices = {device.platform for sharding in shardings if sharding is not None for device in sharding.device_set}
    return devices.pop() if len(devices) == 1 else jax.default_backend()
