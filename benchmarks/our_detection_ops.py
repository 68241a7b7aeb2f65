"""Our RoIAlign and NMS alone, each prepared to be timed."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks import rois as examples
from benchmarks.our_steps import Batch, Step, finish
from jaxft.detection.nms import nms
from jaxft.detection.roi_align import roi_align
from jaxft.training.step import Compiled


def pooling(count: int, channels: int, gradient: bool) -> Step:
    """RoIAlign of so many rois, with the gradient of the maps if asked."""
    rois = examples.spread(count)
    arrays = {
        "rois": rois,
        "image": examples.image_of(count),
        "level": examples.level_of(rois),
        "dy": examples.pooled_gradient(count, channels),
    }

    def run(maps: tuple[Array, ...], batch: Batch) -> Any:
        def pooled(maps: tuple[Array, ...]) -> Array:
            places = batch["rois"], batch["image"], batch["level"]
            return roi_align(maps, *places, examples.STRIDES, examples.BINS)

        if not gradient:
            return pooled(maps)
        out, pull = jax.vjp(pooled, maps)
        return out, pull(batch["dy"])

    step = partial(Compiled(run), tuple(map(jnp.asarray, examples.pyramid(channels))))
    batch = jax.tree.map(jnp.asarray, arrays)
    return lambda: finish(step(batch))


def suppression(count: int, clustered: bool) -> Step:
    """NMS of so many boxes of one group."""
    boxes, scores = map(jnp.asarray, examples.proposals(count, clustered))
    batch = {"boxes": boxes, "scores": scores, "groups": jnp.zeros(count, jnp.int32), "valid": jnp.ones(count, bool)}

    def run(_: None, batch: Batch) -> Any:
        return nms(**batch, iou_threshold=examples.IOU, max_output=examples.KEPT)

    step = Compiled(run)
    return lambda: finish(step(None, batch))
