"""RoIAlign over the levels of a feature pyramid; He et al. 2017, https://arxiv.org/abs/1703.06870.

A roi's output is the average of bilinear samples in each of its bins. Samples lie on a grid, so the average is
`Wy @ F @ Wx^T` with a small matrix for each axis, whose entries have a closed form for any number of samples. That
holds for adaptive sampling too, where the reference takes as many samples as a bin has cells.

A roi reads the columns it covers, rounded up to one of a few widths, and its rows in blocks, as many as it needs. Rois
are sorted by level and width; a loop with a dynamic number of steps takes each sort. So nothing depends on how large or
elongated a roi is but the time it takes. On the CPU a step is one roi and matrix products that stay in cache; on
accelerators it is a chunk of rois.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Maps = tuple[Array, ...]


class Pooling(NamedTuple):
    """All of RoIAlign that is not an array: pixels a cell of each level, bins, samples a bin and axis, alignment."""

    strides: tuple[float, ...]
    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool


class Steps(NamedTuple):
    """How the work is cut: rois a step, rows a block, widths in columns (the map's own comes last)."""

    rois: int
    rows: int
    widths: tuple[int, ...]


CPU, ACCELERATOR = Steps(1, 8, (8, 16, 32, 64)), Steps(64, 32, (32, 64))


def assign_levels(rois: Array, num_levels: int, finest_scale: float = 56) -> Array:
    """Level of each roi `[R, 4]` -> int32 `[R]`, MMDetection's: floor(log2(sqrt(area) / finest_scale + 1e-6))."""
    level = jnp.floor(jnp.log2(_scale(rois) / finest_scale + 1e-6))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


def assign_levels_canonical(
    rois: Array,
    num_levels: int,
    first_level: int = 2,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    eps: float = 1e-6,
) -> Array:
    """torchvision's: floor(canonical_level + log2(sqrt(area) / canonical_scale) + eps), counted from `first_level`
    (2 for a finest stride of 4); Lin et al. 2016, https://arxiv.org/abs/1612.03144, equation 1."""
    ratio = jnp.maximum(_scale(rois) / canonical_scale, 1e-12)
    level = jnp.floor(canonical_level + jnp.log2(ratio) + eps) - first_level
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


def _scale(rois: Array) -> Array:
    return jnp.sqrt(jnp.maximum((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1]), 0))


