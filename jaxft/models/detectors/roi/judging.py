"""What the heads of a second stage say of boxes that are given to them, beside their loss and their prediction."""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx
from jax import Array

from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.regions import extract
from jaxft.models.detectors.types import ClassLoss, RoIExtractor


class ClassLogits(NamedTuple):
    """What a head says of the classes of boxes.

    Attributes:
        loss: what its logits are trained by, which says what they mean.
        logits: `[N, P, channels]`; those of padding mean nothing.
    """

    loss: ClassLoss
    logits: Array


def class_logits_of(
    heads: Sequence[ConvFCBBoxHead], extractor: RoIExtractor, maps: Sequence[Array], boxes: Array, valid: Array
) -> tuple[ClassLogits, ...]:
    """The class logits of the same boxes `[N, P, 4]`, pixels, by each of the heads; `valid` `[N, P]` are no padding.

    Heads work in their mode, but leave their running statistics as they are: those are of the regions of the loss.
    """
    features = extract(extractor, maps, boxes, valid)
    found = []
    for head in heads:
        logits, _ = nnx.clone(head)(features, valid.reshape(-1))
        found.append(ClassLogits(head.loss_cls, logits.reshape(*valid.shape, -1)))
    return tuple(found)
