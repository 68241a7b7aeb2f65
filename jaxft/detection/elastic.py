"""Elastic response distillation of one image: where an old detector was sure, a new one is to say the same.

Feng, Wang and Yuan 2022, https://arxiv.org/abs/2204.02136, equations 2 to 7. Where the text and its authors' program
differ, the program counts: `scale_boxes` says where the text does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxft.detection.coders import decode_distances
from jaxft.detection.nms import nms

SURE = 2.0  # standard deviations above the mean
AT_MOST = 5  # one in so many can be that far above the mean: Cantelli's inequality, 1 / (1 + 2^2)


class Answers(NamedTuple):
    """What a detector says at the places of an image.

    Attributes:
        logits: `[A, C]`, of the old classes.
        edges: `[A, 4 * (n + 1)]`, logits of how far each edge is away: 0 to n strides.
    """

    logits: Array
    edges: Array


class Elastic(NamedTuple):
    """The two losses of an image, without their weights; 0 where no place was sure. That of boxes is a sum."""

    classes: Array
    boxes: Array


def far_above(values: Array, there: Array, deviations: float = SURE) -> Array:
    """Which of `values` `[A]` are above the mean by more than so many (unbiased) standard deviations, of those that are
    `there` `[A]`."""
    count = there.sum().astype(values.dtype)
    mean = jnp.where(there, values, 0).sum() / jnp.maximum(count, 1)
    variance = jnp.where(there, jnp.square(values - mean), 0).sum() / jnp.maximum(count - 1, 1)
    return there & (values > mean + deviations * jnp.sqrt(variance))


def class_term(logits: Array, theirs: Array, there: Array) -> Array:
    """The mean squared error of the old classes' logits at the places where the old detector's highest one is sure.

    Args:
        logits, theirs: `[A, C]` of the new and of the old detector; `there` bool `[A]` are the places that count.
    """
    chosen = far_above(jax.nn.sigmoid(theirs).max(-1), there)
    errors = jnp.where(chosen[:, None], jnp.square(logits - theirs), 0).sum()
    return errors / jnp.maximum(chosen.sum() * logits.shape[-1], 1)


def box_term(
    own: Answers,
    old: Answers,
    points: Array,
    strides: Array,
    there: Array,
    temperature: Array | float,
    *,
    iou_threshold: float = 0.005,
    scale_boxes: bool = False,
) -> Array:
    """The divergence of the distributions of the four edges at the places where the old detector's highest logit of an
    edge is sure, of its boxes of one class the best of those that overlap; the sum over places and edges, each weighted
    by the new detector's highest score of an old class there.

    Args:
        own, old: of the new and of the old detector.
        points, strides: `[A, 2]` and `[A]`, pixels.
        there: bool `[A]`, the places that count.
        temperature: divides the logits; the divergence, a mean over the n + 1 distances, is multiplied by its square.
        scale_boxes: whether boxes are of their size when they suppress each other, as in the text; in the program each
            is smaller by its stride.

    Which of two places with equal scores is better is not defined there; here it is the first.
    """
    count = old.edges.shape[0]
    chosen = far_above(old.edges.max(-1), there)
    scores = jax.nn.sigmoid(old.logits)
    shares = jax.nn.softmax(old.edges.reshape(count, 4, -1))
    distances = (shares * jnp.arange(shares.shape[-1], dtype=shares.dtype)[None, None]).sum(-1)
    boxes = decode_distances(points, distances * strides[:, None] if scale_boxes else distances)
    groups = scores.argmax(-1).astype(jnp.int32)
    index, kept = nms(boxes, scores.max(-1), groups, chosen, iou_threshold, count // AT_MOST + 1)
    given, wanted = (found.edges[index].reshape(len(index), 4, -1) / temperature for found in (own, old))
    target = jax.nn.softmax(wanted)
    far = (target * (jax.nn.log_softmax(wanted) - jax.nn.log_softmax(given))).mean(-1) * temperature**2
    weights = lax.stop_gradient(jax.nn.sigmoid(own.logits[index]).max(-1))
    return jnp.where(kept[:, None], far * weights[:, None], 0).sum()


def elastic_terms(
    own: Answers,
    old: Answers,
    points: Array,
    strides: Array,
    there: Array,
    temperature: Array | float,
    *,
    scale_boxes: bool = False,
) -> Elastic:
    """Both losses of an image; arguments as of `box_term`. The old detector gets no gradient."""
    old = lax.stop_gradient(old)
    boxes = box_term(own, old, points, strides, there, temperature, scale_boxes=scale_boxes)
    return Elastic(class_term(own.logits, old.logits, there), boxes)
