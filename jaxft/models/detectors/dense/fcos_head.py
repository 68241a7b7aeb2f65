"""FCOS: distances from the center of a cell to the edges of its object.

Tian et al. 2019, https://arxiv.org/abs/1904.01355.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.detection.anchors import grid_points
from jaxft.detection.assign import fcos_assign
from jaxft.detection.boxes import clamp
from jaxft.detection.coders import decode_distances
from jaxft.models.detectors import objectives
from jaxft.models.detectors.conv_module import bias_for, normal_001, stack, zeros
from jaxft.models.detectors.dense.defaults import DISTANCES, FOCAL, GROUP_NORM
from jaxft.models.detectors.dense.distances import boxes_around, center_ness, center_ness_term
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, class_channels, flat, of_level
from jaxft.models.detectors.dense.selection import Candidates, best_of_level, final_detections, joined, own_places
from jaxft.models.detectors.types import BoxLoss, ClassLoss, Detections, DistanceCoder, Norm, Selection, Targets
from jaxft.models.layers import Conv, Scale
from jaxft.models.layers.per_image import per_image

INFINITY = 1e8  # MMDetection's, in ranges of distances
FAR = math.log(INFINITY)  # no edge is farther, and areas made of that are finite
FCOS_RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, INFINITY))
FCOS_STRIDES = (8, 16, 32, 64, 128)
FCOS_TEST = Selection(max_per_img=100, iou_threshold=0.5, nms_pre=1000, score_thr=0.05, min_bbox_size=0)
IOU = BoxLoss("iou")


class FCOSHead(nnx.Module):
    """Classes, distances to the four edges, and how near to the center of an object each cell lies.

    Args:
        num_classes, in_channels, feat_channels, stacked_convs, norm_cfg: as of `RetinaHead`.
        strides, regress_ranges: of each level, pixels; a level learns objects whose farthest edge is in its range.
        center_sampling, center_sample_radius: only cells near the center are positive, within radius * stride.
        norm_on_bbox: distances are in units of the stride, cut at 0; otherwise exponentials, in pixels.
        centerness_on_reg: whether the center-ness is read off the boxes' stack.
        conv_bias: whether convolutions of the stacks have biases; None: where there is no normalization.
        divisor: sides of a photo that is padded alone are multiples of this; None for 32.
        offset: of a cell's center, in strides; 0 in torchvision.
        divided_grid: cells are the padded side divided by the map's apart, not the stride (torchvision).
        with_scales: a learned factor a level; False in torchvision.
        open_ranges: a distance at the end of a range is outside of it (torchvision).
        weighted_boxes: the box loss is weighted by the center-ness; False in torchvision.
        geometric_scores: scores are sqrt(class * center-ness) from the start (torchvision); otherwise the classes
            are cut and ranked first, and multiplied by the center-ness then.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: tuple[int, ...] = FCOS_STRIDES,
        regress_ranges: tuple[tuple[float, float], ...] = FCOS_RANGES,
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
        conv_bias: bool | None = None,
        norm_cfg: Norm | None = GROUP_NORM,
        loss_cls: ClassLoss = FOCAL,
        loss_bbox: BoxLoss = IOU,
        loss_centerness_weight: float = 1.0,
        bbox_coder: DistanceCoder = DISTANCES,
        test_cfg: Selection = FCOS_TEST,
        divisor: int | None = None,
        offset: float = 0.5,
        divided_grid: bool = False,
        with_scales: bool = True,
        open_ranges: bool = False,
        weighted_boxes: bool = True,
        geometric_scores: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.cls_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, bias=conv_bias, rngs=rngs)
        self.reg_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, bias=conv_bias, rngs=rngs)
        inputs = feat_channels if stacked_convs else in_channels
        conv = partial(Conv, padding=1, wide=True, init=normal_001, rngs=rngs)
        self.conv_cls = conv(inputs, class_channels(loss_cls, num_classes), 3, bias_init=bias_for(0.01))
        self.conv_reg = conv(inputs, 4, 3, bias_init=zeros)
        self.conv_centerness = conv(inputs, 1, 3, bias_init=zeros)
        self.scales = nnx.List([Scale() for _ in strides]) if with_scales else None
        self.num_classes, self.strides, self.regress_ranges = num_classes, strides, regress_ranges
        self.center_sampling, self.center_sample_radius = center_sampling, center_sample_radius
        self.norm_on_bbox, self.centerness_on_reg = norm_on_bbox, centerness_on_reg
        self.loss_cls, self.loss_bbox, self.loss_centerness_weight = loss_cls, loss_bbox, loss_centerness_weight
        self.bbox_coder, self.test_cfg = bbox_coder, test_cfg
        self.divisor, self.offset, self.open_ranges = divisor, offset, open_ranges
        self.divided_grid, self.weighted_boxes, self.geometric_scores = divided_grid, weighted_boxes, geometric_scores

    def __call__(self, maps: Sequence[Array]) -> DenseOutputs:
        """Maps, finest first -> logits `[N, h, w, C]`, distances `[N, h, w, 4]` and center-ness `[N, h, w, 1]`.

        Distances are in pixels, or in strides with `norm_on_bbox`.
        """
        scores, boxes, centerness = [], [], []
        for level, x in enumerate(maps):
            classes, distances = self.cls_convs(x), self.reg_convs(x)
            scores.append(self.conv_cls(classes))
            centerness.append(self.conv_centerness(distances if self.centerness_on_reg else classes))
            distances = self.conv_reg(distances)
            if self.scales is not None:
                distances = self.scales[level](distances)
            boxes.append(clamp(distances, 0.0, None) if self.norm_on_bbox else jnp.exp(clamp(distances, None, FAR)))
        return DenseOutputs(tuple(scores), tuple(boxes), tuple(centerness))

    def points(self, map_sizes: Sequence[HeightWidth], pad_shape: HeightWidth) -> list[Array]:
        """The centers of the cells of each level, `[h * w, 2]` x, y."""
        steps = self.steps(map_sizes, pad_shape)
        return [grid_points(size, step, self.offset) for size, step in zip(map_sizes, steps, strict=True)]

    def steps(self, map_sizes: Sequence[HeightWidth], pad_shape: HeightWidth) -> list[HeightWidth]:
        """Height and width of a cell of each level, pixels."""
        if self.divided_grid:
            return [(pad_shape[0] // height, pad_shape[1] // width) for height, width in map_sizes]
        return [(stride, stride) for stride in self.strides]

    def loss(self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth, targets: Targets) -> dict[str, Array]:
        """`loss_cls`, `loss_bbox` and `loss_centerness`."""
        logits = flat(outputs.scores, class_channels(self.loss_cls, self.num_classes))
        distances, centerness = flat(outputs.boxes, 4), flat(outputs.centerness, 1)
        levels = self.points(outputs.map_sizes, pad_shape)
        points = jnp.concatenate(levels).astype(distances.dtype)
        strides = of_level(self.strides, levels, points.dtype)
        ranges = of_level(self.regress_ranges, levels, points.dtype)

        def assign(truth: Array, valid: Array) -> tuple[Array, Array]:
            return fcos_assign(
                points,
                strides,
                ranges,
                truth.astype(points.dtype),
                valid,
                center_sampling=self.center_sampling,
                center_sample_radius=self.center_sample_radius,
                norm_on_bbox=self.norm_on_bbox,
                torchvision=self.open_ranges,
            )

        index, wanted = per_image(jax.vmap(assign), targets.boxes, targets.valid)
        positive = index >= 0
        labels = jnp.where(positive, objectives.rows_of(targets.labels, jnp.maximum(index, 0)), self.num_classes)
        # A square of 1 around the cell stands where there is no object, so that nothing divides by zero.
        wanted = jnp.where(positive[..., None], wanted, 1)
        nearness = jnp.where(positive, center_ness(wanted), 0)
        one, count = jnp.ones_like(nearness), jnp.maximum(positive.sum(), 1).astype(logits.dtype)
        weights = nearness if self.weighted_boxes else positive.astype(logits.dtype)
        total = jnp.maximum(nearness.sum(), 1e-6) if self.weighted_boxes else count
        found, truth = decode_distances(points[None], distances), decode_distances(points[None], wanted)
        return {
            "loss_cls": objectives.class_term(self.loss_cls, logits, labels, one, count),
            "loss_bbox": objectives.box_term(self.loss_bbox, found, truth, weights, total),
            "loss_centerness": center_ness_term(
                self.loss_centerness_weight, centerness, nearness, positive.astype(logits.dtype), count
            ),
        }

    def predict(self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        levels = []
        steps = self.steps(outputs.map_sizes, pad_shape)
        for level, points in enumerate(self.points(outputs.map_sizes, pad_shape)):
            logits = flat([outputs.scores[level]], class_channels(self.loss_cls, self.num_classes))
            scores = objectives.probabilities(self.loss_cls, logits)
            nearness = jax.nn.sigmoid(flat([outputs.centerness[level]], 1))
            if self.geometric_scores:
                scores = jnp.sqrt(scores * nearness)
            own = own_places(outputs.map_sizes[level], steps[level], sizes, divisor=self.divisor)
            score, place, label, valid = best_of_level(scores, own, self.test_cfg)
            if not self.geometric_scores:
                score = score * objectives.rows_of(nearness[..., 0], place)
            distances = objectives.rows_of(flat([outputs.boxes[level]], 4), place)
            if self.norm_on_bbox:
                distances = distances * self.strides[level]
            boxes = boxes_around(self.bbox_coder, points.astype(distances.dtype)[place], distances, sizes)
            levels.append(Candidates(boxes, score, label, jnp.full_like(label, level), valid))
        return final_detections(joined(levels), self.test_cfg)