def roi_align(
    maps: Sequence[Array],
    rois: Array,
    image: Array,
    level: Array,
    strides: Sequence[float],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Array:
    """Features of each roi: `[R, oh, ow, C]`, in the dtype of the maps. Gradients go to the maps only, as in PyTorch.

    Args:
        maps: `[N, H_l, W_l, C]` for each level.
        rois: `[R, 4]` in pixels. One without area has zeros under `aligned` adaptive sampling, as in the reference.
        image, level: int32 `[R]`, which map a roi reads; a level outside 0..len(maps)-1 gives zeros.
        strides: pixels a cell, for each level.
        output_size: bins, one number or (height, width).
        sampling_ratio: samples a bin along each axis; 0: as many as a bin has cells, rounded up.
        aligned: whether pixel centres are at half-integers; without it a roi is at least one cell wide and high.
    """
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    pooling = Pooling(tuple(float(stride) for stride in strides), size, max(sampling_ratio, 0), aligned)
    return _roi_align(tuple(maps), rois, image, level, pooling)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _roi_align(maps: Maps, rois: Array, image: Array, level: Array, pooling: Pooling) -> Array:
    forward = partial(_forward, pooling)
    return lax.platform_dependent(
        maps, rois, image, level, cpu=partial(forward, CPU), default=partial(forward, ACCELERATOR)
    )


def _roi_align_fwd(
    maps: Maps, rois: Array, image: Array, level: Array, pooling: Pooling
) -> tuple[Array, tuple[Maps, Array, Array, Array]]:
    return _roi_align(maps, rois, image, level, pooling), (maps, rois, image, level)


def _roi_align_bwd(
    pooling: Pooling, saved: tuple[Maps, Array, Array, Array], dy: Array
) -> tuple[Maps, Array, np.ndarray, np.ndarray]:
    maps, rois, image, level = saved
    shapes = tuple((one.shape, one.dtype) for one in maps)
    backward = partial(_backward, pooling, shapes)
    gradient = lax.platform_dependent(
        dy, rois, image, level, cpu=partial(backward, CPU), default=partial(backward, ACCELERATOR)
    )
    none = np.zeros(image.shape, jax.dtypes.float0)
    return gradient, jnp.zeros_like(rois), none, none


_roi_align.defvjp(_roi_align_fwd, _roi_align_bwd)


def axis_weights(
    low: Array,
    high: Array,
    bins: int,
    length: int,
    first: Array,
    cells: int,
    sampling_ratio: int,
    aligned: bool,
) -> Array:
    """What each cell counts in each bin along one axis: `[bins, cells]`.

    Args:
        low, high: scalars, the roi's edges in cells.
        bins: bins between them.
        length: cells of the map.
        first, cells: the cells asked for: first, first + 1, ...
        sampling_ratio, aligned: as of `roi_align`.
    """
    start, size, count = _extent(low, high, bins, sampling_ratio, aligned)
    spacing = size / bins / jnp.maximum(count, 1)
    origin = (start + jnp.arange(bins) * (size / bins) + spacing / 2)[:, None]
    cell = (first + jnp.arange(cells)).astype(origin.dtype)[None]
    if sampling_ratio:
        total = jnp.zeros((bins, cells), origin.dtype)
        for sample in range(sampling_ratio):
            where = origin + sample * spacing
            hat = jnp.maximum(1 - jnp.abs(jnp.clip(where, 0, length - 1) - cell), 0)
            total += jnp.where((where >= -1) & (where <= length), hat, 0)
        return total / sampling_ratio
    # Samples are origin + s * spacing. How many of a bin's lie below a border is a division, and their sum that of an
    # arithmetic progression. A sample within rounding of a border counts the same on either side of it.
    step = jnp.where(spacing > 0, spacing, 1)

    def below(border: Array) -> Array:
        return jnp.clip(jnp.ceil((border - origin) / step), 0, count)

    def rise(start: Array, end: Array, base: Array) -> Array:
        """Sum of sample - base over samples start..end - 1."""
        return (end - start) * (origin - base + spacing * (start + end - 1) / 2)

    before, at, after = below(cell - 1), below(cell), below(cell + 1)
    # The first cell's weight is 1 for samples up to one cell before it, the last one's likewise.
    left = jnp.where(cell == 0, at - before, rise(before, at, cell - 1))
    upto_end = jnp.clip(jnp.floor((length - origin) / step) + 1, 0, count)
    right = jnp.where(cell == length - 1, upto_end - at, -rise(at, after, cell + 1))
    return jnp.where(count > 0, (left + right) / jnp.maximum(count, 1), 0)


def _extent(low: Array, high: Array, bins: int, sampling_ratio: int, aligned: bool) -> tuple[Array, Array, Array]:
    """Start and size of rois in cells, and samples a bin (a float); not positive for adaptive ones without size."""
    start, end = (low - 0.5, high - 0.5) if aligned else (low, high)
    size = end - start if aligned else jnp.maximum(end - start, 1)
    return start, size, jnp.full_like(size, sampling_ratio) if sampling_ratio else jnp.ceil(size / bins)


def _covered(low: Array, high: Array, bins: int, length: int, pooling: Pooling) -> tuple[Array, Array]:
    """First cell that rois read along an axis, and how many: int32."""
    start, size, count = _extent(low, high, bins, pooling.sampling_ratio, pooling.aligned)
    margin = size / bins / jnp.maximum(count, 1) / 2
    ends = start + margin, start + size - margin
    first, last = (
        jnp.floor(jnp.clip(edge, 0, length - 1)).astype(jnp.int32) for edge in (jnp.minimum(*ends), jnp.maximum(*ends))
    )
    return first, jnp.minimum(last + 1, length - 1) - first + 1


class _Rois(NamedTuple):
    """Rois of one map in cells, and the cells they read; arrays `[R]`, or scalars for one roi."""

    image: Array
    top: Array
    bottom: Array
    left: Array
    right: Array
    row: Array
    rows: Array
    column: Array
    columns: Array


def _of_level(rois: Array, image: Array, shape: Sequence[int], stride: float, pooling: Pooling) -> _Rois:
    (bins_y, bins_x), scale = pooling.output_size, 1 / stride
    left, top, right, bottom = (rois[:, side] * scale for side in range(4))
    row, rows = _covered(top, bottom, bins_y, shape[1], pooling)
    column, columns = _covered(left, right, bins_x, shape[2], pooling)
    return _Rois(image, top, bottom, left, right, row, rows, column, columns)


def _sorts(
    shapes: Sequence[Sequence[int]], rois: Array, image: Array, level: Array, pooling: Pooling, steps: Steps
) -> tuple[Array, list[tuple[int, int, Array, Array, _Rois]]]:
    """Rois sorted by level and width: the order `[R]`, and level, width, start, end and rois of each sort."""
    sorts, kind = [], jnp.full(level.shape, jnp.iinfo(jnp.int32).max, jnp.int32)
    for index, (shape, stride) in enumerate(zip(shapes, pooling.strides, strict=True)):
        own = _of_level(rois, image, shape, stride, pooling)
        widths = (*(width for width in steps.widths if width < shape[2]), shape[2])
        fits = jnp.searchsorted(jnp.array(widths), own.columns).astype(jnp.int32)
        kind = jnp.where(level == index, len(sorts) + fits, kind)
        sorts += [(index, width, own) for width in widths]
    order = jnp.argsort(kind, stable=True).astype(jnp.int32)
    bounds = jnp.searchsorted(kind[order], jnp.arange(len(sorts) + 1, dtype=jnp.int32)).astype(jnp.int32)
    return order, [(index, width, bounds[i], bounds[i + 1], own) for i, (index, width, own) in enumerate(sorts)]


def _forward(pooling: Pooling, steps: Steps, maps: Maps, rois: Array, image: Array, level: Array) -> Array:
    wide = jnp.promote_types(maps[0].dtype, jnp.float32)
    out = jnp.zeros((rois.shape[0], *pooling.output_size, maps[0].shape[3]), wide)
    order, sorts = _sorts([one.shape for one in maps], rois.astype(wide), image, level, pooling, steps)
    for index, width, start, end, own in sorts:
        pool = partial(_pool, maps[index], width, min(steps.rows, maps[index].shape[1]), pooling)

        def write(out: Array, place: Array, roi: _Rois, pool: Callable[[_Rois], Array] = pool) -> Array:
            if steps.rois == 1:
                return lax.dynamic_update_index_in_dim(out, pool(roi), place, 0)
            return out.at[place].set(jax.vmap(pool)(roi), mode="drop")

        out = _loop(write, out, order, start, end, own, steps.rois)
    return out.astype(maps[0].dtype)


def _backward(
    pooling: Pooling,
    shapes: tuple[tuple[tuple[int, ...], jnp.dtype], ...],
    steps: Steps,
    dy: Array,
    rois: Array,
    image: Array,
    level: Array,
) -> Maps:
    wide = jnp.promote_types(dy.dtype, jnp.float32)
    gradients = [jnp.zeros(shape, wide) for shape, _ in shapes]
    order, sorts = _sorts([shape for shape, _ in shapes], rois.astype(wide), image, level, pooling, steps)
    for index, width, start, end, own in sorts:
        height = min(steps.rows, shapes[index][0][1])

        def spread(gradient: Array, place: Array, roi: _Rois, width: int = width, height: int = height) -> Array:
            if steps.rois == 1:
                return _unpool_one(gradient, dy[place].astype(wide), roi, width, height, pooling)
            there = place < dy.shape[0]
            values = jnp.where(there[:, None, None, None], dy[jnp.where(there, place, 0)], 0).astype(wide)
            return _unpool_many(gradient, values, roi, width, height, pooling)

        gradients[index] = _loop(spread, gradients[index], order, start, end, own, steps.rois)
    return tuple(gradient.astype(dtype) for gradient, (_, dtype) in zip(gradients, shapes, strict=True))


def _loop(
    step: Callable[[Array, Array, _Rois], Array],
    carry: Array,
    order: Array,
    start: Array,
    end: Array,
    rois: _Rois,
    chunk: int,
) -> Array:
    """`carry` after `step(carry, places, rois)` over the places order[start:end], one or a chunk of them at a time.

    Beyond the end a chunk is filled with place R, whose roi is that of the last.
    """

    def body(i: Array, carry: Array) -> Array:
        if chunk == 1:
            place = order[start + i]
            return step(carry, place, _Rois(*(part[place] for part in rois)))
        at = start + i * chunk + jnp.arange(chunk, dtype=jnp.int32)
        count = order.shape[0]
        place = jnp.where(at < end, order[jnp.minimum(at, count - 1)], count)
        return step(carry, place, _Rois(*(part[jnp.minimum(place, count - 1)] for part in rois)))

    return lax.fori_loop(0, (end - start + chunk - 1) // chunk, body, carry)


def _columns(roi: _Rois, width: int, length: int, pooling: Pooling) -> tuple[Array, Array]:
    """The first of `width` columns that a roi reads, and their weights `[ow, width]`."""
    first = jnp.minimum(roi.column, length - width)
    bins = pooling.output_size[1]
    return first, axis_weights(roi.left, roi.right, bins, length, first, width, pooling.sampling_ratio, pooling.aligned)


def _rows(roi: _Rois, block: Array, height: int, length: int, pooling: Pooling) -> tuple[Array, Array]:
    """The first of `height` rows of a block, and their weights `[oh, height]`: 0 for those of the block before."""
    due = roi.row + block * height
    first = jnp.minimum(due, length - height)
    bins = pooling.output_size[0]
    weights = axis_weights(roi.top, roi.bottom, bins, length, first, height, pooling.sampling_ratio, pooling.aligned)
    return first, jnp.where((first + jnp.arange(height) >= due)[None], weights, 0)


def _pool(features: Array, width: int, height: int, pooling: Pooling, roi: _Rois) -> Array:
    """`[oh, ow, C]` of one roi."""
    _, map_height, map_width, channels = features.shape
    column, wx = _columns(roi, width, map_width, pooling)

    def block(i: Array, total: Array) -> Array:
        row, wy = _rows(roi, i, height, map_height, pooling)
        window = lax.dynamic_slice(features, (roi.image, row, column, 0), (1, height, width, channels))
        return total + _contract(wy, window[0].astype(wx.dtype), 1, 0)

    total = jnp.zeros((pooling.output_size[0], width, channels), wx.dtype)
    total = lax.fori_loop(0, (roi.rows + height - 1) // height, block, total)
    return jnp.einsum("pq,oqc->opc", wx, total, precision=lax.Precision.HIGHEST)


def _contract(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), precision=lax.Precision.HIGHEST)


def _unpool_one(gradient: Array, dy: Array, roi: _Rois, width: int, height: int, pooling: Pooling) -> Array:
    """The gradient of a map `[N, H, W, C]` plus that of one roi, from `dy` `[oh, ow, C]`."""
    _, map_height, map_width, channels = gradient.shape
    column, wx = _columns(roi, width, map_width, pooling)
    across = jnp.einsum("pq,opc->oqc", wx, dy, precision=lax.Precision.HIGHEST)

    def block(i: Array, gradient: Array) -> Array:
        row, wy = _rows(roi, i, height, map_height, pooling)
        at = (roi.image, row, column, jnp.zeros((), jnp.int32))
        window = lax.dynamic_slice(gradient, at, (1, height, width, channels))
        return lax.dynamic_update_slice(gradient, window + _contract(wy, across, 0, 0)[None], at)

    return lax.fori_loop(0, (roi.rows + height - 1) // height, block, gradient)


def _unpool_many(gradient: Array, dy: Array, rois: _Rois, width: int, height: int, pooling: Pooling) -> Array:
    """The gradient of a map plus that of a chunk of rois, from `dy` `[B, oh, ow, C]`."""
    _, map_height, map_width, _ = gradient.shape
    column, wx = jax.vmap(lambda roi: _columns(roi, width, map_width, pooling))(rois)
    across = jnp.einsum("bpq,bopc->boqc", wx, dy, precision=lax.Precision.HIGHEST)
    windows = lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2, 3), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 1, 2)
    )

    def block(i: Array, gradient: Array) -> Array:
        row, wy = jax.vmap(lambda roi: _rows(roi, i, height, map_height, pooling))(rois)
        patches = jnp.einsum("boy,boqc->byqc", wy, across, precision=lax.Precision.HIGHEST)
        return lax.scatter_add(gradient, jnp.stack([rois.image, row, column], -1), patches, windows)

    return lax.fori_loop(0, (rois.rows.max() + height - 1) // height, block, gradient)
