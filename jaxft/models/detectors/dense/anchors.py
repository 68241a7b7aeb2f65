"""The anchors of all levels, and the plain values of a head that has anchors."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.detection import anchors as geometry
from jaxft.models.detectors.dense.outputs import HeightWidth
from jaxft.models.detectors.types import AnchorGenerator, BoxLoss, ClassLoss, DeltaCoder, DenseTrain


@dataclass(frozen=True)
class AnchorSettings:
    """The plain values of a head with anchors; see `detectors.types`."""

    num_classes: int
    anchor_generator: AnchorGenerator
    bbox_coder: DeltaCoder
    reg_decoded_bbox: bool
    loss_cls: ClassLoss
    loss_bbox: BoxLoss
    train_cfg: DenseTrain


def base_anchors(generator: AnchorGenerator) -> list[np.ndarray]:
    """The anchors of the first cell of each level, `[A, 4]`."""
    if generator.sizes is not None:
        return [
            geometry.base_anchors(1, sizes, generator.ratios, scale_major=generator.scale_major, round_=generator.round)
            for sizes in generator.sizes
        ]
    scales = generator.scales
    if scales is None:
        if generator.octave_base_scale is None or generator.scales_per_octave is None:
            raise ValueError("anchors need sizes, scales, or octave_base_scale and scales_per_octave")
        scales = geometry.octave_scales(generator.octave_base_scale, generator.scales_per_octave)
    return [
        geometry.base_anchors(
            base,
            scales,
            generator.ratios,
            center_offset=generator.center_offset,
            scale_major=generator.scale_major,
            round_=generator.round,
        )
        for base in generator.base_sizes or generator.strides or ()
    ]


def anchors_per_cell(generator: AnchorGenerator) -> int:
    """How many anchors each cell has."""
    return len(base_anchors(generator)[0])


def level_strides(
    generator: AnchorGenerator, map_sizes: Sequence[HeightWidth], pad_shape: HeightWidth
) -> list[HeightWidth]:
    """(height, width) of a cell of each level, pixels."""
    if generator.strides is not None:
        return [(stride, stride) for stride in generator.strides]
    return [(pad_shape[0] // height, pad_shape[1] // width) for height, width in map_sizes]


def level_anchors(generator: AnchorGenerator, map_sizes: Sequence[HeightWidth], pad_shape: HeightWidth) -> list[Array]:
    """All anchors of each level `[h * w * A, 4]`, ordered by row, column, anchor."""
    strides = level_strides(generator, map_sizes, pad_shape)
    return [
        geometry.grid_anchors(base, size, stride)
        for base, size, stride in zip(base_anchors(generator), map_sizes, strides, strict=True)
    ]


def usable_anchors(
    generator: AnchorGenerator,
    map_sizes: Sequence[HeightWidth],
    pad_shape: HeightWidth,
    sizes: Array,
    allowed_border: float,
) -> Array:
    """Which anchors take part in the training of each photo: bool `[N, A]`."""
    anchors = jnp.concatenate(level_anchors(generator, map_sizes, pad_shape))
    strides, count = level_strides(generator, map_sizes, pad_shape), anchors_per_cell(generator)

    def one(size: Array) -> Array:
        inside = geometry.inside_flags(anchors, size, allowed_border)
        if generator.divisor is None:
            return inside
        levels = [
            geometry.valid_flags(map_size, stride, size, count, generator.divisor)
            for map_size, stride in zip(map_sizes, strides, strict=True)
        ]
        return inside & jnp.concatenate(levels)

    return jax.vmap(one)(sizes)
