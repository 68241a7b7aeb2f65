"""RoIAlign over the levels of a feature pyramid; He et al. 2017, https://arxiv.org/abs/1703.06870.

A roi's output is the average of bilinear samples in each of its bins. Samples lie on a grid, so the average is
`Wy @ F @ Wx^T` with a small matrix for each axis, whose entries have a closed form for any number of samples. That
holds for adaptive sampling too, where the reference takes as many samples as a bin has cells.

Rois differ in size, so each is read in blocks of cells, as many as it needs: loops with a dynamic number of steps, over
all levels' cells in one array. On the CPU a step is a row of one roi, a small matrix product that stays in cache; on
accelerators it is a block of each of a chunk of rois of about the same size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Maps = tuple[Array, ...]
_Row = Callable[[Array, Array], Array]  # of a loop: row, carry -> carry
Shapes = tuple[tuple[int, ...], ...]

# Cells a block, (rows, columns), and rois a step on accelerators.
BLOCK, CHUNK = (32, 32), 64


class Pooling(NamedTuple):
    """All of RoIAlign that is not an array: pixels a cell of each level, bins, samples a bin and axis, alignment."""

    strides: tuple[float, ...]
    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool


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
    size = (output_size, output_size) if isinstance(output_size, int) else output_size
    pooling = Pooling(tuple(float(stride) for stride in strides), size, max(sampling_ratio, 0), aligned)
    return _roi_align(tuple(maps), rois, image, level, pooling)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _roi_align(maps: Maps, rois: Array, image: Array, level: Array, pooling: Pooling) -> Array:
    return lax.platform_dependent(
        maps, rois, image, level, cpu=partial(_forward_cpu, pooling), default=partial(_forward, pooling)
    )


def _roi_align_fwd(
    maps: Maps, rois: Array, image: Array, level: Array, pooling: Pooling
) -> tuple[Array, tuple[Maps, Array, Array, Array]]:
    return _roi_align(maps, rois, image, level, pooling), (maps, rois, image, level)


def _roi_align_bwd(
    pooling: Pooling, saved: tuple[Maps, Array, Array, Array], dy: Array
) -> tuple[Maps, Array, np.ndarray, np.ndarray]:
    maps, rois, image, level = saved
    shapes = tuple(one.shape for one in maps)
    cpu, default = partial(_backward_cpu, pooling, shapes), partial(_backward, pooling, shapes)
    flat = lax.platform_dependent(dy, rois, image, level, cpu=cpu, default=default)
    ends = np.cumsum([np.prod(shape[:3]) for shape in shapes])[:-1].tolist()
    parts = jnp.split(flat[: sum(int(np.prod(shape[:3])) for shape in shapes)], ends)
    gradient = tuple(part.reshape(one.shape).astype(one.dtype) for part, one in zip(parts, maps, strict=True))
    none = np.zeros(image.shape, jax.dtypes.float0)
    return gradient, jnp.zeros_like(rois), none, none


_roi_align.defvjp(_roi_align_fwd, _roi_align_bwd)


def axis_weights(
    low: Array,
    high: Array,
    bins: int,
    length: Array | int,
    first: Array,
    cells: int,
    sampling_ratio: int,
    aligned: bool,
) -> Array:
    """What each cell counts in each bin along one axis: `[bins, cells]`.

    Args:
        low, high: scalars, the roi's edges in cells.
        bins: bins between them.
        length: cells of the map; what lies beyond counts 0.
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
        return jnp.where(cell < length, total / sampling_ratio, 0)
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
    return jnp.where((count > 0) & (cell < length), (left + right) / jnp.maximum(count, 1), 0)


def _extent(low: Array, high: Array, bins: int, sampling_ratio: int, aligned: bool) -> tuple[Array, Array, Array]:
    """Start and size of rois in cells, and samples a bin (a float); not positive for adaptive ones without size."""
    start, end = (low - 0.5, high - 0.5) if aligned else (low, high)
    size = end - start if aligned else jnp.maximum(end - start, 1)
    return start, size, jnp.full_like(size, sampling_ratio) if sampling_ratio else jnp.ceil(size / bins)


