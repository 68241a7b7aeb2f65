"""Low-rank additions: what they compute, how they train, how they travel."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx
from jax.extend.core import Var

import jaxft
from converters import load_pretrained, to_torch
from converters.files import read
from converters.peft import load_adapter, save_adapter
from jaxft import export
from jaxft.adapters.low_rank import add_lora, additions, merged
from jaxft.config import Lora, Rule, load, replace
from jaxft.errors import UserError
from jaxft.models.classifiers.vit import VisionTransformer
from jaxft.models.paths import filled, values
from jaxft.training.loop import fit
from jaxft.training.setup import set_up
from tests.small import HEAD_ALONE, assert_equal_runs, call, final, write_config

pytest_plugins = ("tests.runs",)


def small_vit() -> VisionTransformer:
    """Two blocks of eight channels, its head with values of its own."""
    model = VisionTransformer(16, 2, 8, 2, 16, 3, image_size=32, rngs=nnx.Rngs(0))
    head = model.heads.head.kernel
    head.set_value(jnp.asarray(np.random.default_rng(1).normal(size=head.shape), jnp.float32))
    return model


def with_additions(model: nnx.Module, fields: Lora, head: tuple[str, ...]) -> nnx.Module:
    """A model in evaluation, with additions that add something."""
    add_lora(model, fields, head=head, rngs=nnx.Rngs(1))
    rng = np.random.default_rng(0)
    for _, _, addition in additions(model):
        kernel = addition.lora_B.kernel
        kernel.set_value(jnp.asarray(rng.normal(0, 0.1, kernel.shape), jnp.float32))
    model.eval()
    return model


def applied(state: Mapping[str, np.ndarray], folder: Path, scaling: float) -> dict[str, torch.Tensor]:
    """PyTorch's state dict with PEFT's adapter in it, by PEFT's formula: W + scaling * B A, windows and all."""
    adapter = {key: np.asarray(value) for key, value in read(folder / "adapter_model.safetensors").items()}
    pattern = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    found = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    for name, down in adapter.items():
        if not name.endswith("lora_A.weight"):
            continue
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight").replace(".base_layer", "")
        key = f"{path}.weight" if f"{path}.weight" in found else f"{path}.in_proj_weight"
        a, b = torch.from_numpy(down), torch.from_numpy(adapter[name.replace("lora_A", "lora_B")])
        assert re.fullmatch(pattern, path) or path.endswith("out_proj")
        found[key] = found[key] + scaling * torch.einsum("or,r...->o...", b.reshape(b.shape[:2]), a)
    return found


def test_a_convolutional_network_with_an_adapter_is_pytorchs(tmp_path: Path) -> None:
    """Strides, windows and padding of lora_A are the layer's; merged or not, and in PEFT's file, it is one function."""
    plain = jaxft.create_model("resnet18", 5)
    state = to_torch(plain)
    model = with_additions(plain, Lora(rank=3, alpha=6, patterns=("layer[12]", "conv1")), ("fc",))
    paths = [path for path, _, _ in additions(model)]
    assert "layer2.0.downsample.0" in paths
    assert not any(path.startswith(("layer3", "fc")) for path in paths)
    save_adapter(model, tmp_path, whole=("fc",), base="torchvision://resnet18")
    adapter = read(tmp_path / "adapter_model.safetensors")
    assert adapter["base_model.model.layer1.0.conv1.lora_A.weight"].shape == (3, 64, 3, 3)
    assert adapter["base_model.model.layer1.0.conv1.lora_B.weight"].shape == (64, 3, 1, 1)
    assert adapter["base_model.model.fc.weight"].shape == (5, 512)
    reference = torchvision.models.resnet18(num_classes=5)
    reference.load_state_dict(applied(state, tmp_path, 2.0))
    reference.eval()
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    for ours in (model, merged(model)):
        np.testing.assert_allclose(ours(images), wanted, atol=1e-5 * np.abs(wanted).max())
    reference.load_state_dict({key: torch.from_numpy(array) for key, array in to_torch(model).items()})


def test_self_attention_with_an_adapter_is_pytorchs(tmp_path: Path) -> None:
    """Its joint projection has an addition; that of its output, which PEFT wraps with it, has zeros."""
    plain = small_vit()
    state = to_torch(plain)
    model = with_additions(plain, Lora(rank=2, alpha=2), ("heads",))
    save_adapter(model, tmp_path)
    adapter = {key: np.asarray(value) for key, value in read(tmp_path / "adapter_model.safetensors").items()}
    start = "base_model.model.encoder.layers.encoder_layer_0.self_attention"
    assert adapter[f"{start}.lora_B.weight"].shape == (24, 2)
    assert not adapter[f"{start}.base_layer.out_proj.lora_B.weight"].any()
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert re.fullmatch(settings["target_modules"], "encoder.layers.encoder_layer_0.self_attention")
    assert not re.search("out_proj", settings["target_modules"])
    reference = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=3)
    reference.load_state_dict(applied(state, tmp_path, 1.0))
    reference.eval()
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(model(images), wanted, atol=1e-5 * np.abs(wanted).max())
    again = small_vit()
    add_lora(again, Lora(rank=2, alpha=2), head=("heads",), rngs=nnx.Rngs(5))
    load_pretrained(again, state)  # the additions are no part of it
    load_adapter(again, tmp_path)
    again.eval()
    np.testing.assert_array_equal(again(images), model(images))


