"""Geometry of boxes `[..., 4]`: x1, y1, x2, y2 in pixels, without the `+ 1` of old detectors."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

IouKind = Literal["iou", "giou", "diou", "ciou"]


def clamp(x: Array, low: Array | float | None, high: Array | float | None) -> Array:
    """`x` cut to low..high with gradient 0 where it equals a bound, as `torch.clamp`; `jnp.clip` gives a half."""
    if low is not None:
        x = jnp.where(x <= low, low, x)
    return x if high is None else jnp.where(x >= high, high, x)


def area(boxes: Array) -> Array:
    """`[..., 4]` -> `[...]`, square pixels; negative where one side is reversed."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def centers(boxes: Array) -> Array:
    """`[..., 4]` -> `[..., 2]`: x, y of the middle."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5


def clip(boxes: Array, size: Array) -> Array:
    """Boxes `[..., 4]` cut to an image of `size` `[2]` (height, width); 0 and the size itself are inside."""
    height, width = size[0].astype(boxes.dtype), size[1].astype(boxes.dtype)
    high = jnp.stack([width, height, width, height])
    return clamp(boxes, 0.0, high.reshape((1,) * (boxes.ndim - 1) + (4,)))


def _overlap(a: Array, b: Array) -> Array:
    # Each side for itself: XLA's CPU code for a last axis of two takes four times as long.
    def side(low: int, high: int) -> Array:
        return clamp(jnp.minimum(a[..., high], b[..., high]) - jnp.maximum(a[..., low], b[..., low]), 0.0, None)

    return side(0, 2) * side(1, 3)


def pairwise_iou(a: Array, b: Array, kind: Literal["iou", "iof"] = "iou", eps: float = 1e-6) -> Array:
    """Overlap of every box of `a` `[A, 4]` with every box of `b` `[B, 4]` -> `[A, B]`.

    `iou` divides by the union, `iof` by the area of `a`'s box; the divisor is at least `eps`, so that empty boxes
    overlap with nothing.
    """
    overlap = _overlap(a[:, None], b[None])
    # Areas are rounded before they are added, as in PyTorch: what overlaps equally must be equal, in any program.
    one, other = jax.lax.optimization_barrier((area(a), area(b)))
    divisor = one[:, None]
    if kind == "iou":
        divisor = divisor + other[None] - overlap
    return overlap / jnp.maximum(divisor, eps)


def iou(a: Array, b: Array, kind: IouKind = "iou", eps: float = 1e-6) -> Array:
    """Overlap of boxes in pairs: `[..., 4]`, `[..., 4]` -> `[...]`.

    GIoU: https://arxiv.org/abs/1902.09630; DIoU: https://arxiv.org/abs/1911.08287; CIoU:
    https://arxiv.org/abs/2005.03572, whose factor alpha is a constant to the gradient and 0 below an IoU of a half.
    `eps` bounds the divisors of iou and giou from below, and is added to those of diou and ciou, as in MMDetection.
    """
    overlap = _overlap(a, b)
    union = area(a) + area(b) - overlap
    hull = clamp(jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2]), 0.0, None)
    if kind in ("iou", "giou"):
        union = jnp.maximum(union, eps)
        if kind == "iou":
            return overlap / union
        hull_area = jnp.maximum(hull[..., 0] * hull[..., 1], eps)
        return overlap / union - (hull_area - union) / hull_area
    ratio = overlap / (union + eps)
    diagonal = jnp.square(hull[..., 0]) + jnp.square(hull[..., 1]) + eps
    distance = jnp.square(centers(a) - centers(b)).sum(-1)
    if kind == "diou":
        return ratio - distance / diagonal
    difference = _angle(b, eps) - _angle(a, eps)
    v = 4 / np.pi**2 * jnp.square(difference)
    divisor = 1 - ratio + v
    alpha = jnp.where((ratio > 0.5) & (divisor != 0), v / jnp.where(divisor == 0, 1, divisor), 0)
    return ratio - (distance / diagonal + jax.lax.stop_gradient(alpha) * v)


def _angle(boxes: Array, eps: float) -> Array:
    """The angle whose tangent is width / height."""
    return jnp.arctan((boxes[..., 2] - boxes[..., 0]) / (boxes[..., 3] - boxes[..., 1] + eps))
