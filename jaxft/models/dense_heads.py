"""Heads that put out boxes at every cell of every level, by anchors: RPN and RetinaNet.

Ren et al. 2015, https://arxiv.org/abs/1506.01497; Lin et al. 2017, https://arxiv.org/abs/1708.02002. All heads share
three steps: `head(maps)` gives the raw outputs of each level, `head.loss(outputs, ...)` its losses,
`head.predict(outputs, ...)` its boxes.
"""

from collections.abc import Sequence
from functools import partial

from flax import nnx
from jax import Array

from jaxft.models import dense
from jaxft.models.conv_module import ConvModule, bias_for, normal_001, zeros
from jaxft.models.detection_types import (
    AnchorGenerator,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    Detections,
    MaxIoUAssigner,
    Norm,
    RandomSampler,
    Selection,
    Targets,
)
from jaxft.models.layers import Conv, Sequential

RPN_ANCHORS = AnchorGenerator(strides=(4, 8, 16, 32, 64), ratios=(0.5, 1.0, 2.0), scales=(8.0,))
RPN_TRAIN = DenseTrain(MaxIoUAssigner(0.7, 0.3, 0.3), RandomSampler(256, 0.5, add_gt_as_proposals=False))
RPN_TEST = Selection(max_per_img=1000, iou_threshold=0.7, nms_pre=1000, min_bbox_size=0)
RETINA_ANCHORS = AnchorGenerator(
    strides=(8, 16, 32, 64, 128), ratios=(0.5, 1.0, 2.0), octave_base_scale=4, scales_per_octave=3
)
RETINA_TRAIN = DenseTrain(MaxIoUAssigner(0.5, 0.4, 0.0))
RETINA_TEST = Selection(max_per_img=100, iou_threshold=0.5, nms_pre=1000, score_thr=0.05, min_bbox_size=0)
DELTAS = DeltaCoder()
OBJECTNESS = ClassLoss("sigmoid")
FOCAL = ClassLoss("focal")
L1 = BoxLoss("l1")


