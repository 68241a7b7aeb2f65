"""What rematerializes gives the same numbers and keeps less, in every family that has blocks."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from jaxft import train
from jaxft.models.layers import BatchNorm, Conv, Outputs, Sequential
from jaxft.models.layers.rematerialization import apply_block, rematerializing
from jaxft.models.paths import filled, values
from tests.models.classifiers.shallow import CLASSES, NETS
from tests.small import call, final, user_error, write_config

pytest_plugins = ("tests.runs",)

WITHOUT_BLOCKS = {"alexnet", "vgg", "vgg_bn"}


def gradient(model: nnx.Module, size: int, wanted: bool) -> tuple[Any, int]:
    """The gradient and new statistics of a batch of noise, and how many blocks are computed twice."""
    arrays = values(model)
    trained = {path: array.astype(float) for path, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.floating)}
    rest = {path: array for path, array in arrays.items() if path not in trained}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, size, size, 3)))

    def loss(trained: dict[str, Array]) -> tuple[Array, dict[str, Any]]:
        network = filled(model, trained | rest)
        with rematerializing(wanted):
            found = network(x)  # type: ignore[operator]
        logits = found.logits if isinstance(found, Outputs) else found
        return jnp.square(logits).mean(), values(network, nnx.BatchStat)

    function = jax.grad(loss, has_aux=True)
    twice = str(jax.make_jaxpr(function)(trained)).count("remat2[")
    return jax.jit(function)(trained), twice


@pytest.mark.parametrize("name", ["basic", "densenet", "vit"])
def test_gradients_and_statistics_are_the_same(name: str) -> None:
    with jax.enable_x64(True):  # where rounding hides nothing
        model = NETS[name].build(CLASSES)
        model.train()
        (kept, none), (again, some) = (gradient(model, NETS[name].size, wanted) for wanted in (False, True))
    assert none == 0
    assert some > 0
    for path, array in {**kept[0], **kept[1]}.items():
        other = {**again[0], **again[1]}[path]
        np.testing.assert_allclose(other, array, rtol=1e-8, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_family_with_blocks_has_them_recognized(name: str) -> None:
    model = NETS[name].build(CLASSES)
    x = jnp.zeros((1, NETS[name].size, NETS[name].size, 3))
    with rematerializing(True):
        text = str(jax.make_jaxpr(lambda arrays: filled(model, arrays)(x))(values(model)))  # type: ignore[operator]
    assert ("remat2[" in text) != (name in WITHOUT_BLOCKS)


def test_a_step_is_the_same_in_parts_and_with_dropout(config_file: Path, photos: Path, tmp_path: Path) -> None:
    """And a network without blocks is refused."""
    config = write_config(tmp_path / "configs" / "fire.py", photos, model="squeezenet1_1")
    flags = ("--optimizer.accumulate", 2, "--phases.0.epochs", 1, "--data.validation", "None")
    for name, more in (("kept", ()), ("again", ("--hardware.rematerialize",))):
        result = call(train.main, "--config", config, "--workdir", tmp_path / name, *flags, *more)
        assert result.code == 0, result
    (_, kept), (_, again) = final(tmp_path / "kept"), final(tmp_path / "again")
    for path, array in kept.items():
        np.testing.assert_allclose(again[path], array, rtol=1e-3, atol=1e-5, err_msg=path)
    refused = call(train.main, "--config", config_file, "--workdir", tmp_path / "none", "--hardware.rematerialize")
    assert "hardware.rematerialize keeps the inputs of blocks alone, but the Small has none" in user_error(refused)


def test_single_layers_and_functions_are_called() -> None:
    x = jnp.ones((1, 4, 4, 2))
    norm = BatchNorm(2)
    norm.eval()
    for layer in (jnp.tanh, Conv(2, 2, 1, rngs=nnx.Rngs(0)), norm, Sequential([norm, jnp.tanh])):
        with rematerializing(True):
            text = str(jax.make_jaxpr(lambda x, layer=layer: apply_block(layer, x))(x))
        assert "remat2[" not in text
