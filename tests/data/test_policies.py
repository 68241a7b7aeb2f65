"""Policies: the same pictures as torchvision for the same draws, and draws with the right chances."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from jaxft.data.operations import Drawn, Warp, rotate
from jaxft.data.policies import SUB_POLICIES, WIDE_SPACE, AutoAugment, RandAugment, TrivialAugment, narrow_space
from tests.data.test_operations import their_name
from tests.data.torch_draws import noisy, seeded, torch

transforms = pytest.importorskip("torchvision.transforms")
autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")

WARP = Warp(fill=(10, 20, 30))
THEIRS: dict[str, Any] = {"interpolation": transforms.InterpolationMode.BILINEAR, "fill": [10, 20, 30]}
PICTURE = noisy(37, 29)
COUNT = 6000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(ours: Any, theirs: Any, seeds: int = 120) -> None:
    """Equal pixels for the same draws, and as many draws taken."""
    changed = 0
    for seed in range(seeds):
        found = ours(np.asarray(PICTURE), seeded(seed))
        after = torch.rand(1)
        torch.manual_seed(seed)
        np.testing.assert_array_equal(found, np.asarray(theirs(PICTURE)), err_msg=str(seed))
        assert torch.rand(1) == after
        changed += not np.array_equal(found, np.asarray(PICTURE))
    assert changed > seeds / 2


@pytest.mark.parametrize(("num_ops", "magnitude"), [(2, 9), (3, 30), (5, 1)])
def test_randaugment_is_torchvisions(num_ops: int, magnitude: int) -> None:
    theirs = transforms.RandAugment(num_ops, magnitude, **THEIRS)
    same(RandAugment(num_ops=num_ops, magnitude=magnitude, warp=WARP), theirs)


def test_trivialaugment_is_torchvisions() -> None:
    same(TrivialAugment(warp=WARP), transforms.TrivialAugmentWide(**THEIRS), seeds=250)


@pytest.mark.parametrize("found_on", list(SUB_POLICIES))
def test_autoaugment_is_torchvisions(found_on: Any) -> None:
    theirs = transforms.AutoAugment(transforms.AutoAugmentPolicy(found_on), **THEIRS)
    same(AutoAugment(found_on=found_on, warp=WARP), theirs, seeds=250)
    ours = [
        tuple((their_name(choice.operation), choice.probability, choice.magnitude) for choice in pair)
        for pair in SUB_POLICIES[found_on]
    ]
    assert ours == theirs.policies


# Chances


def assert_even(counts: Counter, kinds: int) -> None:
    """Each of so many kinds was drawn about equally often: within five standard deviations."""
    total = counts.total()
    assert len(counts) == kinds
    spread = math.sqrt(total / kinds * (1 - 1 / kinds))
    assert all(abs(count - total / kinds) <= 5 * spread for count in counts.values()), counts


def assert_signs(drawn: list[Drawn]) -> None:
    """As many turn one way as the other."""
    turns = [magnitude > 0 for operation, magnitude in drawn if operation is rotate and magnitude]
    assert abs(np.mean(turns) - 0.5) < 2.5 / math.sqrt(len(turns))


def test_randaugment_draws_every_operation_as_often() -> None:
    generator, policy = rng(), RandAugment(num_ops=3, magnitude=7)
    draws = [policy.draw(60, 40, generator) for _ in range(COUNT)]
    assert {len(drawn) for drawn in draws} == {3}
    for place in range(3):
        assert_even(Counter(drawn[place][0] for drawn in draws), 14)
    flat = [one for drawn in draws for one in drawn]
    assert_signs(flat)
    for operation, span in narrow_space(60, 40).items():
        level = 0.0 if span is None else span.at(7, 31)
        found = {magnitude for drawn, magnitude in flat if drawn is operation}
        assert found == ({level, -level} if span is not None and span.signed else {level}), operation


def test_trivialaugment_draws_every_operation_and_every_magnitude_as_often() -> None:
    generator = rng()
    drawn = [one for _ in range(4 * COUNT) for one in TrivialAugment().draw(generator)]
    assert_even(Counter(operation for operation, _ in drawn), 14)
    assert_signs(drawn)
    for operation, span in WIDE_SPACE.items():
        levels = Counter(abs(magnitude) for found, magnitude in drawn if found is operation)
        assert_even(levels, 1 if span is None else 31)


def test_autoaugment_draws_every_pair_as_often_with_its_chances() -> None:
    generator, policy = rng(), AutoAugment(found_on="svhn")
    draws = [policy.draw(32, 32, generator) for _ in range(4 * COUNT)]
    pairs = SUB_POLICIES["svhn"]
    for kind in {choice.operation for pair in pairs for choice in pair}:
        expected = sum(choice.probability for pair in pairs for choice in pair if choice.operation is kind) / len(pairs)
        found = sum(operation is kind for drawn in draws for operation, _ in drawn) / len(draws)
        assert abs(found - expected) < 5 * math.sqrt(expected / len(draws)), kind
    assert_signs([one for drawn in draws for one in drawn])


@pytest.mark.parametrize("policy", [RandAugment(), TrivialAugment(), AutoAugment()])
def test_a_policy_depends_on_the_generator_alone_and_leaves_its_input(policy: Any) -> None:
    pixels = np.asarray(PICTURE).copy()
    pixels.flags.writeable = False
    found = [policy(pixels, rng(seed)) for seed in range(12)]
    assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in found)
    for seed, one in enumerate(found):
        np.testing.assert_array_equal(one, policy(pixels, rng(seed)))
    assert len({one.tobytes() for one in found}) > 4
