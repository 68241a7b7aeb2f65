"""The loss and the prediction of a run, each cut in two where the first array that changes is needed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax import Array

from jaxft.data.stored import Views
from jaxft.models.layers.onednn import for_onednn
from jaxft.precision import precise
from jaxft.training.layout import context_of
from jaxft.training.setup import Setup
from jaxft.training.split import Split, cut
from jaxft.training.step import Arrays, Batch, Teaching, key_data, loss_of_arrays, predict_step

PREFIX = "kept"
"""Stored arrays are called by this and their number."""


@dataclass(frozen=True, eq=False)
class Halves:
    """A function of a model's arrays and a batch, cut in two.

    Attributes:
        varying: the paths of the parameters and statistics that change.
        large: the name of the array of a batch that the first half takes: the image, or the largest; `others` are left
            as they are.
    """

    split: Split
    varying: frozenset[str]
    large: str
    others: tuple[str, ...]
    image: jax.ShapeDtypeStruct
    rows: int

    def first(self, arrays: Mapping[str, Array], batch: Batch) -> Arrays:
        """What is kept of a batch, `[N, ...]` each, and its other arrays."""
        found = self.split.first(self._fixed(arrays), batch[self.large])
        kept = {f"{PREFIX}{at}": array.reshape(self._shape(array)) for at, array in enumerate(found)}
        return kept | {name: batch[name] for name in self.others}

    def loss(
        self, params: Arrays, frozen: Arrays, stats: Arrays, batch: Batch, key: Array, teaching: Teaching | None = None
    ) -> tuple[Array, Any]:
        """As of `jaxft.training.step.loss_of_arrays`; there is no teacher."""
        assert teaching is None
        return self._rest(params | frozen | stats, batch, key)

    def prediction(self, arrays: Mapping[str, Array], batch: Batch) -> Arrays:
        """As of `jaxft.training.step.predict_step`."""
        return self._rest(arrays, batch, ())

    def _rest(self, arrays: Mapping[str, Array], batch: Batch, key: Any) -> Any:
        kept = [batch[f"{PREFIX}{at}"].reshape(one.shape) for at, one in enumerate(self.split.kept)]
        varying = {path: array for path, array in arrays.items() if path in self.varying}
        return self.split.rest((varying, key), self._fixed(arrays), kept, {name: batch[name] for name in self.others})

    def _fixed(self, arrays: Mapping[str, Array]) -> Arrays:
        return {path: array for path, array in arrays.items() if path not in self.varying}

    def _shape(self, array: Array) -> tuple[int, ...]:
        """With the examples first, and what each has of several rows behind."""
        each = array.shape[0] // self.rows
        return (self.rows, *((each,) if each > 1 else ()), *array.shape[1:])


def loss_halves(setup: Setup, views: Views, rows: int) -> Halves:
    """The loss of a run all of whose phases train the same; statistics that it changes count as varying."""
    stage = setup.stages[0]
    loss = loss_of_arrays(
        setup.template(stage),
        setup.loss,
        precision=setup.config.precision,
        gathered=setup.layout.gathered,
        rematerialize=setup.config.hardware.rematerialize,
    )
    shapes = setup.abstract_state(stage)
    key = jax.eval_shape(jax.random.wrap_key_data, key_data(setup.config.seed))

    def function(arrays: Mapping[str, Array], batch: Batch, key: Array) -> Any:
        trained, stats = ({path: arrays[path] for path in one} for one in (stage.groups.trained, shapes.stats))
        frozen = {path: arrays[path] for path in shapes.params if path not in trained}
        return loss(trained, frozen, stats, batch, key, None)

    cut_at = partial(_halves, setup, function, shapes.model, views=views, rows=rows, key=key)
    every = stage.groups.trained | shapes.stats.keys()
    cautious = cut_at(frozenset(every))
    _, (stats, _) = cautious.split.places
    before = dict(zip([*sorted(every), ""], cautious.split.arguments[0], strict=True))
    moving = {path for path, place in stats.items() if place != before[path]}
    return cut_at(stage.groups.trained | moving)


def prediction_halves(setup: Setup, varying: frozenset[str], views: Views, rows: int) -> Halves:
    """The prediction of a run, where these parameters and statistics change."""
    model = nnx.clone(setup.model)
    model.eval()
    predict = predict_step(model, setup.task.predict, setup.config.precision, setup.layout.gathered)
    arrays = setup.abstract_state(setup.stages[0]).model
    return _halves(setup, lambda arrays, batch, _: predict(arrays, batch), arrays, varying, views, rows, ())


def _halves(
    setup: Setup,
    function: Callable[[Mapping[str, Array], Batch, Any], Any],
    arrays: Mapping[str, Any],
    varying: frozenset[str],
    views: Views,
    rows: int,
    key: Any,
) -> Halves:
    """Cuts a function of (arrays, batch, key), all of which may be abstract."""
    batch = setup.layout.abstract_batch(views.evaluation(0), rows)
    sizes = {name: math.prod(array.shape) * array.dtype.itemsize for name, array in batch.items()}
    large = "image" if "image" in batch else max(sizes, key=sizes.__getitem__)
    others = tuple(sorted(batch.keys() - {large}))

    def apart(changing: Any, fixed: Mapping[str, Array], image: Array, rest: Mapping[str, Array]) -> Any:
        return function({**changing[0], **fixed}, {**rest, large: image}, changing[1])

    traced = precise(apart, setup.config.precision)
    if setup.layout.mesh.devices.flat[0].platform == "cpu":
        traced = for_onednn(traced)
    changing = {path: array for path, array in arrays.items() if path in varying}
    fixed = {path: array for path, array in arrays.items() if path not in varying}
    with context_of(batch):
        split = cut(traced, (changing, key), fixed, batch[large], {name: batch[name] for name in others})
    return Halves(split, varying, large, others, batch[large], rows)
