"""A GFL head that learns new classes: what is MMDetection's loss of them alone, and what it keeps of the old ones."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxft.models.detectors.dense.elastic import elastic_losses
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.outputs import DenseOutputs
from jaxft.models.detectors.types import AnchorGenerator, Targets
from jaxft.models.streams import initial_rngs
from tests.detection.test_elastic import BINS, reference

OLD, NEW, PAD, SIZES, STRIDES = 2, 3, (64, 96), ((64, 96), (30, 40), (50, 90)), (8, 16)


def head(classes: int) -> GFLHead:
    anchors = AnchorGenerator(STRIDES, (1.0,), octave_base_scale=4, scales_per_octave=1)
    return GFLHead(
        classes, 4, feat_channels=4, stacked_convs=0, reg_max=BINS - 1, anchor_generator=anchors, rngs=initial_rngs(0)
    )


def random_outputs(seed: int, classes: int) -> DenseOutputs:
    random = np.random.default_rng(seed)
    sizes = [(PAD[0] // stride, PAD[1] // stride) for stride in STRIDES]
    scores, boxes = (
        tuple(random.normal(shift, spread, (len(SIZES), *size, width)) for size in sizes)
        for shift, spread, width in ((-2, 1.5, classes), (0, 2, 4 * BINS))
    )
    return DenseOutputs(scores, boxes)


def targets(first: int) -> Targets:
    """Objects of new classes, whose labels begin at `first`; none in the second photo."""
    boxes = np.array([[[4, 6, 40, 44], [50, 20, 90, 60]], [[0, 0, 0, 0]] * 2, [[20, 10, 60, 48], [0, 0, 0, 0]]], float)
    valid = np.array([[True, True], [False, False], [True, False]])
    labels = np.where(valid, np.array([[0, 2], [0, 0], [1, 0]]) + first, 0)
    return Targets(*map(jnp.asarray, (boxes, labels, valid, np.zeros_like(valid))))


def test_the_loss_of_new_classes_is_that_of_a_head_that_knows_no_others() -> None:
    outputs, sizes = random_outputs(0, OLD + NEW), jnp.asarray(SIZES)
    with jax.enable_x64(True):
        grown, alone = head(OLD + NEW), head(NEW)

        def total(of: GFLHead, scores: tuple, boxes: tuple, first: int) -> tuple[jax.Array, dict[str, jax.Array]]:
            terms = of.loss(DenseOutputs(scores, boxes), sizes, PAD, targets(first), old=first)
            return sum(terms.values(), jnp.zeros(())), terms

        step = jax.jit(jax.grad(lambda *given: total(grown, *given, OLD), (0, 1), has_aux=True))
        other = jax.jit(jax.grad(lambda *given: total(alone, *given, 0), (0, 1), has_aux=True))
        gradients, terms = step(outputs.scores, outputs.boxes)
        expected_gradients, expected = other(tuple(level[..., OLD:] for level in outputs.scores), outputs.boxes)
    assert terms.keys() == {"loss_cls", "loss_bbox", "loss_dfl"}
    for name, value in expected.items():
        assert float(value) > 0
        np.testing.assert_allclose(terms[name], value, rtol=1e-12)
    for level, wanted in zip(gradients[0], expected_gradients[0], strict=True):
        np.testing.assert_allclose(level[..., OLD:], wanted, rtol=1e-12, atol=1e-15)
        assert not np.any(level[..., :OLD])
    for level, wanted in zip(gradients[1], expected_gradients[1], strict=True):
        np.testing.assert_allclose(level, wanted, rtol=1e-12, atol=1e-15)


def test_what_is_kept_is_summed_over_photos_without_their_padding() -> None:
    """Beside the formulas of each photo by itself, padded to a multiple of 32."""
    outputs, theirs = random_outputs(0, OLD + NEW), random_outputs(1, OLD)
    leaves = [[torch.tensor(level, requires_grad=True) for level in maps] for maps in (outputs.scores, outputs.boxes)]
    total = torch.zeros(2, dtype=torch.float64)
    for row, size in enumerate(SIZES):
        own = [-(-side // 32) * 32 for side in size]
        parts = []
        for level, stride in enumerate(STRIDES):
            high, wide = (min(-(-side // stride), pad // stride) for side, pad in zip(own, PAD, strict=True))
            y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
            points = torch.stack([x, y], -1).reshape(-1, 2).double() * stride
            maps = (
                leaves[0][level],
                leaves[1][level],
                torch.tensor(theirs.scores[level]),
                torch.tensor(theirs.boxes[level]),
            )
            rows = [one[row, :high, :wide].reshape(high * wide, -1) for one in maps]
            parts.append((rows[0][:, :OLD], *rows[1:], points))
        arrays = [torch.cat(column) for column in zip(*parts, strict=True)]
        total = total + reference(*arrays, torch.ones(len(arrays[-1])), 7.0)
    expected = total[0] + total[1] * 0.25 / (4 + torch.finfo(torch.float32).eps)
    expected.backward()
    with jax.enable_x64(True):

        def loss(scores: tuple, boxes: tuple) -> tuple[jax.Array, dict[str, jax.Array]]:
            given = DenseOutputs(scores, boxes)
            found = elastic_losses(head(OLD + NEW), given, theirs, jnp.asarray(SIZES), PAD, OLD, 7.0)
            return sum(found.values(), jnp.zeros(())), found

        gradients, found = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(outputs.scores, outputs.boxes)
    np.testing.assert_allclose(found["loss_dist_cls"], total[0].item(), rtol=1e-9)
    np.testing.assert_allclose(found["loss_dist_cls"] + found["loss_dist_bbox"], expected.item(), rtol=1e-9)
    for maps, wanted in zip(gradients, leaves, strict=True):
        for level, leaf in zip(maps, wanted, strict=True):
            np.testing.assert_allclose(level, leaf.grad, rtol=1e-9, atol=1e-12)