def test_a_run_trains_additions_and_head_alone(photos: Path, tmp_path: Path) -> None:
    settings = load(write_config(tmp_path / "small.py", photos, phases=HEAD_ALONE))
    rules = (Rule(pattern="fc"), Rule(pattern="*.lora"), Rule(pattern="*", frozen=True))
    config = replace(settings, {"model.lora.rank": 2, "model.lora.dropout": 0.1, "phases.0.rules": rules})
    whole = fit(config, tmp_path / "whole")
    fit(config, tmp_path / "cut", stop_after=4)
    fit(config, tmp_path / "cut", resume=True)
    assert_equal_runs(whole.path, tmp_path / "cut")
    assert whole.setup.trained_numbers(whole.setup.stages[0]) == 8 * 3 + 3 + 2 * (27 + 8) + 2 * (72 + 8)
    before, after = values(whole.setup.source.build(3)), values(whole.model)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved == {path for path in after if ".lora." in path or path.startswith("fc.")}
    result = call(export.main, "--run", whole.path, "--format", "torch", "--output", tmp_path / "whole.pth")
    assert result.code == 0, result
    state = torch.load(tmp_path / "whole.pth")
    assert state.keys() == to_torch(jaxft.create_model("small", 3)).keys()
    assert not np.array_equal(state["conv2.weight"].numpy().transpose(2, 3, 1, 0), after["conv2.kernel"])
    result = call(export.main, "--run", whole.path, "--format", "peft", "--output", tmp_path / "adapter")
    assert result.code == 2, result
    assert "started from random ones" in result.err
    warm = replace(config, {"pretrained.source": str(tmp_path / "whole.pth"), "phases.0.epochs": 1})
    for name, more in {"alone": (), "more": (Rule(pattern="bn2"),)}.items():
        run = fit(replace(warm, {"phases.0.rules": (*more, *rules)}), tmp_path / name).path
        result = call(export.main, "--run", run, "--format", "peft", "--output", tmp_path / f"adapter-{name}")
        assert result.code == (2 if more else 0), result
    assert "has trained bn2.bias, too" in result.err
    assert len(read(tmp_path / "adapter-alone" / "adapter_model.safetensors")) == 2 + 2 * 2
    assert final(whole.path)[0] == 6


@pytest.mark.parametrize("name", ["resnet18", "swin_v2_t", "maxvit_t", "vit_b_16", "efficientnet_b0"])
def test_every_addition_is_used(name: str) -> None:
    """None is put onto a layer whose model reads the kernel by itself: each has a part in the program."""
    model = jaxft.models.abstract_model(name, 3)
    add_lora(model, Lora(rank=1))
    model.eval()
    size = 64 if name in ("resnet18", "efficientnet_b0", "swin_v2_t") else 224
    used = jax.make_jaxpr(lambda arrays: filled(model, arrays)(jnp.zeros((1, size, size, 3))))(values(model)).jaxpr
    paths = sorted(values(model))
    read = {variable for equation in used.eqns for variable in equation.invars if isinstance(variable, Var)}
    assert not [
        path for path, variable in zip(paths, used.invars, strict=True) if "lora" in path and variable not in read
    ]


def test_linear_layers_drawn_otherwise_add_nothing_at_first(photos: Path, tmp_path: Path) -> None:
    settings = load(write_config(tmp_path / "small.py", photos, phases=HEAD_ALONE))
    rules = (Rule(pattern="fc"), Rule(pattern="*.lora"), Rule(pattern="*", frozen=True))
    weights = {"pretrained.source": str(tmp_path / "small.pth"), "pretrained.skip": ("fc",)}
    jaxft.save(jaxft.create_model("small", 3), tmp_path / "small.pth")
    changes = {**weights, "pretrained.new_kernels": "xavier_uniform", "model.lora.rank": 2, "phases.0.rules": rules}
    setup = set_up(replace(settings, changes))
    state = setup.first_state(setup.stages[0], setup.load_weights())
    assert not np.any(state.params["conv2.lora.lora_B.kernel"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.lora.patterns": ("conv3",)}, "has 'conv3', which names no linear layer"),
        ({"model.lora.patterns": ("fc",)}, "has 'fc', which names no linear layer"),
        ({}, r"no rule trains what is added; put Rule\(pattern='\*\.lora'\)"),
    ],
)
def test_what_adds_nothing_is_refused(changes: dict[str, Any], message: str, photos: Path, tmp_path: Path) -> None:
    settings = load(write_config(tmp_path / "small.py", photos, phases=HEAD_ALONE))
    with pytest.raises(UserError, match=message):
        fit(replace(settings, {"model.lora.rank": 2, **changes}), tmp_path / "run")


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no low-rank additions"):
        save_adapter(small_vit(), tmp_path)
    model = with_additions(small_vit(), Lora(rank=2, alpha=2), ("heads", "conv_proj"))
    save_adapter(model, tmp_path)
    other = small_vit()
    add_lora(other, Lora(rank=2, alpha=4), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="multiplies its additions by 1, the model by"):
        load_adapter(other, tmp_path)
    wider = small_vit()
    add_lora(wider, Lora(rank=3, alpha=3), head=("heads", "conv_proj"), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"lora_A\.weight is \(2, 8\) there and \(3, 8\) here"):
        load_adapter(wider, tmp_path)
    with pytest.raises(UserError, match=r"adapter_config\.json cannot be read"):
        load_adapter(model, tmp_path / "nowhere")
