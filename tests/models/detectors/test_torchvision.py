"""torchvision's detectors against live torchvision; the full ones by hand, `pytest -m zoo`."""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, to_torch
from converters.report import difference, worst
from converters.rules import leaves
from converters.verify import as_torch, comes_back
from converters.verify_reference import perturb
from jaxft.detection.masks import paste
from jaxft.models import BUILDERS, abstract_model, initialize_missing
from jaxft.models.detectors.backbones.resnet import DEPTHS, ResNet
from jaxft.models.detectors.torchvision import PRESETS, parts, rcnn
from jaxft.models.detectors.types import RandomSampler
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK, initial_rngs

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
parity = pytest.importorskip("tests.models.detectors.parity")
faster_rcnn, mask_rcnn, retinanet, fcos = (
    pytest.importorskip(f"torchvision.models.detection.{file}")
    for file in ("faster_rcnn", "mask_rcnn", "retinanet", "fcos")
)

NAMES = [builder.__name__ for builder in PRESETS]
# One of each kind in the ordinary tests, on a ResNet of basic blocks, one in each layer.
ORDINARY = ("maskrcnn_resnet50_fpn", "fcos_resnet50_fpn")
CASES = [pytest.param(name, marks=[] if name in ORDINARY else pytest.mark.zoo) for name in NAMES]
HEIGHT, WIDTH = parity.CANVAS
ROIS, PROPOSALS = 24, 20
BLOCKS = (1, 1, 1, 1)
LAST = ("cls_logits.", "cls_score.", "bbox_pred.", "bbox_reg.", "bbox_ctrness.", "mask_fcn_logits.")
THEIR_NAMES = {
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_mask": "loss_mask",
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_bbox",
    "classification": "loss_cls",
    "bbox_regression": "loss_bbox",
    "bbox_ctrness": "loss_centerness",
}


def backbone(build: Any) -> Any:
    """A builder of a classifier that takes no weights, but the norm that detectors give it where they ask for some."""

    def make(*, weights: Any = None, progress: bool = True, **options: Any) -> Any:
        return build(weights=None, **options)

    return make


def shallow(*, weights: None, **options: Any) -> Any:
    """torchvision's ResNet with one block in each layer."""
    return torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, list(BLOCKS), **options)


@contextlib.contextmanager
def without_chance(*, full: bool) -> Iterator[None]:
    """Both sides train on every candidate, so that no sample is drawn, and on a shallow ResNet unless `full`."""
    resnet = torchvision.models.resnet50 if full else shallow
    with contextlib.ExitStack() as stack:
        for file in (faster_rcnn, mask_rcnn, retinanet, fcos):
            stack.enter_context(mock.patch.object(file, "resnet50", backbone(resnet)))
        mobile = backbone(torchvision.models.mobilenet_v3_large)
        stack.enter_context(mock.patch.object(faster_rcnn, "mobilenet_v3_large", mobile))
        if not full:
            stack.enter_context(mock.patch.dict(DEPTHS, {18: BLOCKS}))
            small = {"ResNet": lambda depth, **options: ResNet(18, **options), "RESNET_WIDTHS": (64, 128, 256, 512)}
            for file in (parts, rcnn):
                stack.enter_context(mock.patch.multiple(file, **small))
            usual = retinanet.LastLevelP6P7

            def deep(inputs: int, outputs: int) -> Any:
                return usual(512 if inputs == 2048 else inputs, outputs)

            stack.enter_context(mock.patch.object(retinanet, "LastLevelP6P7", deep))

        def everything(num: int, fraction: float, **options: Any) -> RandomSampler:
            return RandomSampler(ROIS if num == 512 else 10**6, 1.0, counts_at_least_one=False, **options)

        few = mock.patch.object(rcnn, "proposals", partial(proposals, rcnn.proposals))
        stack.enter_context(few)
        stack.enter_context(mock.patch.object(rcnn, "sampler", everything))
        yield


def proposals(usual: Any, count: int, score: float = 0.0) -> Any:
    return usual(PROPOSALS, score)


def both_sides(name: str, *, full: bool) -> Any:
    """torchvision's detector and ours with the same weights, three classes of objects."""
    background = "rcnn" in name
    options: dict[str, Any] = {"trainable_backbone_layers": 6 if "mobilenet" in name else 5}
    if background:
        count = dict.fromkeys(f"rpn_{when}_nms_top_n_{mode}" for when in ("pre", "post") for mode in ("train", "test"))
        options |= dict.fromkeys(count, PROPOSALS)
        options |= {"rpn_batch_size_per_image": 10**6, "rpn_positive_fraction": 1.0}
        options |= {"box_batch_size_per_image": ROIS, "box_positive_fraction": 1.0}
    with without_chance(full=full):
        torch.manual_seed(0)
        theirs = torchvision.models.get_model(
            name,
            weights=None,
            weights_backbone="DEFAULT",  # none is loaded, but the norm is that of a detector with weights
            num_classes=parity.CLASSES + background,
            min_size=HEIGHT,
            max_size=WIDTH,
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
            **options,
        )
        with torch.no_grad():
            perturb(theirs, 0)
            random = torch.Generator().manual_seed(1)
            for module in theirs.modules():
                if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
                    signs = 1 - 2 * (torch.arange(len(module.weight)) % 2)
                    noise = torch.rand(4, len(module.weight), generator=random)
                    module.weight.copy_(0.4 + 0.2 * noise[0])
                    module.bias.copy_(signs * (2.3 + 0.25 * noise[1]))
                    module.running_mean.copy_(0.2 * noise[2] - 0.1)
                    module.running_var.copy_(0.5 + noise[3])
            for part, parameter in theirs.named_parameters():
                last = ("cls_logits.weight", "cls_score.weight", "bbox_pred.weight", "bbox_reg.weight")
                if part.endswith(last):
                    parameter.normal_(0, 0.5 / parameter[0].numel() ** 0.5, generator=random)
                elif part.endswith("cls_logits.bias"):
                    parameter.normal_(-0.5, 0.3, generator=random)
                elif part.endswith("bbox_reg.bias") and "fcos" in name:
                    parameter.fill_(2.0)  # distances, of which those below 0 are 0: no box is a point
        if full:
            theirs.eval()
            photos = photos_of(parity.random_batch(empty=True))
            parity.settle(theirs, ("rpn.", "roi_heads.", "head."), LAST, lambda: theirs(photos))
        build = partial(BUILDERS[name], parity.CLASSES)
        ours = nnx.eval_shape(lambda: build(rngs=initial_rngs(0)))
        load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
        initialize_missing(ours, lambda: build(rngs=initial_rngs(0)))
    exported = to_torch(ours)
    assert comes_back(theirs, exported)
    return theirs, ours


