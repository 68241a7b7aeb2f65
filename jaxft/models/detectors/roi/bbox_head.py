"""The layers of a head that says what class a box holds and where exactly it is.

Ren et al. 2015, https://arxiv.org/abs/1506.01497.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.detectors.conv_module import ConvModule, normal_001, xavier_uniform, zeros
from jaxft.models.detectors.types import BoxLoss, ClassLoss, DeltaCoder, Norm
from jaxft.models.layers import Linear, LinearOverMap, Sequential

BOX_CODER = DeltaCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
CROSS_ENTROPY = ClassLoss("softmax")
SMOOTH_L1 = BoxLoss("smooth_l1")


class ConvFCBBoxHead(nnx.Module):
    """Convolutions, then linear layers on the flattened map, shared and for either output alone.

    `Shared2FCBBoxHead` is `num_shared_fcs=2`, `Shared4Conv1FCBBoxHead` `num_shared_convs=4, num_shared_fcs=1`.

    Args:
        in_channels, roi_feat_size: of the regions' maps.
        num_classes: without background.
        num_shared_convs, ..., num_reg_fcs: how many layers of each kind.
        conv_out_channels, fc_out_channels: their outputs.
        norm_cfg: of the convolutions; None for none.
        bbox_coder, loss_cls, loss_bbox: see `detectors.types`.
        reg_class_agnostic: one box a region, not one a class.
        reg_decoded_bbox: the box loss compares boxes and not their codes.
        background_first: the background is output 0 of `fc_cls` and has a (useless) box of its own in `fc_reg`
            (torchvision); otherwise it is the last output of `fc_cls`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        roi_feat_size: int = 7,
        num_shared_convs: int = 0,
        num_shared_fcs: int = 0,
        num_cls_convs: int = 0,
        num_cls_fcs: int = 0,
        num_reg_convs: int = 0,
        num_reg_fcs: int = 0,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        norm_cfg: Norm | None = None,
        bbox_coder: DeltaCoder = BOX_CODER,
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        loss_cls: ClassLoss = CROSS_ENTROPY,
        loss_bbox: BoxLoss = SMOOTH_L1,
        background_first: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        area = (roi_feat_size, roi_feat_size)

        def branch(shape: tuple[int, ...], convs: int, fcs: int) -> tuple[Sequential, Sequential, tuple[int, ...]]:
            """The layers after a map `[h, w, C]` or a vector `[C]`, and the shape that they put out."""
            module = partial(ConvModule, padding=1, norm_cfg=norm_cfg, rngs=rngs)
            maps = []
            for _ in range(convs):
                maps.append(module(shape[-1], conv_out_channels, 3))
                shape = (*area, conv_out_channels)
            vectors = []
            for _ in range(fcs):
                vectors.append(linear(shape, fc_out_channels, xavier_uniform, rngs))
                shape = (fc_out_channels,)
            return Sequential(maps), Sequential(vectors), shape

        shape: tuple[int, ...] = (*area, in_channels)
        self.shared_convs, self.shared_fcs, shape = branch(shape, num_shared_convs, num_shared_fcs)
        self.cls_convs, self.cls_fcs, cls_shape = branch(shape, num_cls_convs, num_cls_fcs)
        self.reg_convs, self.reg_fcs, reg_shape = branch(shape, num_reg_convs, num_reg_fcs)
        boxes = 1 if reg_class_agnostic else num_classes + background_first
        self.fc_cls = linear(cls_shape, num_classes + 1, normal_001, rngs, wide=True)
        self.fc_reg = linear(reg_shape, 4 * boxes, jax.nn.initializers.normal(0.001), rngs, wide=True)
        self.num_classes, self.bbox_coder = num_classes, bbox_coder
        self.reg_class_agnostic, self.reg_decoded_bbox = reg_class_agnostic, reg_decoded_bbox
        self.loss_cls, self.loss_bbox, self.background_first = loss_cls, loss_bbox, background_first

    def __call__(self, x: Array, used: Array) -> tuple[Array, Array]:
        """Maps of regions `[R, h, w, C]` -> logits `[R, classes + 1]`, background last, and codes `[R, boxes, 4]`.

        `boxes` is the number of classes, or 1 where they share one box. `used` `[R]` are not padding.
        """
        x = hidden(self.shared_fcs, convolved(self.shared_convs, x, used))
        logits = self.fc_cls(hidden(self.cls_fcs, convolved(self.cls_convs, x, used)))
        codes = self.fc_reg(hidden(self.reg_fcs, convolved(self.reg_convs, x, used)))
        codes = codes.reshape(len(codes), -1, 4)
        if self.background_first:
            logits = jnp.concatenate([logits[:, 1:], logits[:, :1]], 1)
            codes = codes if self.reg_class_agnostic else codes[:, 1:]
        return logits, codes


def linear(
    shape: tuple[int, ...],
    outputs: int,
    init: jax.nn.initializers.Initializer,
    rngs: nnx.Rngs,
    *,
    wide: bool = False,
) -> nnx.Module:
    """A linear layer on a vector `[C]` or on a whole map `[h, w, C]`, biases 0; `wide` as of `Conv`."""
    if len(shape) == 1:
        return Linear(shape[0], outputs, wide=wide, init=init, bias_init=zeros, rngs=rngs)
    height, width, channels = shape

    def flat(key: Array, kernel: tuple[int, ...]) -> Array:
        # The initial deviation depends on all inputs, which an initialiser would not see in the apart axes.
        return init(key, (math.prod(kernel[:-1]), kernel[-1])).reshape(kernel)

    return LinearOverMap((height, width, channels), outputs, wide=wide, init=flat, bias_init=zeros, rngs=rngs)


def convolved(layers: Sequential, x: Array, used: Array) -> Array:
    """Convolutions, whose BatchNorms take no account of padding."""
    for layer in layers:
        x = layer(x, used)
    return x


def hidden(layers: Sequential, x: Array) -> Array:
    """Linear layers, each with ReLU."""
    for layer in layers:
        x = nnx.relu(layer(x))
    return x
