"""Targets of a mask head from packed bitmaps, and predicted masks pasted into the image on the host."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.detection.boxes import clip
from jaxft.detection.roi_cells import axis_weights

# Of `mask_targets` on accelerators: the bitmaps of all would fill the memory. A CPU is faster with one after the other.
ROIS_AT_ONCE = 16
PRODUCT = 2**18  # multiplications up to which OpenBLAS stays in the thread that asks


def unpack_bits(packed: Array) -> Array:
    """uint8 `[..., W / 8]` of `np.packbits(..., axis=-1)` -> bool `[..., W]`."""
    shifts = jnp.arange(7, -1, -1, dtype=jnp.uint8).reshape((1,) * packed.ndim + (8,))
    bits = (packed[..., None] >> shifts) & 1
    return bits.reshape(*packed.shape[:-1], packed.shape[-1] * 8).astype(bool)


def mask_targets(
    packed: Array, rois: Array, index: Array, size: int = 28, *, aligned: bool = True, binary: bool = True
) -> Array:
    """What a mask head should say inside each roi: `[R, size, size]` float32.

    RoIAlign (adaptive sampling) of the bitmap of each roi's ground truth, at least a half -> 1, else 0.

    Args:
        packed: uint8 `[G, H, W / 8]`, bits of each object's mask, padded (`np.packbits` on the last axis).
        rois: `[R, 4]`; cut to the padded image first.
        index: int32 `[R]` into `packed`; rows of padding may hold anything.
        aligned: False is torchvision's RoIAlign.
        binary: False keeps the averages (torchvision).
    """
    height, width = packed.shape[1], packed.shape[2] * 8
    rois = clip(rois, jnp.array([height, width]))
    index = jnp.clip(index, 0, packed.shape[0] - 1)

    def one(row: tuple[Array, Array]) -> Array:
        roi, own = row
        bitmap = unpack_bits(packed[own]).astype(rois.dtype)
        wy = axis_weights(roi[1], roi[3], size, height, jnp.zeros((), jnp.int32), height, 0, aligned)
        wx = axis_weights(roi[0], roi[2], size, width, jnp.zeros((), jnp.int32), width, 0, aligned)
        # Averages near a half decide: no reduced precision.
        return jnp.einsum("ph,hw,qw->pq", wy, bitmap, wx, precision=jax.lax.Precision.HIGHEST)

    def each(together: int | None) -> Callable[[Array, Array], Array]:
        return lambda rois, index: jax.lax.map(one, (rois, index), batch_size=together)

    targets = jax.lax.platform_dependent(rois, index, cpu=each(None), default=each(ROIS_AT_ONCE))
    return (targets >= 0.5).astype(targets.dtype) if binary else targets


def paste(
    masks: np.ndarray,
    boxes: np.ndarray,
    height: int,
    width: int,
    *,
    threshold: float | None = 0.5,
    style: Literal["mmdet", "torchvision"] = "mmdet",
) -> np.ndarray:
    """Masks `[D, M, M]` (probabilities inside `boxes` `[D, 4]`) in an image: `[D, height, width]`, on the host.

    bool, True where the probability is at least (`torchvision`: above) the threshold; float32 probabilities where the
    threshold is None. Boxes are in pixels of that image and may reach over it.
    """
    kind = np.dtype(np.float32) if threshold is None else np.dtype(bool)
    result = np.zeros((len(masks), height, width), kind)
    place = _place_mmdet if style == "mmdet" else _place_torchvision
    for row, mask, box in zip(result, np.asarray(masks, np.float32), np.asarray(boxes, np.float32), strict=True):
        top, left, values = place(mask, box, height, width)
        region = row[top : top + values.shape[0], left : left + values.shape[1]]
        if threshold is None:
            region[...] = values
        else:
            region[...] = values >= threshold if style == "mmdet" else values > threshold
    return result


def pasted_runs(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """COCO's run lengths of `paste(mask[None], box[None], height, width)[0]`, without an image of that size.

    Returns:
        int64: of how many pixels are outside, inside, outside, ... in turn, column after column; they sum to
        `height * width`, and only the first may be 0.
    """
    top, left, values = _place_mmdet(np.asarray(mask, np.float32), np.asarray(box, np.float32), height, width)
    rows, columns = values.shape
    framed = np.zeros((columns, rows + 2), bool)
    np.greater_equal(values.T, np.float32(0.5), out=framed[:, 1:-1])
    column, row = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), rows + 1)
    edges = (left + column) * height + top + row  # where a run begins, where it ends, where the next begins, ...
    apart = edges[1:-1:2] != edges[2::2]  # not so where a run ends with its column and goes on in the next
    inner = edges[1:-1].reshape(-1, 2)[apart].reshape(-1)
    lengths = np.diff(np.concatenate([[0], edges[:1], inner, edges[-1:], [height * width]]))
    return lengths if lengths[-1] else lengths[:-1]


def _hat(positions: np.ndarray, cells: int) -> np.ndarray:
    """`[P, cells]`: weights of linear interpolation at `positions` (in cells), 0 beyond the first and last cell."""
    return np.maximum(1 - np.abs(positions[:, None] - np.arange(cells, dtype=np.float32)[None]), 0)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a @ b` in parts so small that BLAS takes no threads of its own, which would wait for cores that are busy."""
    rows, result = max(PRODUCT // max(b.size, 1), 1), np.empty((len(a), b.shape[1]), np.float32)
    for start in range(0, len(a), rows):
        np.matmul(a[start : start + rows], b, out=result[start : start + rows])
    return result


def _place_mmdet(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[int, int, np.ndarray]:
    """The mask sampled at every pixel of its box and one more around: first row, first column, values."""
    weights, starts = [], []
    for low, high, length, cells in ((box[1], box[3], height, mask.shape[0]), (box[0], box[2], width, mask.shape[1])):
        start, end = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, length)
        side = high - low
        pixels = np.arange(start, max(end, start), dtype=np.float32) + np.float32(0.5)
        # An empty box is sampled in the middle of the mask, as in MMDetection.
        where = (pixels - low) / side * cells - 0.5 if side else np.full_like(pixels, cells / 2 - 0.5)
        weights.append(_hat(where.astype(np.float32), cells))
        starts.append(start)
    return starts[0], starts[1], _product(_product(weights[0], mask), weights[1].T)


def _place_torchvision(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[int, int, np.ndarray]:
    """The mask with a border of zeros, resized to the box in whole pixels."""
    scale = np.float32((mask.shape[0] + 2) / mask.shape[0])
    center, half = (box[2:] + box[:2]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5) * scale
    low, high = np.trunc(center - half).astype(np.int64), np.trunc(center + half).astype(np.int64)
    padded = np.pad(mask, 1)
    weights, starts = [], []
    for first, last, length, cells in zip(low[::-1], high[::-1], (height, width), padded.shape, strict=True):
        side = max(int(last - first + 1), 1)
        start, end = max(int(first), 0), min(int(last) + 1, length)
        where = (
            np.arange(start, max(end, start), dtype=np.float32) - np.float32(first) + np.float32(0.5)
        ) * np.float32(cells / side) - np.float32(0.5)
        weights.append(_hat(np.clip(where, 0, cells - 1), cells))
        starts.append(start)
    return starts[0], starts[1], _product(_product(weights[0], padded), weights[1].T)