def photos_of(batch: Any) -> list[Any]:
    """The photos without their padding, as torchvision takes them."""
    return [
        torch.from_numpy(image[:height, :width]).permute(2, 0, 1)
        for image, (height, width) in zip(batch.images, batch.sizes, strict=True)
    ]


def their_targets(batch: Any, *, masks: bool, background: bool) -> list[dict[str, Any]]:
    targets = []
    for boxes, labels, bitmaps, (height, width) in zip(
        batch.boxes, batch.labels, batch.masks, batch.sizes, strict=True
    ):
        target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels + background).long()}
        if masks:
            target["masks"] = torch.from_numpy(bitmaps[:, :height, :width])
        targets.append(target)
    return targets


@pytest.mark.parametrize("name", CASES)
def test_it_is_torchvisions(name: str) -> None:
    check(name, full=False)


@pytest.mark.zoo
@pytest.mark.parametrize("name", NAMES)
def test_the_full_one_is_torchvisions(name: str) -> None:
    check(name, full=True)


def check(name: str, *, full: bool) -> None:
    """Detections, every term of the loss and every gradient, in float32; torchvision knows no crowds, ours has some."""
    theirs, ours = both_sides(name, full=full)
    batch = parity.random_batch(empty=True)
    masks, background = "mask" in name, "rcnn" in name
    photos = photos_of(batch)
    theirs.eval()
    ours.eval()
    with torch.no_grad():
        found = theirs(photos)
    found = [{key: value.numpy() for key, value in photo.items()} for photo in found]
    for photo in found:
        photo["labels"] = photo["labels"] - background
        photo["bboxes"] = photo.pop("boxes")
    images, sizes = jnp.asarray(batch.images), jnp.asarray(batch.sizes, jnp.int32)
    predict = jax.jit(lambda arrays: filled(ours, arrays).predict(images, sizes), compiler_options=QUICK)
    detections = predict(values(ours))
    parity.assert_same_detections(found, detections, tolerance=1e-4)
    if masks:
        for row, (photo, (height, width)) in enumerate(zip(found, batch.sizes, strict=True)):
            parts = (np.asarray(part[row][: len(photo["scores"])]) for part in (detections.masks, detections.boxes))
            same = paste(*parts, height, width, style="torchvision") == (photo["masks"][:, 0] > 0.5)
            assert same.mean() >= 0.999

    # Gradients are compared with BatchNorm on its running statistics; two photos are too few for its own.
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    terms = theirs(photos, their_targets(batch, masks=masks, background=background))
    sum(terms.values()).backward()
    params = values(ours, nnx.Param)
    rest = {path: array for path, array in values(ours).items() if path not in params}
    gradient = jax.jit(jax.grad(partial(parity._loss, ours), has_aux=True), compiler_options=QUICK)
    grads, our_terms = gradient(params, rest, images, sizes, batch.targets(masks))
    differences = {key: difference(our_terms[THEIR_NAMES[key]], value.detach().numpy()) for key, value in terms.items()}
    gradients = {
        key: torch.zeros_like(value) if value.grad is None else value.grad for key, value in theirs.named_parameters()
    }
    differences["gradient"], where = worst(as_torch(ours, grads), gradients, 1e-2)
    print({key: f"{value:.1e}" for key, value in differences.items()}, where)
    assert {key: value for key, value in differences.items() if not value < (1e-3 if key == "gradient" else 1e-4)} == {}


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    background = "rcnn" in name
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=7 + background)
    wanted = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items() if "num_batches" not in key}
    found = {leaf.key: leaf.source_shape for leaf in leaves(abstract_model(name, 7)) if "num_batches" not in leaf.key}
    assert found == wanted


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("maskrcnn_resnet50_fpn", r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
        ("maskrcnn_resnet50_fpn", r"(blocks\.\d)\.0\.", r"\1."),
        ("maskrcnn_resnet50_fpn", r"roi_heads\.mask_head\.2\.0\.", "roi_heads.mask_head.mask_fcn3."),
        ("retinanet_resnet50_fpn", r"(head\.\w+_head\.conv)\.3\.0\.", r"\1.6."),
    ],
)
def test_keys_of_old_are_understood(name: str, old: str, new: str) -> None:

    model = abstract_model(name, 2)
    state = {leaf.key: np.zeros(leaf.source_shape, np.float32) for leaf in leaves(model)}
    renamed = {re.sub(old, new, key): tensor for key, tensor in state.items()}
    assert renamed.keys() != state.keys()
    load_pretrained(model, renamed)