def _covered(low: Array, high: Array, bins: int, length: Array, pooling: Pooling) -> tuple[Array, Array]:
    """First cell that rois read along an axis, and how many: int32."""
    start, size, count = _extent(low, high, bins, pooling.sampling_ratio, pooling.aligned)
    margin = size / bins / jnp.maximum(count, 1) / 2
    ends = start + margin, start + size - margin
    first, last = (
        jnp.floor(jnp.clip(edge, 0, length - 1)).astype(jnp.int32) for edge in (jnp.minimum(*ends), jnp.maximum(*ends))
    )
    return first, jnp.minimum(last + 1, length - 1) - first + 1


class _Rois(NamedTuple):
    """Rois in cells of their map, the cells they read, and where that map lies: arrays `[R]`, or scalars for one."""

    top: Array
    bottom: Array
    left: Array
    right: Array
    row: Array
    rows: Array
    column: Array
    columns: Array
    height: Array
    width: Array
    base: Array  # of the first cell of the image's map among all cells


def _prepare(shapes: Shapes, rois: Array, image: Array, level: Array, pooling: Pooling) -> _Rois:
    """What each roi reads; nothing where its level is none of the maps."""
    sizes = np.array([shape[:3] for shape in shapes], np.int32)
    starts = np.concatenate([[0], np.cumsum(np.prod(sizes, 1))[:-1]]).astype(np.int32)
    there, level = (level >= 0) & (level < len(shapes)), jnp.clip(level, 0, len(shapes) - 1)
    height, width = jnp.asarray(sizes[:, 1])[level], jnp.asarray(sizes[:, 2])[level]
    rois = rois.astype(jnp.promote_types(rois.dtype, jnp.float32))
    scale = jnp.asarray([1 / stride for stride in pooling.strides], rois.dtype)[level]
    left, top, right, bottom = (rois[:, side] * scale for side in range(4))
    row, rows = _covered(top, bottom, pooling.output_size[0], height, pooling)
    column, columns = _covered(left, right, pooling.output_size[1], width, pooling)
    rows, columns = jnp.where(there, rows, 0), jnp.where(there, columns, 0)
    base = jnp.asarray(starts)[level] + image * height * width
    return _Rois(top, bottom, left, right, row, rows, column, columns, height, width, base)


def _cells(maps: Maps, beyond: int) -> Array:
    """The cells of all maps in a row, `[cells + beyond, C]`: a block may reach over the last one."""
    wide = jnp.promote_types(maps[0].dtype, jnp.float32)
    channels = maps[0].shape[3]
    flat = [one.reshape(-1, channels).astype(wide) for one in maps]
    return jnp.concatenate([*flat, jnp.zeros((beyond, channels), wide)])


def _block_rows(roi: _Rois, row: Array, count: int, pooling: Pooling) -> tuple[Array, Array]:
    """Where rows row, row + 1, ... begin among all cells `[count]`, and their weights `[oh, count]`.

    Rows below the map have weight 0 and stand for its last one.
    """
    weights = axis_weights(
        roi.top, roi.bottom, pooling.output_size[0], roi.height, row, count, pooling.sampling_ratio, pooling.aligned
    )
    rows = jnp.minimum(row + jnp.arange(count, dtype=jnp.int32), roi.height - 1)
    return roi.base + rows * roi.width, weights


def _block_columns(roi: _Rois, column: Array, count: int, pooling: Pooling) -> Array:
    """Weights `[ow, count]` of columns column, column + 1, ..."""
    return axis_weights(
        roi.left, roi.right, pooling.output_size[1], roi.width, column, count, pooling.sampling_ratio, pooling.aligned
    )


def _blocks(cells: Array, size: int) -> Array:
    return (cells + size - 1) // size


