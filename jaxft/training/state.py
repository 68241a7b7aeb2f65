"""The state of a run: shapes and shardings first, then arrays made where they belong."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxft.training.layout import Layout
from jaxft.training.stages import Stage

Arrays = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and changes; parameters and statistics by dotted path.

    Attributes:
        step: int32 `[]`, how many steps were taken.
        all_finite: bool `[]`, turns false at the first loss or gradient that is not finite; from then on steps change
            nothing, so that the last good state stays.
        params: every parameter, trained or frozen.
        stats: BatchNorm's statistics and other constants of the state dict.
        ema: the moving average of `params`, or of `params` and `stats`; None where none is kept.
        opt_state: the optimizer's, of the trained parameters alone.
    """

    step: Array
    all_finite: Array
    params: Arrays
    stats: Arrays
    ema: Arrays | None
    opt_state: optax.OptState

    @property
    def model(self) -> Arrays:
        """Every array that a model is filled with."""
        return self.params | self.stats

    @property
    def evaluated(self) -> Arrays:
        """What evaluation looks at: averages where they are kept."""
        return self.params | self.stats | (self.ema or {})


def _optimizer_init(stage: Stage, params: Mapping[str, Any]) -> optax.OptState:
    """The optimizer's state before its first step; `params` may be shapes."""
    zeros = {path: jnp.zeros(params[path].shape, params[path].dtype) for path in sorted(stage.groups.trained)}
    rates = {group.label: 0.0 for group in stage.groups.trained_groups}
    return stage.chain(stage.fixed_numbers | {"learning_rate": rates}).init(zeros)


def abstract_state(
    stage: Stage, params: Mapping[str, Any], stats: Mapping[str, Any], *, ema: bool, buffers: bool = False
) -> TrainState:
    """The shapes and types of a state during a stage; `params` and `stats` may be shapes or arrays.

    Args:
        ema, buffers: whether an average of the parameters, and of the statistics, is kept.
    """
    parameters, statistics = (
        {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
        for leaves in (params, stats)
    )
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),  # type: ignore[arg-type]
        all_finite=jax.ShapeDtypeStruct((), jnp.bool_),  # type: ignore[arg-type]
        params=parameters,  # type: ignore[arg-type]
        stats=statistics,  # type: ignore[arg-type]
        ema=(parameters | statistics if buffers else parameters) if ema else None,  # type: ignore[arg-type]
        opt_state=jax.eval_shape(partial(_optimizer_init, stage, parameters)),
    )


def initial_state(
    stage: Stage, params: Arrays, stats: Arrays, layout: Layout, *, ema: bool, buffers: bool = False
) -> TrainState:
    """The state before the first step of a run; `params` and `stats` lie where they belong already.

    Args:
        ema, buffers: as of `abstract_state`.
    """
    averaged = params | stats if buffers else params
    scalars = layout.place({"step": np.zeros((), np.int32), "all_finite": np.ones((), np.bool_)})
    return TrainState(
        step=scalars["step"],
        all_finite=scalars["all_finite"],
        params=params,
        stats=stats,
        ema={path: jax.device_put(leaf, leaf.sharding, may_alias=False) for path, leaf in averaged.items()}
        if ema
        else None,
        opt_state=_made(stage, params, layout, {}),
    )


def enter(stage: Stage, before: Stage, state: TrainState, layout: Layout) -> TrainState:
    """The state at the start of a stage: what the optimizer knows of parameters that stay trained comes along."""
    old = {_leaf_key(path, before): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]}
    kept: dict[str, Array] = {}
    for path, _ in jax.tree_util.tree_flatten_with_path(jax.eval_shape(partial(_optimizer_init, stage, state.params)))[
        0
    ]:
        slot, label, parameter = _leaf_key(path, stage)
        # A count belongs to a group, whose members have all been trained since the same phase.
        member = parameter or next(name for name, owner in stage.groups.labels.items() if owner == label)
        found = old.get((slot, before.groups.labels[member], parameter))
        if found is not None:
            kept[jax.tree_util.keystr(path)] = found
    return dataclasses.replace(state, opt_state=_made(stage, state.params, layout, kept))


def _leaf_key(path: tuple[Any, ...], stage: Stage) -> tuple[str, str, str]:
    """(which number of the optimizer, label of the group, path of the parameter or nothing) of a leaf of its state."""
    keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    label = next((key for key in keys if key in stage.groups.groups), "")
    parameter = next((key for key in keys if key in stage.groups.labels), "")
    rest = tuple(entry for entry in path if getattr(entry, "key", None) not in (label, parameter))
    return jax.tree_util.keystr(rest), label, parameter


def _made(stage: Stage, params: Mapping[str, Any], layout: Layout, kept: Mapping[str, Array]) -> optax.OptState:
    """An optimizer's state of the leaves in `kept`, by their place in it, and fresh ones made where they belong.

    All that the optimizers of `jaxft.training.optim` keep begins at zero, so that no program is compiled for it.
    """
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    leaves, structure = jax.tree_util.tree_flatten_with_path(jax.eval_shape(partial(_optimizer_init, stage, shapes)))
    places = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    zeros = {place: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for place, leaf in places}
    fresh = layout.place({place: zero for place, zero in zeros.items() if place not in kept})
    return jax.tree.unflatten(structure, [kept[place] if place in kept else fresh[place] for place, _ in places])
