"""Detectors beside live MMDetection: the same weights, images and samples through both, and what comes out."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import torch
from flax import nnx
from jax import Array

from converters import load_pretrained, to_torch
from converters.report import difference, worst
from converters.verify import as_torch, comes_back, precision, widened
from converters.verify_reference import perturb, standardize
from jaxft.models import initialize_missing
from jaxft.models.detectors.types import Detections, Targets
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK, initial_rngs
from tests import mmdet_live

with mmdet_live.quiet():
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head
    from mmdet.models.task_modules.prior_generators import AnchorGenerator
    from mmdet.models.task_modules.samplers import RandomSampler

CANVAS, SIZES = (96, 128), ((96, 121), (70, 128))
CLASSES, CAP = 3, 4
DIRECTION = np.array([0.37, 0.53, 0.29, 0.41]) / math.sqrt(1237)


def fixed_priorities(_: Any, boxes: Any) -> Any:
    """An order of candidates that depends on their boxes alone, the same for both sides."""
    phase = boxes @ jnp.asarray(DIRECTION, boxes.dtype)
    return phase - jnp.floor(phase)


def _chosen(candidates: torch.Tensor, boxes: torch.Tensor, count: int) -> torch.Tensor:
    phase = boxes[candidates].detach().double().numpy() @ DIRECTION
    order = np.argsort(phase - np.floor(phase), kind="stable")[: max(count, 0)]
    return candidates[torch.from_numpy(order)]


@contextlib.contextmanager
def same_samples(dtype: str) -> Iterator[None]:
    """Both sides draw the candidates that `fixed_priorities` puts first; MMDetection works in `dtype` throughout."""

    def sample(kind: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
        def draw(_: Any, assigned: Any, count: int, bboxes: torch.Tensor, **__: Any) -> torch.Tensor:
            return _chosen(torch.nonzero(kind(assigned.gt_inds))[:, 0], bboxes, count)

        return draw

    keep, anchors, new_zeros = torch.Tensor.float, AnchorGenerator.grid_priors, torch.Tensor.new_zeros
    paste = fcn_mask_head._do_paste_mask

    def priors(self: Any, sizes: Any, device: Any = "cpu", **_: Any) -> Any:
        # Which anchors share an object's best overlap depends on the rounding of their corners: float32's, as in runs.
        return [level.to(getattr(torch, dtype)) for level in anchors(self, sizes, torch.float32, device)]

    def zeros(self: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        single = self.dtype == torch.float64 and options.get("dtype") == torch.float32
        return new_zeros(self, *shape, **options | ({"dtype": self.dtype} if single else {}))

    def pasted(masks: torch.Tensor, boxes: torch.Tensor, *rest: Any, **options: Any) -> Any:
        return paste(masks, boxes.to(torch.float32), *rest, **options)

    with (
        mock.patch.object(AnchorGenerator, "grid_priors", priors),
        mock.patch.object(torch.Tensor, "new_zeros", zeros),
        mock.patch.object(fcn_mask_head, "_do_paste_mask", pasted),
        mock.patch("jaxft.models.detectors.objectives.priorities", fixed_priorities),
        mock.patch.object(RandomSampler, "_sample_pos", sample(lambda index: index > 0)),
        mock.patch.object(RandomSampler, "_sample_neg", sample(lambda index: index == 0)),
        mock.patch.object(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else keep(x)),
    ):
        yield


@dataclass(frozen=True)
class Batch:
    """Two padded photos with objects, or without any in the second, for both sides."""

    images: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    masks: list[np.ndarray]
    ignored: list[np.ndarray]

    def targets(self, with_masks: bool) -> Targets:
        """Ours, padded to `CAP` rows; crowds come after the objects."""
        n, height, width = len(self.boxes), *self.images.shape[1:3]
        boxes, labels = np.zeros((n, CAP, 4), np.float32), np.zeros((n, CAP), np.int32)
        valid, ignored = np.zeros((n, CAP), bool), np.zeros((n, CAP), bool)
        masks = np.zeros((n, CAP, height, width), np.uint8)
        for row in range(n):
            count, crowds = len(self.boxes[row]), len(self.ignored[row])
            boxes[row, :count], labels[row, :count], valid[row, :count] = self.boxes[row], self.labels[row], True
            boxes[row, count : count + crowds], ignored[row, count : count + crowds] = self.ignored[row], True
            masks[row, :count] = self.masks[row]
            # What lies in rows that are not valid must not matter.
            boxes[row, count + crowds :] = (3, 5, 90, 60)
        packed = jnp.asarray(np.packbits(masks, -1)) if with_masks else None
        return Targets(*map(jnp.asarray, (boxes, labels, valid, ignored)), packed)

    def samples(self, dtype: Any, with_masks: bool, divisor: int = 32) -> list[Any]:
        """MMDetection's; each photo has a padded shape of its own."""
        samples = mmdet_live.samples(
            self.sizes,
            self.images.shape[1:3],  # type: ignore[arg-type]
            [boxes.astype(dtype) for boxes in self.boxes],
            self.labels,
            self.masks if with_masks else (),
            [boxes.astype(dtype) for boxes in self.ignored],
        )
        for sample, (height, width) in zip(samples, self.sizes, strict=True):
            padded = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
            sample.set_metainfo({"pad_shape": padded})
        return samples


