"""RoIAlign on accelerators: few and large steps, each gathers windows of cells for many rois and multiplies.

A window is some rows and columns of one map, and what each counts in the bins of its roi. With a fixed number of
samples a roi has one window, the two cells beside each sample along both axes: the number of steps is fixed. Under
adaptive sampling a roi has as many windows as its cells fill, next to each other; those of all rois stand in one list,
so that there is one loop of as many steps as the list fills, whatever the largest roi.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxft.detection.roi_cells import (
    Maps,
    Pooling,
    Rois,
    Shapes,
    all_cells,
    column_weights,
    prepare,
    row_weights,
    sample_cells,
    zeros,
    zeros_after,
)

# Rows and columns of a window under adaptive sampling, and about how many bytes of float32 cells a step gathers.
WINDOW, STEP_BYTES = (16, 32), 2**27
_einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


class Windows(NamedTuple):
    """B windows: the roi of each (the number of rois for none), its cells among all, and the weights of its axes."""

    roi: Array  # [B]
    cells: Array  # [B, rows, columns]
    rows: Array  # [B, oh, rows]
    columns: Array  # [B, ow, columns]


def forward(pooling: Pooling, maps: Maps, rois: Array, image: Array, level: Array) -> Array:
    """What `roi_align` returns."""
    cells, channels = all_cells(maps, maps[0].dtype), maps[0].shape[3]
    wide = jnp.promote_types(cells.dtype, jnp.float32)

    def pool(windows: Windows, out: Array) -> Array:
        values = cells.at[windows.cells].get(mode="promise_in_bounds", wrap_negative_indices=False)
        values, rows, columns = (part.astype(wide) for part in (values, windows.rows, windows.columns))
        across = _einsum("bpq,brqc->brpc", columns, values)
        return out.at[windows.roi].add(_einsum("bor,brpc->bopc", rows, across), mode="drop")

    all_rois = prepare(tuple(one.shape for one in maps), rois, image, level, pooling)
    out = zeros((rois.shape[0], *pooling.output_size, channels), wide, all_rois)
    return _for_windows(all_rois, pooling, channels, pool, out).astype(cells.dtype)


def backward(pooling: Pooling, shapes: Shapes, dy: Array, rois: Array, image: Array, level: Array) -> Array:
    """The gradient of all maps' cells in a row, `[cells, C]`, float32 or wider."""
    wide = jnp.promote_types(dy.dtype, jnp.float32)

    def spread(windows: Windows, cells: Array) -> Array:
        own = dy.at[windows.roi].get(mode="fill", fill_value=0).astype(wide)
        down = _einsum("bor,bopc->brpc", windows.rows.astype(wide), own)
        values = _einsum("bpq,brpc->brqc", windows.columns.astype(wide), down)
        return cells.at[windows.cells].add(values, mode="promise_in_bounds")

    all_rois, count = prepare(shapes, rois, image, level, pooling), sum(int(np.prod(shape[:3])) for shape in shapes)
    cells = zeros_after(dy, (count, dy.shape[3]), wide)
    return _for_windows(all_rois, pooling, dy.shape[3], spread, cells)


def _for_windows(
    rois: Rois, pooling: Pooling, channels: int, step: Callable[[Windows, Array], Array], carry: Array
) -> Array:
    """`step(windows, carry)` for all windows of all rois."""
    count, samples = rois.row.shape[0], pooling.sampling_ratio
    height, width = (2 * bins * samples for bins in pooling.output_size) if samples else WINDOW
    size = max(1, min(count, STEP_BYTES // (4 * height * width * channels)))
    ends = jnp.cumsum(_down(rois) * _across(rois), dtype=jnp.int32)
    windows = partial(_sampled, rois, pooling) if samples else partial(_covering, rois, pooling, ends)
    total: int | Array = count if samples else ends[-1]

    def body(index: Array, carry: Array) -> Array:
        return step(windows((index * size + jnp.arange(size)).astype(jnp.int32)), carry)

    return lax.fori_loop(0, (total + size - 1) // size, body, carry)


def _own(rois: Rois, place: Array) -> Rois:
    return Rois(*(part[jnp.minimum(place, part.shape[0] - 1)] for part in rois))


def _sampled(rois: Rois, pooling: Pooling, place: Array) -> Windows:
    """The one window of each of the rois at these places."""
    own = _own(rois, place)
    down, across = (partial(sample_cells, bins=bins, pooling=pooling) for bins in pooling.output_size)
    row, rows = jax.vmap(down)(own.top, own.bottom, own.height)
    column, columns = jax.vmap(across)(own.left, own.right, own.width)
    rows = jnp.where((own.rows > 0)[:, None, None], rows, 0)
    return Windows(place, _places(own, row, column), rows, columns)


def _covering(rois: Rois, pooling: Pooling, ends: Array, number: Array) -> Windows:
    """The windows of these numbers in the list of all; `ends` says where each roi's end."""
    place = (ends[None] <= number[:, None]).sum(1, dtype=jnp.int32)
    own = _own(rois, place)
    number = number - (ends[jnp.minimum(place, ends.shape[0] - 1)] - _down(own) * _across(own))
    across = jnp.maximum(_across(own), 1)
    row, column = own.row + number // across * WINDOW[0], own.column + number % across * WINDOW[1]
    rows = jax.vmap(lambda roi, row: row_weights(roi, row, WINDOW[0], pooling)[1])(own, row)
    columns = jax.vmap(lambda roi, column: column_weights(roi, column, WINDOW[1], pooling))(own, column)
    return Windows(place, _places(own, _next(row, WINDOW[0]), _next(column, WINDOW[1])), rows, columns)


def _next(first: Array, count: int) -> Array:
    return first[:, None] + jnp.arange(count, dtype=first.dtype)[None]


def _places(rois: Rois, row: Array, column: Array) -> Array:
    """Where rows `[B, rows]` and columns `[B, columns]` of rois' maps lie among all cells; beyond an edge, its own."""
    row = jnp.minimum(row, rois.height[:, None] - 1)
    column = jnp.minimum(column, rois.width[:, None] - 1)
    return (rois.base[:, None] + row * rois.width[:, None])[..., None] + column[:, None]


def _down(rois: Rois) -> Array:
    return (rois.rows + WINDOW[0] - 1) // WINDOW[0]


def _across(rois: Rois) -> Array:
    return (rois.columns + WINDOW[1] - 1) // WINDOW[1]
