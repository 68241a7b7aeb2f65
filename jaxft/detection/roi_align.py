"""RoIAlign over the levels of a feature pyramid; He et al. 2017, https://arxiv.org/abs/1703.06870.

A roi's output is the average of bilinear samples in each of its bins. Samples lie on a grid, so the average is
`Wy @ F @ Wx^T` with a small matrix for each axis, whose entries have a closed form for any number of samples. That
holds for adaptive sampling too, where the reference takes as many samples as a bin has cells.

Rois differ in size. On the CPU each is read in blocks of cells, as many as it needs: a step is a row of one roi, a
small matrix product that stays in cache. On accelerators a step takes windows of many rois, see `roi_windows`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jaxft.detection import roi_windows
from jaxft.detection.roi_cells import (
    Maps,
    Pooling,
    Rois,
    Shapes,
    all_cells,
    column_weights,
    prepare,
    row_weights,
    zeros,
    zeros_after,
)

_Row = Callable[[Array, Array], Array]  # of a loop: row, carry -> carry
BLOCK = (32, 32)  # cells a block on the CPU, (rows, columns)


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
    return _forward(pooling, maps, rois, image, level)


def _roi_align_fwd(
    maps: Maps, rois: Array, image: Array, level: Array, pooling: Pooling
) -> tuple[Array, tuple[Maps, Array, Array, Array]]:
    return _forward(pooling, maps, rois, image, level), (maps, rois, image, level)


def _roi_align_bwd(
    pooling: Pooling, saved: tuple[Maps, Array, Array, Array], dy: Array
) -> tuple[Maps, Array, np.ndarray, np.ndarray]:
    maps, rois, image, level = saved
    gradient = _backward(pooling, tuple(one.shape for one in maps), dy, rois, image, level)
    none = np.zeros(image.shape, jax.dtypes.float0)
    return gradient, jnp.zeros_like(rois), none, none


_roi_align.defvjp(_roi_align_fwd, _roi_align_bwd)


# Under vmap the rois of all elements are pooled at once from the maps of all: a loop whose number of steps differs
# between elements would otherwise copy what it adds to in every step.
def _forward(pooling: Pooling, maps: Maps, rois: Array, image: Array, level: Array) -> Array:
    cpu, default = partial(_forward_cpu, pooling), partial(roi_windows.forward, pooling)
    run = custom_vmap(partial(lax.platform_dependent, cpu=cpu, default=default))

    @run.def_vmap
    def joined(size: int, batched: Sequence, maps: Maps, *placed: Array) -> tuple[Array, bool]:
        every, *places = _with_axis(size, batched, [maps, *placed])
        out = _forward(pooling, tuple(map(_flat, every)), *_flat_rois(every[0].shape[1], *places))
        return out.reshape(size, -1, *out.shape[1:]), True

    return run(maps, rois, image, level)


def _backward(pooling: Pooling, shapes: Shapes, dy: Array, rois: Array, image: Array, level: Array) -> Maps:
    """The gradient of each map, in the type of `dy`."""
    cpu, default = partial(_backward_cpu, pooling, shapes), partial(roi_windows.backward, pooling, shapes)

    @custom_vmap
    def run(dy: Array, *placed: Array) -> Maps:
        flat = lax.platform_dependent(dy, *placed, cpu=cpu, default=default)
        ends = np.cumsum([np.prod(shape[:3]) for shape in shapes]).tolist()
        parts = jnp.split(flat, ends[:-1])
        return tuple(part.reshape(shape).astype(dy.dtype) for part, shape in zip(parts, shapes, strict=True))

    @run.def_vmap
    def joined(size: int, batched: Sequence, *arrays: Array) -> tuple[Maps, tuple[bool, ...]]:
        dy, *placed = _with_axis(size, batched, arrays)
        all_shapes = tuple((size * shape[0], *shape[1:]) for shape in shapes)
        maps = _backward(pooling, all_shapes, _flat(dy), *_flat_rois(shapes[0][0], *placed))
        return tuple(one.reshape(size, -1, *one.shape[1:]) for one in maps), (True,) * len(maps)

    return run(dy, rois, image, level)


def _with_axis(size: int, batched: Sequence, arrays: Sequence) -> Sequence:
    """All arrays with an axis of that size in front, also those that were the same for every element."""
    return jax.tree.map(
        lambda has, one: one if has else jnp.broadcast_to(one, (size, *one.shape)), list(batched), list(arrays)
    )


def _flat(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])


def _flat_rois(images: int, rois: Array, image: Array, level: Array) -> tuple[Array, Array, Array]:
    """Rois, images and levels without their first axis, for maps of `images` images an element put in a row."""
    first = images * jnp.arange(image.shape[0], dtype=image.dtype)[:, None]
    return _flat(rois), _flat(first + image), _flat(level)


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
    channels, wide = maps[0].shape[3], jnp.promote_types(maps[0].dtype, jnp.float32)
    cells = all_cells(maps, wide, BLOCK[1])
    all_rois = prepare(tuple(one.shape for one in maps), rois, image, level, pooling)

    def block(wy: Array, wx: Array, starts: Array) -> _Row:
        wy, wx = wy.T[:, :, None, None].astype(cells.dtype), wx.astype(cells.dtype)

        def row(r: Array, total: Array) -> Array:
            line = lax.dynamic_slice(cells, (starts[r], jnp.zeros((), starts.dtype)), (BLOCK[1], channels))
            return total + wy[r] * (wx @ line)[None]

        return row

    def pool(i: Array, out: Array) -> Array:
        roi = Rois(*(part[i] for part in all_rois))
        total = _loop_rows(roi, pooling, block, zeros(out.shape[1:], out.dtype, roi))
        return lax.dynamic_update_index_in_dim(out, total, i, 0)

    out = zeros((rois.shape[0], *pooling.output_size, channels), cells.dtype, all_rois)
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

    total = sum(int(np.prod(shape[:3])) for shape in shapes)
    start = zeros_after(dy, (total + BLOCK[1], channels), wide)
    return lax.fori_loop(0, rois.shape[0], spread, start)[:total]