def random_batch(seed: int = 0, *, empty: bool = False, crowd: bool = True) -> Batch:
    """Photos of noise; the second has no object where `empty`; where `crowd` the first has a crowd beside its objects,
    and a second without objects one as well."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(2, *CANVAS, 3)).astype(np.float32)
    boxes, labels, masks = [], [], []
    for row, (height, width) in enumerate(SIZES):
        images[row, height:] = 0
        images[row, :, width:] = 0
        count = (3, 0 if empty else 2)[row]
        corner = random.uniform(0, 0.5, (count, 2)) * (width, height)
        side = random.uniform(0.15, 0.5, (count, 2)) * (width, height)
        boxes.append(np.concatenate([corner, corner + side], 1).astype(np.float32))
        labels.append(random.integers(0, CLASSES, count))
        bitmaps = np.zeros((count, *CANVAS), np.uint8)
        y, x = np.mgrid[: CANVAS[0], : CANVAS[1]]
        for bitmap, (left, top, right, bottom) in zip(bitmaps, boxes[-1], strict=True):
            across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
            bitmap[across**2 + down**2 < 1] = 1
        masks.append(bitmaps)
    crowds = [
        np.array([[30, 20, 118, 94]], np.float32)[: int(crowd)],
        np.array([[20, 8, 100, 60]], np.float32)[: int(crowd and empty)],
    ]
    return Batch(images, SIZES, boxes, labels, masks, crowds)


@dataclass
class Pair:
    """One detector on both sides, with the same weights, in `dtype`."""

    theirs: Any
    ours: Any
    dtype: str
    gradient: Callable[..., Any] | None = None  # compiled when it is first asked for


LAST = ("_cls.", "_reg.", "conv_logits", "_centerness.")  # in names of the layers that put something out


def pair(
    settings: dict[str, Any],
    build: Callable[[nnx.Rngs], nnx.Module],
    dtype: str,
    gain: float,
    scaled_on: Batch | None = None,
) -> Pair:
    """MMDetection's detector of a `model` dict and ours, filled from it.

    Args:
        gain: what the kernels of the last layers are multiplied by, so that there are detections.
        scaled_on: photos on which the inputs of the last layers are measured, and their kernels divided by that: random
            weights of full width make maps so large that all scores would be 0 or 1.
    """
    torch.manual_seed(0)
    theirs = mmdet_live.build(settings)
    with torch.no_grad():
        perturb(theirs, 0)
        for name, parameter in theirs.named_parameters():
            if any(part in name for part in LAST) and name.endswith("weight"):
                # Regions that move less stay of some size.
                reach = gain / 4 if "_reg." in name and hasattr(theirs, "roi_head") else gain
                parameter.normal_(0, reach / math.sqrt(parameter[0].numel()))
            elif any(part in name for part in LAST):
                parameter.normal_(-0.5, 0.3)
    if scaled_on is not None:
        scale_heads(theirs, scaled_on)
    with precision(dtype):
        ours = nnx.eval_shape(lambda: build(initial_rngs(0)))
        load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
        initialize_missing(ours, lambda: build(initial_rngs(0)))
        ours = widened(ours, dtype)
        theirs.to(getattr(torch, dtype))
        assert comes_back(theirs, to_torch(ours))
    return Pair(theirs, ours, dtype)


def scale_heads(theirs: Any, batch: Batch) -> None:
    """See `pair`. Inner layers stay: regions of noise look alike, and standardizing them would magnify rounding."""

    def run() -> None:
        with mmdet_live.quiet():
            theirs.predict(torch_images(batch, "float32"), batch.samples("float32", False), rescale=False)

    settle(theirs, (), LAST, run)


def settle(theirs: Any, heads: tuple[str, ...], last: tuple[str, ...], run: Callable[[], object]) -> None:
    """Keeps the ReLUs of heads from their kinks, and the scores from 0 and 1, on what `run()` shows them.

    Inner layers of the `heads` are standardized as in `converters.verify`, group norms get biases as BatchNorm does
    there. The kernels of the `last` layers are divided by the largest root mean square of what they see.
    """
    largest: dict[torch.nn.Module, torch.Tensor] = {}

    def scale(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        size = inputs[0].square().mean().sqrt()
        before = largest.get(layer, torch.ones(()))
        if layer not in largest or size > before:  # heads are the same on every level
            layer.weight *= before / size
            largest[layer] = size

    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    outer = [layer for name, layer in theirs.named_modules() if any(part in f"{name}." for part in last)]
    inner = [
        layer
        for name, layer in theirs.named_modules()
        if name.startswith(heads) and isinstance(layer, kinds) and layer not in outer
    ]
    theirs.eval()
    with torch.no_grad():
        for layer in theirs.modules():
            if isinstance(layer, torch.nn.GroupNorm):
                layer.weight.uniform_(0.4, 0.6)
                layer.bias.copy_((1 - 2.0 * (torch.arange(len(layer.bias)) % 2)) * 2.4)
    hooks = [layer.register_forward_pre_hook(scale) for layer in outer if hasattr(layer, "weight")]
    standardize([layer for layer in inner if layer.bias is not None], run)
    for hook in hooks:
        hook.remove()


def torch_images(batch: Batch, dtype: str) -> torch.Tensor:
    """`[N, 3, H, W]`."""
    return torch.from_numpy(batch.images).permute(0, 3, 1, 2).to(getattr(torch, dtype)).contiguous()


def _loss(
    template: Any, params: dict[str, Array], rest: dict[str, Array], images: Array, sizes: Array, targets: Targets
) -> tuple[Array, dict[str, Array]]:
    """Our loss and its terms."""
    model: Any = filled(template, params | rest)
    terms = model.loss(images, sizes, targets)
    return sum((term for name, term in terms.items() if "loss" in name), jnp.zeros(())), terms


def compare_losses(both: Pair, batch: Batch, *, with_masks: bool = False) -> dict[str, float]:
    """The relative differences of every loss term and of the worst gradient; BatchNorm on its running statistics."""
    both.theirs.eval()
    if hasattr(both.theirs, "bbox_head"):
        both.theirs.bbox_head.training = True  # FCOS puts out other units in evaluation
    with same_samples(both.dtype), mmdet_live.quiet():
        both.theirs.zero_grad()
        samples = batch.samples(both.dtype, with_masks)
        terms = both.theirs.loss(torch_images(batch, both.dtype), samples)
        total, named = both.theirs.parse_losses(terms)
        total.backward()

    with precision(both.dtype), same_samples(both.dtype):
        params = values(both.ours, nnx.Param)
        rest = {path: array for path, array in values(both.ours).items() if path not in params}
        images, sizes = jnp.asarray(batch.images, both.dtype), jnp.asarray(batch.sizes, jnp.int32)
        both.ours.eval()
        if both.gradient is None:
            both.gradient = jax.jit(jax.grad(partial(_loss, both.ours), has_aux=True), compiler_options=QUICK)
        grads, ours = both.gradient(params, rest, images, sizes, batch.targets(with_masks))
        gradients = as_torch(both.ours, grads)
    found = {name: difference(value, named[name].detach().numpy()) for name, value in ours.items()}
    assert named.keys() - {"loss"} == ours.keys()
    # What MMDetection has frozen has no gradient there; in a run of ours a rule freezes it.
    their_gradients = {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in both.theirs.named_parameters()
        if value.requires_grad
    }
    gradients = {name: value for name, value in gradients.items() if name in their_gradients}
    found["gradient"], name = worst(gradients, their_gradients, 1e-2 if both.dtype == "float32" else 1e-3)
    print({name: float(value) for name, value in ours.items()}, f"worst gradient: {name}")
    print({name: f"{value:.1e}" for name, value in found.items()})
    return found


def predictions(both: Pair, batch: Batch) -> tuple[list[dict[str, np.ndarray]], Detections]:
    """The detections of each photo of theirs, in pixels of the padded image, and ours."""
    both.theirs.eval()
    both.ours.eval()
    with torch.no_grad(), same_samples(both.dtype), mmdet_live.quiet():
        found = both.theirs.predict(torch_images(batch, both.dtype), batch.samples(both.dtype, False), rescale=False)
    theirs = [{key: value.numpy() for key, value in sample.pred_instances.items()} for sample in found]
    with precision(both.dtype):
        sizes = jnp.asarray(batch.sizes, jnp.int32)
        run = jax.jit(lambda arrays, x: filled(both.ours, arrays).predict(x, sizes), compiler_options=QUICK)
        return theirs, run(values(both.ours), jnp.asarray(batch.images, both.dtype))


def suppress_nothing(both: Pair) -> None:
    """Detections are from then on those before non-maximum suppression, the best of them."""
    theirs, ours = (
        model.roi_head if hasattr(model, "roi_head") else model.bbox_head for model in (both.theirs, both.ours)
    )
    theirs.test_cfg["nms"]["iou_threshold"] = 1.0
    ours.test_cfg = dataclasses.replace(ours.test_cfg, iou_threshold=1.0)


def assert_same_detections(
    theirs: list[dict[str, np.ndarray]], ours: Detections, *, at_least: int = 4, tolerance: float = 1e-6
) -> None:
    """The same boxes, labels and scores in the same order; of equal scores the order is free."""
    for row, sample in enumerate(theirs):
        valid = np.asarray(ours.valid[row])
        count = int(valid.sum())
        print(f"photo {row}: {count} detections of ours, {len(sample['scores'])} of theirs")
        assert count == len(sample["scores"])
        assert count >= at_least
        assert valid[:count].all()
        mine = np.column_stack([ours.scores[row], ours.labels[row], ours.boxes[row]])[:count]
        other = np.column_stack([sample["scores"], sample["labels"], sample["bboxes"]])
        np.testing.assert_allclose(mine[:, 0], other[:, 0], rtol=tolerance, atol=tolerance)
        if valid.all():  # and there may be more with the last score, of which each side takes some
            sure = other[:, 0] > other[-1, 0] + 10 * tolerance
            mine, other = mine[sure], other[sure]
        # Which is which of detections with equal scores, their places tell.
        far = np.abs(mine[:, None] - other[None]).max(-1)
        first, second = scipy.optimize.linear_sum_assignment(far)
        np.testing.assert_allclose(mine[first], other[second], rtol=tolerance, atol=100 * tolerance)
        for rest in (ours.boxes[row], ours.scores[row], ours.labels[row]):
            assert not np.asarray(rest)[count:].any()
