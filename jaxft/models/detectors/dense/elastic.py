"""What a GFL head with new classes keeps of the detector that it grew out of; see `jaxft.detection.elastic`."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection.boxes import centers
from jaxft.detection.elastic import Answers, elastic_terms
from jaxft.models.detectors.dense.anchors import level_anchors, level_strides
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, class_channels, flat, of_level
from jaxft.models.detectors.dense.selection import own_places
from jaxft.models.detectors.objectives import EPS
from jaxft.models.layers.per_image import per_image

EDGES = 4  # what the loss of boxes is divided by, however many are kept


def elastic_losses(
    head: GFLHead,
    outputs: DenseOutputs,
    theirs: DenseOutputs,
    sizes: Array,
    pad_shape: HeightWidth,
    old: int,
    temperature: Array | float,
    *,
    box_weight: float = 0.25,
    scale_boxes: bool = False,
) -> dict[str, Array]:
    """`loss_dist_cls` and `loss_dist_bbox` of a batch, summed over its images.

    Args:
        head: of the detector that trains.
        outputs, theirs: what it and the old detector put out.
        sizes: `[N, 2]` height and width of the photos; what lies beyond a photo's own padding has no part.
        old: the number of classes that the old detector knows, the first of the new one's.
        temperature: of the distributions of edges.
        box_weight: of the loss of boxes, before `jaxft.config.Distillation.weight`.
        scale_boxes: as of `jaxft.detection.elastic.box_term`.
    """
    generator, width = head.anchor_generator, 4 * (head.reg_max + 1)
    logits = flat(outputs.scores, class_channels(head.loss_cls, head.num_classes))[..., :old]
    given = Answers(logits, flat(outputs.boxes, width))
    wanted = Answers(flat(theirs.scores, old), flat(theirs.boxes, width))
    levels = level_anchors(generator, outputs.map_sizes, pad_shape)
    strides = level_strides(generator, outputs.map_sizes, pad_shape)
    points = centers(jnp.concatenate(levels).astype(given.edges.dtype))
    steps = of_level([stride for stride, _ in strides], levels, given.edges.dtype)
    there = jnp.concatenate(
        [
            own_places(map_size, stride, sizes, 1, generator.divisor)
            for map_size, stride in zip(outputs.map_sizes, strides, strict=True)
        ],
        1,
    )

    def one(given: Answers, wanted: Answers, there: Array) -> Array:
        terms = elastic_terms(given, wanted, points, steps, there, temperature, scale_boxes=scale_boxes)
        return jnp.stack([terms.classes, terms.boxes * box_weight / (EDGES + EPS)])

    found = per_image(jax.vmap(one), given, wanted, there).sum(0)
    return {"loss_dist_cls": found[0], "loss_dist_bbox": found[1]}