class RPNHead(nnx.Module):
    """Region proposals: one 3x3 convolution, then whether there is an object at each anchor, and its box.

    Args:
        in_channels, feat_channels: of the maps, and inside.
        num_convs: 3x3 convolutions; with more than one they lie at `rpn_conv.0.conv`, ...
        anchor_generator, bbox_coder, loss_cls, loss_bbox, train_cfg, test_cfg: see `detection_types`.
        reg_decoded_bbox: the box loss compares boxes and not their codes.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        feat_channels: int = 256,
        num_convs: int = 1,
        anchor_generator: AnchorGenerator = RPN_ANCHORS,
        bbox_coder: DeltaCoder = DELTAS,
        reg_decoded_bbox: bool = False,
        loss_cls: ClassLoss = OBJECTNESS,
        loss_bbox: BoxLoss = L1,
        train_cfg: DenseTrain = RPN_TRAIN,
        test_cfg: Selection = RPN_TEST,
        rngs: nnx.Rngs,
    ) -> None:
        conv = partial(Conv, init=normal_001, bias_init=zeros, rngs=rngs)
        if num_convs == 1:
            self.rpn_conv: Conv | Sequential = conv(in_channels, feat_channels, 3, padding=1)
        else:
            inputs = [in_channels] + [feat_channels] * (num_convs - 1)
            module = partial(ConvModule, padding=1, init=normal_001, rngs=rngs)
            self.rpn_conv = Sequential([module(channels, feat_channels, 3) for channels in inputs])
        anchors = dense.anchors_per_cell(anchor_generator)
        self.rpn_cls = conv(feat_channels, anchors * dense.channels(loss_cls, 1), 1)
        self.rpn_reg = conv(feat_channels, anchors * 4, 1)
        self.settings = dense.AnchorSettings(
            1, anchor_generator, bbox_coder, reg_decoded_bbox, loss_cls, loss_bbox, train_cfg
        )
        self.test_cfg = test_cfg
        self.rngs = rngs.dropout.fork()

    def __call__(self, maps: Sequence[Array]) -> dense.Outputs:
        """Maps `[N, h, w, C]`, finest first -> logits `[N, h, w, A]` and box codes `[N, h, w, A * 4]` of each."""
        features = [nnx.relu(self.rpn_conv(x)) for x in maps]
        return dense.Outputs(tuple(self.rpn_cls(x) for x in features), tuple(self.rpn_reg(x) for x in features))

    def loss(self, outputs: dense.Outputs, sizes: Array, canvas: tuple[int, int], targets: Targets) -> dict[str, Array]:
        """`loss_rpn_cls` and `loss_rpn_bbox`; every object counts as one of a single class."""
        targets = targets._replace(labels=0 * targets.labels)
        loss_cls, loss_bbox = dense.anchor_losses(outputs, self.settings, sizes, canvas, targets, self.rngs)
        return {"loss_rpn_cls": loss_cls, "loss_rpn_bbox": loss_bbox}

    def predict(
        self, outputs: dense.Outputs, sizes: Array, canvas: tuple[int, int], selection: Selection | None = None
    ) -> Detections:
        """The proposals, all of label 0; `selection` in the place of `test_cfg` if given."""
        boxes = dense.anchor_candidates(outputs, self.settings, sizes, canvas, selection or self.test_cfg)
        return dense.proposals(boxes, selection or self.test_cfg)


class RetinaHead(nnx.Module):
    """Two stacks of convolutions, for the classes and for the boxes at every anchor.

    Args:
        num_classes, in_channels, feat_channels: classes without background; channels of the maps, and inside.
        stacked_convs: in each stack.
        norm_cfg: of the stacks; None for none.
        anchor_generator, bbox_coder, loss_cls, loss_bbox, train_cfg, test_cfg: see `detection_types`.
        reg_decoded_bbox: the box loss compares boxes and not their codes.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        norm_cfg: Norm | None = None,
        anchor_generator: AnchorGenerator = RETINA_ANCHORS,
        bbox_coder: DeltaCoder = DELTAS,
        reg_decoded_bbox: bool = False,
        loss_cls: ClassLoss = FOCAL,
        loss_bbox: BoxLoss = L1,
        train_cfg: DenseTrain = RETINA_TRAIN,
        test_cfg: Selection = RETINA_TEST,
        rngs: nnx.Rngs,
    ) -> None:
        self.cls_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, rngs=rngs)
        self.reg_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, rngs=rngs)
        inputs = feat_channels if stacked_convs else in_channels
        conv = partial(Conv, padding=1, init=normal_001, rngs=rngs)
        anchors = dense.anchors_per_cell(anchor_generator)
        self.retina_cls = conv(inputs, anchors * dense.channels(loss_cls, num_classes), 3, bias_init=bias_for(0.01))
        self.retina_reg = conv(inputs, anchors * 4, 3, bias_init=zeros)
        self.settings = dense.AnchorSettings(
            num_classes, anchor_generator, bbox_coder, reg_decoded_bbox, loss_cls, loss_bbox, train_cfg
        )
        self.test_cfg = test_cfg
        self.rngs = rngs.dropout.fork()

    def __call__(self, maps: Sequence[Array]) -> dense.Outputs:
        """Maps, finest first -> logits `[N, h, w, A * C]` and box codes `[N, h, w, A * 4]` of each."""
        return dense.Outputs(
            tuple(self.retina_cls(self.cls_convs(x)) for x in maps),
            tuple(self.retina_reg(self.reg_convs(x)) for x in maps),
        )

    def loss(self, outputs: dense.Outputs, sizes: Array, canvas: tuple[int, int], targets: Targets) -> dict[str, Array]:
        """`loss_cls` and `loss_bbox`."""
        loss_cls, loss_bbox = dense.anchor_losses(outputs, self.settings, sizes, canvas, targets, self.rngs)
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox}

    def predict(self, outputs: dense.Outputs, sizes: Array, canvas: tuple[int, int]) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        boxes = dense.anchor_candidates(outputs, self.settings, sizes, canvas, self.test_cfg)
        return dense.detections(boxes, self.test_cfg)


def stack(
    inputs: int, channels: int, count: int, norm_cfg: Norm | None, *, bias: bool | None = None, rngs: nnx.Rngs
) -> Sequential:
    """`count` 3x3 convolutions with normalisation and ReLU, at the paths `0.conv`, `1.conv`, ..."""
    module = partial(ConvModule, padding=1, norm_cfg=norm_cfg, bias=bias, init=normal_001, rngs=rngs)
    return Sequential([module(inputs if index == 0 else channels, channels, 3) for index in range(count)])
