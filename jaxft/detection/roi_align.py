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

from jaxft.detection.roi_cells import Maps, Pooling, Rois, Shapes, all_cells, column_weights, prepare, row_weights

_Row = Callable[[Array, Array], Array]  # of a loop: row, carry -> carry
# Cells a block, (rows, columns), and rois a step on accelerators.
BLOCK, CHUNK = (32, 32), 64


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
        aligned: whether pixel centers are at half-integers; without it a roi is at least one cell wide and high.
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


def _blocks(cells: Array, size: int) -> Array:
    return (cells + size - 1) // size


def _loop_rows(roi: Rois, pooling: Pooling, block: Callable[[Array, Array, Array], _Row], carry: Array) -> Array:
    """A loop over the rows of one roi, one after the other, for every block of its cells.

    `block(wy, wx, starts)` returns what is done to `carry` for row r of the block; its weights are `[oh, rows]` and
    `[ow, columns]`, starts `[rows]` where the block's rows begin among all cells.
    """
    height, width = BLOCK

    def columns(j: Array, carry: Array) -> Array:
        column = roi.column + j * width
        wx = column_weights(roi, column, width, pooling)

        def rows(k: Array, carry: Array) -> Array:
            starts, wy = row_weights(roi, roi.row + k * height, height, pooling)
            return lax.fori_loop(0, jnp.minimum(roi.rows - k * height, height), block(wy, wx, starts + column), carry)

        return lax.fori_loop(0, _blocks(roi.rows, height), rows, carry)

    return lax.fori_loop(0, _blocks(roi.columns, width), columns, carry)


def _forward_cpu(pooling: Pooling, maps: Maps, rois: Array, image: Array, level: Array) -> Array:
    cells, channels = all_cells(maps, BLOCK[1]), maps[0].shape[3]
    all_rois = prepare(tuple(one.shape for one in maps), rois, image, level, pooling)

    def block(wy: Array, wx: Array, starts: Array) -> _Row:
        wy, wx = wy.T[:, :, None, None].astype(cells.dtype), wx.astype(cells.dtype)

        def row(r: Array, total: Array) -> Array:
            line = lax.dynamic_slice(cells, (starts[r], jnp.zeros((), starts.dtype)), (BLOCK[1], channels))
            return total + wy[r] * (wx @ line)[None]

        return row

    def pool(i: Array, out: Array) -> Array:
        roi = Rois(*(part[i] for part in all_rois))
        total = _loop_rows(roi, pooling, block, jnp.zeros(out.shape[1:], out.dtype))
        return lax.dynamic_update_index_in_dim(out, total, i, 0)

    out = jnp.zeros((rois.shape[0], *pooling.output_size, channels), cells.dtype)
    return lax.fori_loop(0, rois.shape[0], pool, out).astype(maps[0].dtype)


def _backward_cpu(pooling: Pooling, shapes: Shapes, dy: Array, rois: Array, image: Array, level: Array) -> Array:
    all_rois, channels = prepare(shapes, rois, image, level, pooling), dy.shape[3]
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

        return _loop_rows(Rois(*(part[i] for part in all_rois)), pooling, block, cells)

    total = sum(int(np.prod(shape[:3])) for shape in shapes) + BLOCK[1]
    return lax.fori_loop(0, rois.shape[0], spread, _own_zeros(dy, (total, channels), wide))


def _own_zeros(dy: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Zeros that are made when `dy` is there. Of a constant XLA would make one copy for each gradient of a program, all
    of them at its beginning."""
    return jnp.broadcast_to(dy.reshape(-1)[0] > jnp.inf, shape).astype(dtype)


class _Chunks(NamedTuple):
    """Rois sorted by size and cut into chunks: place `[chunks, B]` among the rois (R beyond the last), and rois."""

    place: Array
    rois: Rois


def _chunks(rois: Rois) -> _Chunks:
    count = rois.row.shape[0]
    chunk = min(CHUNK, count)
    order = jnp.argsort(_blocks(rois.columns, BLOCK[1]) * 65536 + _blocks(rois.rows, BLOCK[0])).astype(jnp.int32)
    place = jnp.concatenate([order, jnp.full(-count % chunk, count, jnp.int32)]).reshape(-1, chunk)
    there = place < count
    cut = [jnp.where(there, part[jnp.minimum(place, count - 1)], 0) for part in rois]
    return _Chunks(place, Rois(*cut))


def _loop_blocks(rois: Rois, step: Callable[[Array, Array, Array], Array], carry: Array) -> Array:
    """`step(row, column, carry)` for every block that any of a chunk's rois has; row and column are `[B]`."""
    height, width = BLOCK

    def columns(j: Array, carry: Array) -> Array:
        def rows(k: Array, carry: Array) -> Array:
            return step(rois.row + k * height, rois.column + j * width, carry)

        return lax.fori_loop(0, _blocks(rois.rows.max(), height), rows, carry)

    return lax.fori_loop(0, _blocks(rois.columns.max(), width), columns, carry)


def _weigh(rois: Rois, row: Array, column: Array, pooling: Pooling) -> tuple[Array, Array, Array]:
    """Of a block of each roi: where its rows begin `[B, rows, 1]`, and the weights of rows and columns."""
    starts, wy = jax.vmap(lambda roi, row: row_weights(roi, row, BLOCK[0], pooling))(rois, row)
    wx = jax.vmap(lambda roi, column: column_weights(roi, column, BLOCK[1], pooling))(rois, column)
    # A roi with fewer blocks than others of its chunk has none of these columns.
    return (starts + jnp.minimum(column, rois.width - 1)[:, None])[..., None], wy, wx


def _forward(pooling: Pooling, maps: Maps, rois: Array, image: Array, level: Array) -> Array:
    cells = all_cells(maps, BLOCK[1])
    chunks = _chunks(prepare(tuple(one.shape for one in maps), rois, image, level, pooling))
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
    chunks = _chunks(prepare(shapes, rois, image, level, pooling))
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
    return lax.fori_loop(0, chunks.place.shape[0], spread, _own_zeros(dy, (total, dy.shape[3]), wide))
