"""What heads share in training: candidates given to objects and drawn, and losses summed as MMDetection does."""

from dataclasses import asdict

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection import losses
from jaxft.detection.assign import Assignment, atss_assign, max_iou_assign
from jaxft.detection.coders import decode_deltas, encode_deltas
from jaxft.detection.sample import Sample, random_sample
from jaxft.models.detectors.types import ATSSAssigner, BoxLoss, ClassLoss, DeltaCoder, MaxIoUAssigner, RandomSampler
from jaxft.models.layers.per_image import per_image

EPS = 1.1920929e-07  # MMDetection adds float32's epsilon to every divisor of a loss


def assign(
    assigner: MaxIoUAssigner | ATSSAssigner,
    boxes: Array,
    usable: Array,
    truth: Array,
    truth_valid: Array,
    ignored: Array,
    level_sizes: tuple[int, ...] = (),
) -> Assignment:
    """The objects `[G, 4]` of one image given to its candidates `[A, 4]`; `level_sizes` are for ATSS."""
    options = asdict(assigner)
    if isinstance(assigner, ATSSAssigner):
        return atss_assign(boxes, level_sizes, usable, truth, truth_valid, ignored=ignored, **options)
    options["low_quality_to_own_best"] = options.pop("low_quality_keeps_best")
    return max_iou_assign(boxes, usable, truth, truth_valid, ignored=ignored, **options)


def priorities(key: Array, boxes: Array) -> Array:
    """A random order of candidates `[..., 4]`: a uniform number each, the lowest of which are drawn.

    One key draws for all images of a batch, so that the numbers do not depend on the devices that the images lie on.
    """
    return jax.random.uniform(key, boxes.shape[:-1])


def drawn(sampler: RandomSampler, index: Array, priority: Array) -> Sample:
    """The random choice of one image's candidates `[A]`, those with the lowest `priority` `[A]`."""
    return random_sample(
        index, priority, num=sampler.num, pos_fraction=sampler.pos_fraction, neg_pos_ub=sampler.neg_pos_ub
    )


def rows_of(table: Array, index: Array) -> Array:
    """`table` `[N, A, ...]` at `index` `[N, R]` of its second axis -> `[N, R, ...]`."""
    return per_image(jax.vmap(lambda rows, chosen: rows[chosen]), table, index)


def encode(coder: DeltaCoder, boxes: Array, targets: Array) -> Array:
    """The codes `[..., 4]` of `targets` seen from `boxes`."""
    return encode_deltas(boxes, targets, coder.target_means, coder.target_stds)


def decode(coder: DeltaCoder, boxes: Array, codes: Array, sizes: Array | None = None) -> Array:
    """The boxes `[N, ..., 4]` that codes make of `boxes`, cut to the photos' `sizes` `[N, 2]` if the coder says so."""

    def one(boxes: Array, codes: Array, size: Array | None) -> Array:
        return decode_deltas(
            boxes,
            codes,
            coder.target_means,
            coder.target_stds,
            size=size,
            max_ratio=coder.max_ratio,
            clamp_below=coder.clamp_below,
            add_ctr_clamp=coder.add_ctr_clamp,
            ctr_clamp=coder.ctr_clamp,
        )

    if sizes is None or not coder.clip_border:
        return one(boxes, codes, None)
    return jax.vmap(one)(boxes, codes, sizes)


def probabilities(loss: ClassLoss, logits: Array) -> Array:
    """Logits `[..., channels]` -> scores `[..., classes]`; the last channel of a softmax is the background."""
    return jax.nn.sigmoid(logits) if loss.use_sigmoid else jax.nn.softmax(logits, -1)[..., :-1]


def class_losses(loss: ClassLoss, logits: Array, labels: Array) -> Array:
    """Loss `[...]` of logits `[..., channels]`; the label of the background is the number of classes."""
    if loss.type == "softmax":
        return scaled(loss.loss_weight, losses.cross_entropy(logits, labels))
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if loss.type == "sigmoid":
        return scaled(loss.loss_weight, losses.binary_cross_entropy(logits, targets).sum(-1))
    return scaled(loss.loss_weight, losses.sigmoid_focal(logits, targets, loss.gamma, loss.alpha).sum(-1))


def box_losses(loss: BoxLoss, predicted: Array, target: Array) -> Array:
    """Loss `[...]` of boxes or codes `[..., 4]`."""
    if loss.type == "l1":
        return scaled(loss.loss_weight, losses.l1(predicted, target).sum(-1))
    if loss.type == "smooth_l1":
        return scaled(loss.loss_weight, losses.smooth_l1(predicted, target, loss.beta).sum(-1))
    return scaled(loss.loss_weight, losses.iou_loss(predicted, target, loss.type, mode=loss.mode, eps=loss.eps))


def class_term(loss: ClassLoss, logits: Array, labels: Array, weights: Array, divisor: Array) -> Array:
    """The `average` of the losses of logits `[..., R, channels]`; rows without a weight have no part in it."""
    return average(class_losses(loss, of_weight(weights, logits, 0), labels), weights, divisor)


def box_term(loss: BoxLoss, predicted: Array, target: Array, weights: Array, divisor: Array) -> Array:
    """The same of boxes or codes `[..., R, 4]`."""
    return average(box_losses(loss, of_weight(weights, predicted, target), target), weights, divisor)


def of_weight(weights: Array, rows: Array, instead: Array | float) -> Array:
    """`rows` `[..., R, C]` where their weight `[..., R]` is above 0, `instead` elsewhere: what goes into a loss.

    Leaving a row out of the loss is not enough: its gradient would be 0 times a slope that need not be finite. The same
    holds of what codes are before they are decoded.
    """
    return jnp.where(weights[..., None] > 0, rows, instead)


def scaled(weight: float, loss: Array) -> Array:
    """`loss` times its weight in the sum; of a weight of 0 comes nothing, whatever the loss and its gradient are."""
    return loss * weight if weight else jnp.zeros_like(loss)


def average(loss: Array, weights: Array, divisor: Array) -> Array:
    """The sum over rows `[..., R]` that have a weight, over `divisor`: one number, or one an image `[N]`.

    Where a weight is 0 the loss may be anything, but see `of_weight` for its gradient.
    """
    total = jnp.where(weights > 0, loss * weights, 0).sum(-1)
    return (total / (divisor + EPS)).sum()
