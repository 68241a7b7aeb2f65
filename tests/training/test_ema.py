"""The moving average against MMEngine's hook and MMDetection's ExpMomentumEMA, step by step."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn

from jaxft.config import Ema
from jaxft.training.ema import averaged, ema_momentum
from tests.mmdet_live import quiet

with quiet():
    from mmdet.models.layers import ExpMomentumEMA  # noqa: F401
    from mmengine.hooks import EMAHook

STEPS = 12


def trained(step: int, model: nn.Module) -> None:
    """Changes every parameter and statistic, as a step does."""
    rng = torch.Generator().manual_seed(step)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor += 1
        else:
            tensor.copy_(torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype))


def state_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize(
    ("decay", "begin", "interval"), [(0.9, 0, 1), (0.9998, 1, 1), (0.9, 5, 1), (0.8, 3, 3), (0.3, 0, 4)]
)
def test_every_average_is_mmengines(decay: float, begin: int, interval: int, warmup: int, buffers: bool) -> None:
    """Also what its evaluation would see before the average begins, and between two updates."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    kind: dict[str, Any] = {"ema_type": "ExpMomentumEMA", "gamma": warmup} if warmup else {}
    with quiet():
        hook = EMAHook(momentum=1 - decay, interval=interval, begin_iter=begin, update_buffers=buffers, **kind)
        runner = SimpleNamespace(model=model, iter=0)
        hook.before_run(runner)
    ours = state_of(model)
    settings = Ema(decay=decay, warmup=warmup, begin=begin, interval=interval, buffers=buffers)
    parameters = {name for name, _ in model.named_parameters()}
    with jax.enable_x64(True):
        average = jax.jit(averaged)
        for step in range(STEPS):
            trained(step, model)
            runner.iter = step
            hook.after_train_iter(runner, step)
            momentum = ema_momentum(settings, step)
            for name, value in state_of(model).items():
                kept = buffers or name in parameters
                ours[name] = np.asarray(average(ours[name], value, momentum)) if kept else value
            for name, theirs in state_of(hook.ema_model.module).items():
                np.testing.assert_allclose(ours[name], theirs, rtol=1e-13, atol=1e-15, err_msg=f"{name}, step {step}")
                if momentum == 1:
                    np.testing.assert_array_equal(ours[name], theirs)


def test_what_does_not_change_stays_to_the_last_bit() -> None:
    value = np.random.default_rng(0).normal(size=100).astype(np.float32)
    for momentum in (0.0, 0.0002, 0.4, 0.7, 1.0):
        np.testing.assert_array_equal(jax.jit(averaged)(value, value, momentum), value)


@pytest.mark.parametrize(("begin", "interval"), [(0, 1), (1, 2), (4, 3)])
def test_a_plain_mean_is_pytorchs(begin: int, interval: int) -> None:
    """`AveragedModel`, updated after step `begin` and each `interval` steps later."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    theirs, ours = torch.optim.swa_utils.AveragedModel(model, use_buffers=True), state_of(model)
    settings = Ema(kind="swa", begin=begin, interval=interval, buffers=True)
    with jax.enable_x64(True):
        average = jax.jit(averaged)
        for step in range(STEPS):
            trained(step, model)
            momentum = ema_momentum(settings, step)
            for name, value in state_of(model).items():
                ours[name] = np.asarray(average(ours[name], value, momentum))
            if step + 1 >= max(begin, 1) and (step + 1 - max(begin, 1)) % interval == 0:
                theirs.update_parameters(model)
                for name, value in state_of(theirs.module).items():
                    if not name.endswith("num_batches_tracked"):  # which PyTorch averages, too
                        np.testing.assert_allclose(ours[name], value, rtol=1e-13, err_msg=f"{name}, step {step}")
            assert (momentum == 0) == (step + 1 > begin and (step + 1 - max(begin, 1)) % interval != 0)


def test_without_an_average_nothing_moves() -> None:
    assert ema_momentum(Ema(), 3) == 0.0
