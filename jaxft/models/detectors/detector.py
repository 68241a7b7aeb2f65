"""Detectors: a backbone, a neck, and one head or two.

All of them have `loss(images, sizes, targets)`, `predict(images, sizes)` and `feature_maps(images)`. Images are float
`[N, H, W, 3]`, normalized, 0 outside of the photos, whose heights and widths are `sizes` `[N, 2]`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, cast

import jax
from flax import nnx
from jax import Array

from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.roi.judging import ClassLogits
from jaxft.models.detectors.types import Detections, Selection, Targets
from jaxft.models.layers import BatchNorm
from jaxft.models.layers.per_image import per_image
from jaxft.models.paths import modules

Backbone = Callable[[Array], tuple[Array, ...]]
Neck = Callable[[Sequence[Array]], tuple[Array, ...]]


def pad_shape_of(images: Array) -> HeightWidth:
    """(height, width) of images `[N, H, W, 3]`."""
    return images.shape[1], images.shape[2]


class DenseHead(Protocol):
    """What `SingleStage` needs of its head."""

    def __call__(self, maps: Sequence[Array]) -> DenseOutputs: ...

    def loss(
        self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth, targets: Targets
    ) -> dict[str, Array]: ...

    def predict(self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth) -> Detections: ...


class RoIHead(Protocol):
    """What `TwoStage` needs of its second head; `proposals` are boxes `[N, P, 4]` with `valid` `[N, P]`."""

    def loss(
        self, maps: Sequence[Array], proposals: Detections, sizes: Array, targets: Targets
    ) -> dict[str, Array]: ...

    def class_logits(self, maps: Sequence[Array], boxes: Array, valid: Array) -> tuple[ClassLogits, ...]: ...

    def predict(self, maps: Sequence[Array], proposals: Detections, sizes: Array) -> Detections: ...


def dense_outputs(head: DenseHead | RPNHead, maps: Sequence[Array]) -> DenseOutputs:
    """What a head puts out for maps `[N, h, w, C]`, finest first.

    All levels share its weights. Where each device has its own images their gradients are summed over the levels before
    they are summed over the devices, unless a layer needs the statistics of the whole batch.
    """
    norms = (module for _, module in modules(cast(nnx.Module, head)) if isinstance(module, BatchNorm))
    if any(not (norm.use_running_average or norm.running_only) for norm in norms):
        return head(maps)
    return per_image(head, tuple(maps))


class SingleStage(nnx.Module):
    """RetinaNet, FCOS, ATSS, GFL, and an RPN alone. `torch_names` are those of `converters.rules.leaves`."""

    torch_names: tuple[tuple[str, str], ...] = ()

    def __init__(self, backbone: Backbone, neck: Neck | None, bbox_head: DenseHead) -> None:
        self.backbone, self.neck, self.bbox_head = backbone, neck, bbox_head

    def feature_maps(self, images: Array) -> tuple[Array, ...]:
        """What the head sees, finest level first."""
        maps = self.backbone(images)
        return maps if self.neck is None else self.neck(maps)

    def outputs(self, images: Array) -> DenseOutputs:
        """The raw maps of the head."""
        return dense_outputs(self.bbox_head, self.feature_maps(images))

    def loss(self, images: Array, sizes: Array, targets: Targets) -> dict[str, Array]:
        """The terms of the loss by MMDetection's names; the sum of those named `loss` is what is minimized."""
        return self.bbox_head.loss(self.outputs(images), sizes, pad_shape_of(images), targets)

    def predict(self, images: Array, sizes: Array) -> Detections:
        """The objects found, in pixels of the padded image."""
        predict = partial(self.bbox_head.predict, pad_shape=pad_shape_of(images))
        return per_image(predict, self.outputs(images), sizes)


class TwoStage(nnx.Module):
    """Faster, Mask and Cascade R-CNN: proposals of an RPN, looked at again.

    Args:
        roi_head: `StandardRoIHead` or `CascadeRoIHead`.
        rpn_proposal: which proposals are made in training; the `test_cfg` of the RPN where it is None.
    """

    torch_names: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck | None,
        rpn_head: RPNHead,
        roi_head: RoIHead,
        *,
        rpn_proposal: Selection | None = None,
    ) -> None:
        self.backbone, self.neck, self.rpn_head, self.roi_head = backbone, neck, rpn_head, roi_head
        self.rpn_proposal = rpn_proposal

    def feature_maps(self, images: Array) -> tuple[Array, ...]:
        """What the heads see, finest level first."""
        maps = self.backbone(images)
        return maps if self.neck is None else self.neck(maps)

    def proposals(
        self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth, selection: Selection | None = None
    ) -> Detections:
        """The boxes that the second stage looks at; `selection` in the place of the RPN's `test_cfg` if given."""
        propose = partial(self.rpn_head.predict, pad_shape=pad_shape, selection=selection)
        return per_image(propose, outputs, sizes)

    def loss(self, images: Array, sizes: Array, targets: Targets) -> dict[str, Array]:
        """The terms of the loss by MMDetection's names; the sum of those named `loss` is what is minimized."""
        maps = self.feature_maps(images)
        return self.terms(maps, dense_outputs(self.rpn_head, maps), sizes, pad_shape_of(images), targets)

    def terms(
        self, maps: Sequence[Array], outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth, targets: Targets
    ) -> dict[str, Array]:
        """`loss` of what the heads see, and what the RPN puts out for it."""
        terms = self.rpn_head.loss(outputs, sizes, pad_shape, targets)
        proposals = self.proposals(jax.lax.stop_gradient(outputs), sizes, pad_shape, self.rpn_proposal)
        return terms | self.roi_head.loss(maps, proposals, sizes, targets)

    def predict(self, images: Array, sizes: Array) -> Detections:
        """The objects found, in pixels of the padded image, with masks where there is a mask head."""
        maps = self.feature_maps(images)
        proposals = self.proposals(dense_outputs(self.rpn_head, maps), sizes, pad_shape_of(images))
        return self.roi_head.predict(maps, proposals, sizes)
