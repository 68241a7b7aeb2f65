"""Losses element by element, not reduced: the caller weighs, masks padding and divides."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection.boxes import IouKind, centers, clamp, iou


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
    """-t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)), of the shape of `logits`; `targets` may be soft."""
    return (1 - targets) * logits + jax.nn.softplus(-logits)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(`logits` `[..., C]`) at `labels` `[...]` int -> `[...]`; labels outside 0..C-1 are cut to them."""
    labels = jnp.clip(labels, 0, logits.shape[-1] - 1)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]


def _absolute(x: Array) -> Array:
    """|x| with gradient 0 at 0, as `torch.abs`; that of `jnp.abs` is 1."""
    return x * jnp.sign(x)


def above_zero(x: Array) -> Array:
    """`x`, or the least positive number where it is 0, without a gradient: its powers below 1 are infinitely steep."""
    return clamp(x, float(jnp.finfo(x.dtype).tiny), None)


def l1(predicted: Array, target: Array) -> Array:
    """|p - t|."""
    return _absolute(predicted - target)


def smooth_l1(predicted: Array, target: Array, beta: float = 1.0) -> Array:
    """d^2 / (2 beta) where d = |p - t| is below `beta`, d - beta / 2 elsewhere; https://arxiv.org/abs/1504.08083."""
    difference = _absolute(predicted - target)
    return jnp.where(difference < beta, 0.5 * jnp.square(difference) / beta, difference - 0.5 * beta)


def sigmoid_focal(logits: Array, targets: Array, gamma: float = 2.0, alpha: float = 0.25) -> Array:
    """Focal loss of each class by itself, of the shape of `logits`; Lin et al. 2017, https://arxiv.org/abs/1708.02002.

    `targets` are 0 or 1, of the same shape: `jax.nn.one_hot(labels, C)` gives a row of zeros for the background.
    `alpha` below 0 leaves the weight of positives out (torchvision).
    """
    p = jax.nn.sigmoid(logits)
    wrong = above_zero((1 - p) * targets + p * (1 - targets))
    loss = binary_cross_entropy(logits, targets) * wrong**gamma
    return loss if alpha < 0 else loss * (alpha * targets + (1 - alpha) * (1 - targets))


def quality_focal(logits: Array, labels: Array, scores: Array, beta: float = 2.0) -> Array:
    """Quality focal loss `[...]`, summed over classes; Li et al. 2020, https://arxiv.org/abs/2006.04388.

    `logits` `[..., C]`; the target of class `labels` `[...]` is `scores` `[...]` (an IoU), that of all others 0.
    Labels outside 0..C-1 are background.
    """
    own = labels[..., None] == jnp.arange(logits.shape[-1]).reshape((1,) * labels.ndim + (-1,))
    targets = jnp.where(own, scores[..., None], 0)
    distance = above_zero(jnp.abs(targets - jax.nn.sigmoid(logits)))
    return (binary_cross_entropy(logits, targets) * distance**beta).sum(-1)


def distribution_focal(logits: Array, targets: Array) -> Array:
    """Distribution focal loss `[...]` of `logits` `[..., n + 1]` over the distances 0..n; https://arxiv.org/abs/2006.04388.

    `targets` `[...]` are distances in 0..n; the two whole numbers beside one share the cross entropy.
    """
    left = jnp.clip(jnp.floor(targets), 0, logits.shape[-1] - 2)
    index = left.astype(jnp.int32)
    toward_left, toward_right = left + 1 - targets, targets - left
    return cross_entropy(logits, index) * toward_left + cross_entropy(logits, index + 1) * toward_right


def iou_loss(
    predicted: Array,
    target: Array,
    kind: IouKind = "iou",
    *,
    mode: Literal["log", "linear", "square"] = "log",
    eps: float | None = None,
) -> Array:
    """Loss `[...]` from the overlap of boxes in pairs, `[..., 4]` each, as MMDetection has it.

    IoU: -log(u), 1 - u or 1 - u^2 by `mode`, where u is at least `eps` (1e-6). Others: 1 - overlap, `eps` 1e-7.
    """
    if kind == "iou":
        eps = 1e-6 if eps is None else eps
        overlap = clamp(iou(predicted, target), eps, None)
        if mode == "log":
            return -jnp.log(overlap)
        return 1 - (overlap if mode == "linear" else jnp.square(overlap))
    overlap = iou(predicted, target, kind, 1e-7 if eps is None else eps)
    return 1 - (clamp(overlap, -1.0, 1.0) if kind == "ciou" else overlap)


def bounded_iou(predicted: Array, target: Array, beta: float = 0.2, eps: float = 1e-3) -> Array:
    """Bounded IoU loss `[..., 4]` of center x, center y, width, height; Tychsen-Smith and Petersson 2017,
    https://arxiv.org/abs/1711.00164. Each is one minus the best IoU that the prediction could have with the rest
    right, under smooth L1 with `beta`."""
    sides, target_sides = predicted[..., 2:] - predicted[..., :2], target[..., 2:] - target[..., :2]
    shift = 2 * _absolute(centers(target) - centers(predicted))
    moved = 1 - jnp.maximum((target_sides - shift) / (target_sides + shift + eps), 0)
    scaled = 1 - jnp.minimum(target_sides / (sides + eps), sides / (target_sides + eps))
    loss = jnp.concatenate([moved, scaled], -1)
    return jnp.where(loss < beta, 0.5 * jnp.square(loss) / beta, loss - 0.5 * beta)
