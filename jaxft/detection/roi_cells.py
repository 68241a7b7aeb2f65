"""The cells of feature maps that RoIAlign reads for a roi, and what each counts in each bin."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

Maps = tuple[Array, ...]
Shapes = tuple[tuple[int, ...], ...]


class Pooling(NamedTuple):
    """All of RoIAlign that is not an array: pixels a cell of each level, bins, samples a bin and axis, alignment."""

    strides: tuple[float, ...]
    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool


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


class Rois(NamedTuple):
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


def prepare(shapes: Shapes, rois: Array, image: Array, level: Array, pooling: Pooling) -> Rois:
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
    return Rois(top, bottom, left, right, row, rows, column, columns, height, width, base)


def sample_cells(low: Array, high: Array, length: Array, bins: int, pooling: Pooling) -> tuple[Array, Array]:
    """The two cells beside each sample along one axis, of a fixed number of samples a bin, and what they count.

    Arguments are as of `axis_weights`. Returns cells int32 `[2 * bins * samples]`, two of which may be the same, and
    weights `[bins, 2 * bins * samples]`.
    """
    samples = pooling.sampling_ratio
    start, size, _ = _extent(low, high, bins, samples, pooling.aligned)
    spacing = size / bins / samples
    origin = start + jnp.arange(bins) * (size / bins) + spacing / 2
    where = origin[:, None] + jnp.arange(samples)[None] * spacing
    inside = (where >= -1) & (where <= length)
    cell = jnp.clip(where, 0, length - 1)
    first = jnp.floor(cell)
    share = jnp.stack([1 - (cell - first), cell - first], -1) * inside[..., None] / samples
    cells = jnp.minimum(jnp.stack([first, first + 1], -1).astype(jnp.int32), length - 1)
    weights = jnp.eye(bins, dtype=share.dtype)[..., None] * share.reshape(1, bins, -1)
    return cells.reshape(-1), weights.reshape(bins, -1)


def all_cells(maps: Maps, dtype: jnp.dtype, beyond: int = 0) -> Array:
    """The cells of all maps in a row, and `beyond` of zeros after them: `[cells + beyond, C]`."""
    channels = maps[0].shape[3]
    flat = [one.reshape(-1, channels).astype(dtype) for one in maps]
    return jnp.concatenate([*flat, jnp.zeros((beyond, channels), dtype)])


def zeros(shape: tuple[int, ...], dtype: jnp.dtype, rois: Rois) -> Array:
    """Where a loop begins to add; made from the rois, so as to vary over the devices of a `shard_map` as they do."""
    return jnp.full(shape, (0 * (rois.base + rois.row + rois.column).sum()).astype(dtype))


def zeros_after(dy: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Zeros that are made when `dy` is there. Of a constant XLA would make one copy for each gradient of a program, all
    of them at its beginning."""
    return jnp.broadcast_to(dy.reshape(-1)[0] > jnp.inf, shape).astype(dtype)


def row_weights(roi: Rois, row: Array, count: int, pooling: Pooling) -> tuple[Array, Array]:
    """Where rows row, row + 1, ... begin among all cells `[count]`, and their weights `[oh, count]`.

    Rows below the map have weight 0 and stand for its last one.
    """
    weights = axis_weights(
        roi.top, roi.bottom, pooling.output_size[0], roi.height, row, count, pooling.sampling_ratio, pooling.aligned
    )
    rows = jnp.minimum(row + jnp.arange(count, dtype=jnp.int32), roi.height - 1)
    return roi.base + rows * roi.width, weights


def column_weights(roi: Rois, column: Array, count: int, pooling: Pooling) -> Array:
    """Weights `[ow, count]` of columns column, column + 1, ..."""
    return axis_weights(
        roi.left, roi.right, pooling.output_size[1], roi.width, column, count, pooling.sampling_ratio, pooling.aligned
    )