def _loop_rows(roi: _Rois, pooling: Pooling, block: Callable[[Array, Array, Array], _Row], carry: Array) -> Array:
    """A loop over the rows of one roi, one after the other, for every block of its cells.

    `block(wy, wx, starts)` returns what is done to `carry` for row r of the block; its weights are `[oh, rows]` and
    `[ow, columns]`, starts `[rows]` where the block's rows begin among all cells.
    """
    height, width = BLOCK

    def columns(j: Array, carry: Array) -> Array:
        column = roi.column + j * width
        wx = _block_columns(roi, column, width, pooling)

        def rows(k: Array, carry: Array) -> Array:
            starts, wy = _block_rows(roi, roi.row + k * height, height, pooling)
            return lax.fori_loop(0, jnp.minimum(roi.rows - k * height, height), block(wy, wx, starts + column), carry)

        return lax.fori_loop(0, _blocks(roi.rows, height), rows, carry)

    return lax.fori_loop(0, _blocks(roi.columns, width), columns, carry)


def _forward_cpu(pooling: Pooling, maps: Maps, rois: Array, image: Array, level: Array) -> Array:
    cells, channels = _cells(maps, BLOCK[1]), maps[0].shape[3]
    all_rois = _prepare(tuple(one.shape for one in maps), rois, image, level, pooling)

    def block(wy: Array, wx: Array, starts: Array) -> _Row:
        wy, wx = wy.T[:, :, None, None].astype(cells.dtype), wx.astype(cells.dtype)

        def row(r: Array, total: Array) -> Array:
            line = lax.dynamic_slice(cells, (starts[r], jnp.zeros((), starts.dtype)), (BLOCK[1], channels))
            return total + wy[r] * (wx @ line)[None]

        return row

    def pool(i: Array, out: Array) -> Array:
        roi = _Rois(*(part[i] for part in all_rois))
        total = _loop_rows(roi, pooling, block, jnp.zeros(out.shape[1:], out.dtype))
        return lax.dynamic_update_index_in_dim(out, total, i, 0)

    out = jnp.zeros((rois.shape[0], *pooling.output_size, channels), cells.dtype)
    return lax.fori_loop(0, rois.shape[0], pool, out).astype(maps[0].dtype)


def _backward_cpu(pooling: Pooling, shapes: Shapes, dy: Array, rois: Array, image: Array, level: Array) -> Array:
    all_rois, channels = _prepare(shapes, rois, image, level, pooling), dy.shape[3]
    wide = jnp.promote_types(dy.dtype, jnp.float32)

    def spread(i: Array, cells: Array) -> Array:
        own = dy[i].astype(wide)

        def block(wy: Array, wx: Array, starts: Array) -> _Row:
            lines, wx = jnp.tensordot(wy.T.astype(wide), own, 1), wx.T.astype(wide)

            def row(r: Array, cells: Array) -> Array:
                # One update a step: XLA then changes the cells in place.
                at = (starts[r], jnp.zeros((), starts.dtype))
                line = lax.dynamic_slice(cells, at, (BLOCK[1], channels)) + wx @ lines[r]
                return lax.dynamic_update_slice(cells, line, at)

            return row

        return _loop_rows(_Rois(*(part[i] for part in all_rois)), pooling, block, cells)

    total = sum(int(np.prod(shape[:3])) for shape in shapes) + BLOCK[1]
    return lax.fori_loop(0, rois.shape[0], spread, jnp.zeros((total, channels), wide))


class _Chunks(NamedTuple):
    """Rois sorted by size and cut into chunks: place `[chunks, B]` among the rois (R beyond the last), and rois."""

    place: Array
    rois: _Rois


def _chunks(rois: _Rois) -> _Chunks:
    count = rois.row.shape[0]
    chunk = min(CHUNK, count)
    order = jnp.argsort(_blocks(rois.columns, BLOCK[1]) * 65536 + _blocks(rois.rows, BLOCK[0])).astype(jnp.int32)
    place = jnp.concatenate([order, jnp.full(-count % chunk, count, jnp.int32)]).reshape(-1, chunk)
    there = place < count
    cut = [jnp.where(there, part[jnp.minimum(place, count - 1)], 0) for part in rois]
    return _Chunks(place, _Rois(*cut))


