"""The loss of the masks of regions, and the masks of detections."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection import losses
from jaxft.detection.masks import mask_targets
from jaxft.models.detectors import objectives
from jaxft.models.detectors.roi.boxes import of_label
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.regions import Regions, extract
from jaxft.models.detectors.types import Detections, RoIExtractor, RoITrain, Targets
from jaxft.models.layers.per_image import per_image


def mask_terms(
    head: FCNMaskHead,
    extractor: RoIExtractor,
    train: RoITrain,
    maps: Sequence[Array],
    regions: Regions,
    targets: Targets,
) -> dict[str, Array]:
    """`loss_mask` of the positive regions, as the maps show them."""
    some = positives(train, regions)
    return mask_loss(head, train, extract(extractor, maps, some.boxes, some.positive), some, targets)


def positives(train: RoITrain, regions: Regions) -> Regions:
    """The first regions of each image, among which all positive ones are."""
    rows = max(1, int(train.sampler.num * train.sampler.pos_fraction))
    return Regions(*(part[:, :rows] for part in regions))


def mask_loss(
    head: FCNMaskHead, train: RoITrain, features: Array, regions: Regions, targets: Targets
) -> dict[str, Array]:
    """`loss_mask`: the cross-entropy of the pixels of the positive regions' masks; features are `[N * R, h, w, C]`."""
    if targets.masks is None:
        raise ValueError("a detector with masks is trained on targets with masks; these have none")
    positive = regions.positive.reshape(-1)
    logits = of_label(jnp.moveaxis(head(features, positive), -1, 1), regions.labels.reshape(-1))
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def one(masks: Array, boxes: Array, truth: Array) -> Array:
        return mask_targets(
            masks, boxes, truth, train.mask_size, aligned=not train.soft_masks, binary=not train.soft_masks
        )

    wanted = per_image(jax.vmap(one), targets.masks, regions.boxes, regions.truth)
    wanted = wanted.reshape(logits.shape).astype(logits.dtype)
    logits = objectives.of_weight(positive[:, None], logits, 0)
    loss = objectives.scaled(head.loss_weight, losses.binary_cross_entropy(logits, wanted).mean((1, 2)))
    return {"loss_mask": jnp.where(positive, loss, 0).sum() / jnp.maximum(positive.sum(), 1).astype(loss.dtype)}


def mask_probabilities(head: FCNMaskHead, features: Array, found: Detections) -> Array:
    """Masks `[N, D, M, M]` of the detections' own classes, from the maps of their boxes `[N * D, h, w, C]`."""
    logits = jnp.moveaxis(head(features, found.valid.reshape(-1)), -1, 1)
    masks = jax.nn.sigmoid(
        of_label(logits, found.labels.reshape(-1)).astype(jnp.promote_types(logits.dtype, jnp.float32))
    )
    return masks.reshape(*found.labels.shape, *masks.shape[1:])
