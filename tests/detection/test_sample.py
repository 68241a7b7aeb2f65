"""Random sampling: numbers as MMDetection's sampler has them, and which rows."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import RandomSampler
from mmengine.structures import InstanceData

from jaxft.detection.sample import random_sample

COUNT = 60


@pytest.mark.parametrize(("num", "fraction", "bound"), [(24, 0.5, -1), (24, 0.25, 3), (200, 0.5, -1), (8, 1.0, 0)])
def test_as_many_as_mmdetection(num: int, fraction: float, bound: int) -> None:
    theirs = RandomSampler(num, fraction, bound, add_gt_as_proposals=False)
    ours = jax.jit(lambda *arrays: random_sample(*arrays, num=num, pos_fraction=fraction, neg_pos_ub=bound))
    random = np.random.default_rng(0)
    for positives, negatives in product((0, 1, 5, 30), (0, 3, 30)):
        index = np.full(COUNT, -2, np.int32)
        index[:positives] = random.integers(0, 4, positives)
        index[positives : positives + negatives] = -1
        index = random.permutation(index)
        priority = random.uniform(size=COUNT).astype(np.float32)
        sample = ours(jnp.array(index), jnp.array(priority))
        assigned = AssignResult(4, torch.tensor(index).long() + 1, torch.zeros(COUNT), torch.zeros(COUNT).long())
        expected = theirs.sample(
            assigned,
            InstanceData(priors=torch.zeros(COUNT, 4)),
            InstanceData(bboxes=torch.zeros(4, 4), labels=torch.zeros(4).long()),
        )
        row = np.array(sample.index)
        assert row.shape == (num,)
        positive, negative = np.array(sample.positive), np.array(sample.negative)
        assert positive.sum() == len(expected.pos_inds)
        assert negative.sum() == len(expected.neg_inds)
        assert not (positive & negative).any()
        chosen = row[positive | negative]
        assert len(set(chosen)) == len(chosen)
        assert (index[row[positive]] >= 0).all()
        assert (index[row[negative]] == -1).all()
        assert not row[~(positive | negative)].any()
        # The lowest priorities are taken: nobody left out has a lower one.
        for taken, of in ((row[positive], index >= 0), (row[negative], index == -1)):
            left = np.setdiff1d(np.flatnonzero(of), taken)
            assert not len(taken) or not len(left) or priority[taken].max() <= priority[left].min()