def _loop_blocks(rois: _Rois, step: Callable[[Array, Array, Array], Array], carry: Array) -> Array:
    """`step(row, column, carry)` for every block that any of a chunk's rois has; row and column are `[B]`."""
    height, width = BLOCK

    def columns(j: Array, carry: Array) -> Array:
        def rows(k: Array, carry: Array) -> Array:
            return step(rois.row + k * height, rois.column + j * width, carry)

        return lax.fori_loop(0, _blocks(rois.rows.max(), height), rows, carry)

    return lax.fori_loop(0, _blocks(rois.columns.max(), width), columns, carry)


def _weigh(rois: _Rois, row: Array, column: Array, pooling: Pooling) -> tuple[Array, Array, Array]:
    """Of a block of each roi: where its rows begin `[B, rows, 1]`, and the weights of rows and columns."""
    starts, wy = jax.vmap(lambda roi, row: _block_rows(roi, row, BLOCK[0], pooling))(rois, row)
    wx = jax.vmap(lambda roi, column: _block_columns(roi, column, BLOCK[1], pooling))(rois, column)
    # A roi with fewer blocks than others of its chunk has none of these columns.
    return (starts + jnp.minimum(column, rois.width - 1)[:, None])[..., None], wy, wx


def _forward(pooling: Pooling, maps: Maps, rois: Array, image: Array, level: Array) -> Array:
    cells = _cells(maps, BLOCK[1])
    chunks = _chunks(_prepare(tuple(one.shape for one in maps), rois, image, level, pooling))
    channels, einsum = cells.shape[1], partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    windows = lax.GatherDimensionNumbers(offset_dims=(2, 3), collapsed_slice_dims=(), start_index_map=(0,))

    def pool(i: Array, out: Array) -> Array:
        place, own = jax.tree.map(lambda part: part[i], chunks)

        def step(row: Array, column: Array, total: Array) -> Array:
            starts, wy, wx = _weigh(own, row, column, pooling)
            block = lax.gather(cells, starts, windows, (BLOCK[1], channels), mode="clip")
            across = einsum("bpq,brqc->brpc", wx.astype(cells.dtype), block)
            return total + einsum("bor,brpc->bopc", wy.astype(cells.dtype), across)

        total = jnp.zeros((place.shape[0], *out.shape[1:]), out.dtype)
        return out.at[place].set(_loop_blocks(own, step, total), mode="drop")

    out = jnp.zeros((rois.shape[0], *pooling.output_size, channels), cells.dtype)
    return lax.fori_loop(0, chunks.place.shape[0], pool, out).astype(maps[0].dtype)


def _backward(pooling: Pooling, shapes: Shapes, dy: Array, rois: Array, image: Array, level: Array) -> Array:
    chunks = _chunks(_prepare(shapes, rois, image, level, pooling))
    wide = jnp.promote_types(dy.dtype, jnp.float32)
    einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    windows = lax.ScatterDimensionNumbers(
        update_window_dims=(2, 3), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,)
    )

    def spread(i: Array, cells: Array) -> Array:
        place, own = jax.tree.map(lambda part: part[i], chunks)
        values = dy.at[place].get(mode="fill", fill_value=0).astype(wide)

        def step(row: Array, column: Array, cells: Array) -> Array:
            starts, wy, wx = _weigh(own, row, column, pooling)
            down = einsum("bor,bopc->brpc", wy.astype(wide), values)
            block = einsum("bpq,brpc->brqc", wx.astype(wide), down)
            return lax.scatter_add(cells, starts, block, windows, mode="clip")

        return _loop_blocks(own, step, cells)

    total = sum(int(np.prod(shape[:3])) for shape in shapes) + BLOCK[1]
    return lax.fori_loop(0, chunks.place.shape[0], spread, jnp.zeros((total, dy.shape[3]), wide))
