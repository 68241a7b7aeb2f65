"""The head of RetinaNet; Lin et al. 2017, https://arxiv.org/abs/1708.02002."""

from collections.abc import Sequence
from functools import partial

from flax import nnx
from jax import Array

from jaxft.models.detectors.conv_module import bias_for, normal_001, stack, zeros
from jaxft.models.detectors.dense.anchors import AnchorSettings, anchors_per_cell
from jaxft.models.detectors.dense.defaults import DELTAS, FOCAL, L1
from jaxft.models.detectors.dense.losses import anchor_losses
from jaxft.models.detectors.dense.outputs import DenseOutputs, class_channels
from jaxft.models.detectors.dense.selection import anchor_candidates, final_detections
from jaxft.models.detectors.types import (
    AnchorGenerator,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    Detections,
    MaxIoUAssigner,
    Norm,
    Selection,
    Targets,
)
from jaxft.models.layers import Conv

RETINA_ANCHORS = AnchorGenerator(
    strides=(8, 16, 32, 64, 128), ratios=(0.5, 1.0, 2.0), octave_base_scale=4, scales_per_octave=3
)
RETINA_TRAIN = DenseTrain(MaxIoUAssigner(0.5, 0.4, 0.0))
RETINA_TEST = Selection(max_per_img=100, iou_threshold=0.5, nms_pre=1000, score_thr=0.05, min_bbox_size=0)


class RetinaHead(nnx.Module):
    """Two stacks of convolutions, for the classes and for the boxes at every anchor.

    Args:
        num_classes, in_channels, feat_channels: classes without background; channels of the maps, and inside.
        stacked_convs: in each stack.
        norm_cfg: of the stacks; None for none.
        anchor_generator, bbox_coder, loss_cls, loss_bbox, train_cfg, test_cfg: see `detectors.types`.
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
        conv = partial(Conv, padding=1, wide=True, init=normal_001, rngs=rngs)
        anchors = anchors_per_cell(anchor_generator)
        self.retina_cls = conv(inputs, anchors * class_channels(loss_cls, num_classes), 3, bias_init=bias_for(0.01))
        self.retina_reg = conv(inputs, anchors * 4, 3, bias_init=zeros)
        self.settings = AnchorSettings(
            num_classes, anchor_generator, bbox_coder, reg_decoded_bbox, loss_cls, loss_bbox, train_cfg
        )
        self.test_cfg = test_cfg
        self.rngs = rngs.dropout.fork()

    def __call__(self, maps: Sequence[Array]) -> DenseOutputs:
        """Maps, finest first -> logits `[N, h, w, A * C]` and box codes `[N, h, w, A * 4]` of each."""
        return DenseOutputs(
            tuple(self.retina_cls(self.cls_convs(x)) for x in maps),
            tuple(self.retina_reg(self.reg_convs(x)) for x in maps),
        )

    def loss(
        self, outputs: DenseOutputs, sizes: Array, pad_shape: tuple[int, int], targets: Targets
    ) -> dict[str, Array]:
        """`loss_cls` and `loss_bbox`."""
        loss_cls, loss_bbox = anchor_losses(outputs, self.settings, sizes, pad_shape, targets, self.rngs)
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox}

    def predict(self, outputs: DenseOutputs, sizes: Array, pad_shape: tuple[int, int]) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        boxes = anchor_candidates(outputs, self.settings, sizes, pad_shape, self.test_cfg)
        return final_detections(boxes, self.test_cfg)
