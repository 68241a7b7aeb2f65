"""Region proposal network: whether there is an object at each anchor, and its box.

Ren et al. 2015, https://arxiv.org/abs/1506.01497.
"""

from collections.abc import Sequence
from functools import partial

from flax import nnx
from jax import Array

from jaxft.models.detectors.conv_module import ConvModule, normal_001, zeros
from jaxft.models.detectors.dense.anchors import AnchorSettings, anchors_per_cell
from jaxft.models.detectors.dense.defaults import DELTAS, L1
from jaxft.models.detectors.dense.losses import anchor_losses
from jaxft.models.detectors.dense.outputs import DenseOutputs, class_channels
from jaxft.models.detectors.dense.selection import anchor_candidates, final_proposals
from jaxft.models.detectors.types import (
    AnchorGenerator,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    Detections,
    MaxIoUAssigner,
    RandomSampler,
    Selection,
    Targets,
)
from jaxft.models.layers import Conv, Sequential

RPN_ANCHORS = AnchorGenerator(strides=(4, 8, 16, 32, 64), ratios=(0.5, 1.0, 2.0), scales=(8.0,))
RPN_TRAIN = DenseTrain(MaxIoUAssigner(0.7, 0.3, 0.3), RandomSampler(256, 0.5, add_gt_as_proposals=False))
RPN_TEST = Selection(max_per_img=1000, iou_threshold=0.7, nms_pre=1000, min_bbox_size=0)
OBJECTNESS = ClassLoss("sigmoid")


class RPNHead(nnx.Module):
    """Region proposals: one 3x3 convolution, then whether there is an object at each anchor, and its box.

    Args:
        in_channels, feat_channels: of the maps, and inside.
        num_convs: 3x3 convolutions; with more than one they lie at `rpn_conv.0.conv`, ...
        anchor_generator, bbox_coder, loss_cls, loss_bbox, train_cfg, test_cfg: see `detectors.types`.
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
        anchors = anchors_per_cell(anchor_generator)
        self.rpn_cls = conv(feat_channels, anchors * class_channels(loss_cls, 1), 1, wide=True)
        self.rpn_reg = conv(feat_channels, anchors * 4, 1, wide=True)
        self.settings = AnchorSettings(
            1, anchor_generator, bbox_coder, reg_decoded_bbox, loss_cls, loss_bbox, train_cfg
        )
        self.test_cfg = test_cfg
        self.rngs = rngs.dropout.fork()

    def __call__(self, maps: Sequence[Array]) -> DenseOutputs:
        """Maps `[N, h, w, C]`, finest first -> logits `[N, h, w, A]` and box codes `[N, h, w, A * 4]` of each."""
        features = [nnx.relu(self.rpn_conv(x)) for x in maps]
        return DenseOutputs(tuple(self.rpn_cls(x) for x in features), tuple(self.rpn_reg(x) for x in features))

    def loss(
        self, outputs: DenseOutputs, sizes: Array, pad_shape: tuple[int, int], targets: Targets
    ) -> dict[str, Array]:
        """`loss_rpn_cls` and `loss_rpn_bbox`; every object counts as one of a single class."""
        targets = targets._replace(labels=0 * targets.labels)
        loss_cls, loss_bbox = anchor_losses(outputs, self.settings, sizes, pad_shape, targets, self.rngs)
        return {"loss_rpn_cls": loss_cls, "loss_rpn_bbox": loss_bbox}

    def predict(
        self, outputs: DenseOutputs, sizes: Array, pad_shape: tuple[int, int], selection: Selection | None = None
    ) -> Detections:
        """The proposals, all of label 0; `selection` in the place of `test_cfg` if given."""
        boxes = anchor_candidates(outputs, self.settings, sizes, pad_shape, selection or self.test_cfg)
        return final_proposals(boxes, selection or self.test_cfg)
