"""What every model promises, checked on shapes alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxft
from converters import survey
from converters.rules import leaves
from converters.torchvision import WEIGHTS
from jaxft.errors import UserError
from jaxft.models import (
    BUILDERS,
    DETECTORS,
    FAMILIES,
    abstract_model,
    class_layers,
    create_model,
    initialize_missing,
    with_head,
)
from jaxft.models.classifiers.efficientnet_lite import EfficientNetLite
from jaxft.models.classifiers.resnet import BasicBlock, ResNet
from jaxft.models.paths import matches, modules, values

CLASSES = 7


@cache
def model_of(name: str) -> Any:
    model = abstract_model(name, CLASSES)
    model.eval()  # traced in a tenth of the time that the updates of training take
    return model


# Not `list_models()`, to which other tests add.
NAMES = [builder.__name__ for family in FAMILIES for builder in family.PRESETS]
FIRST = {family.PRESETS[0].__name__ for family in FAMILIES}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.zoo]) for name in NAMES]
)
def test_a_model_keeps_the_contract(name: str) -> None:
    model = model_of(name)
    width, _ = survey.images(name)
    height = width if width == 224 else width + 16  # 224: the models that take no other size
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)

    def everything(model: Any, images: jax.Array) -> Any:
        return model(images), model.features(images), model.stages(images)

    logits, features, stages = nnx.eval_shape(everything, model, images)
    assert (logits.shape, logits.dtype) == ((2, CLASSES), jnp.float32)
    assert features.ndim == 2
    assert features.shape[0] == 2
    assert features.dtype == jnp.float32
    heads = class_layers(lambda classes: abstract_model(name, classes))
    assert (features.shape[1], CLASSES) in {values(model)[f"{head}.kernel"].shape[-2:] for head in heads}
    assert stages
    assert all(stage.ndim in (3, 4) and stage.shape[0] == 2 for stage in stages.values())
    assert {str(value.dtype) for value in values(model).values()} - {"int32"} == {"float32"}


@contextmanager
def regnet_designed_on_cpu() -> Iterator[None]:
    """Within it, torchvision makes a RegNet's list of stages with numbers, whatever the device of the model."""
    torch, regnet = pytest.importorskip("torch"), pytest.importorskip("torchvision.models.regnet")
    design = regnet.BlockParams.from_init_params

    def on_cpu(*args: Any, **options: Any) -> Any:
        with torch.device("cpu"):
            return design(*args, **options)

    with mock.patch.object(regnet.BlockParams, "from_init_params", on_cpu):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_chances_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    from converters.verify_reference import reference

    with torch.device("meta"), regnet_designed_on_cpu():
        theirs = reference(name, CLASSES)
    ours = {leaf.key: leaf.source_shape for leaf in leaves(model_of(name))}
    assert ours == {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    parameters = {key for key, _ in theirs.named_parameters()}
    trained = {leaf.key for leaf in leaves(model_of(name)) if isinstance(leaf.variable, nnx.Param)}
    assert trained == parameters
    if name in WEIGHTS:
        # An EfficientNet has stochastic depth also in blocks without a shortcut, where it is not called.
        idle = [block.stochastic_depth for block in theirs.modules() if not getattr(block, "use_res_connect", True)
                and hasattr(block, "stochastic_depth")]  # fmt: skip
        chances = [module.p for module in theirs.modules() if isinstance(getattr(module, "p", None), float)
                   and module not in idle]  # fmt: skip
        rates = [module.rate for _, module in modules(model_of(name)) if hasattr(module, "rate")]
        assert sorted(filter(None, rates)) == pytest.approx(sorted(filter(None, chances)))


def test_the_public_names() -> None:
    assert jaxft.list_models() == sorted(BUILDERS)
    assert jaxft.list_models("detection") == sorted(DETECTORS)
    assert jaxft.list_models("classification") == sorted(BUILDERS.keys() - DETECTORS)
    assert jaxft.list_models("poetry") == []
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        jaxft.creat_model  # noqa: B018


@pytest.mark.parametrize("build", [create_model, abstract_model])
def test_unknown_names_and_options_are_refused(build: Any) -> None:
    with pytest.raises(UserError, match="no model named 'resnet81'; the nearest names are resnet18"):
        build("resnet81")
    with pytest.raises(UserError, match=r"lite0 has no option droput; it has drop_path, dropout, momentum\."):
        build("efficientnet_lite0", droput=0.1)
    with pytest.raises(UserError, match=r"resnet18 has no option dropout; it has none\."):
        build("resnet18", dropout=0.1)


def test_the_head_is_what_changes_with_the_number_of_classes() -> None:
    assert class_layers(partial(abstract_model, "resnet18")) == ("fc",)
    assert class_layers(partial(abstract_model, "efficientnet_lite0")) == ("_fc",)
    patterns = with_head(("layer4", "@head", "*"), partial(abstract_model, "googlenet"))
    assert patterns == ("layer4", "aux1.fc2", "aux2.fc2", "fc", "*")


def small_lite() -> EfficientNetLite:
    return EfficientNetLite(3, width=1.0, depth=0.3, dropout=0.5, drop_path=0.5, rngs=nnx.Rngs(4))


def small_resnet() -> ResNet:
    return ResNet(BasicBlock, (1, 1, 1, 1), 3, rngs=nnx.Rngs(4))


def test_initialize_missing_draws_what_the_builder_draws() -> None:
    model, expected = nnx.eval_shape(small_lite), small_lite()
    initialize_missing(model, small_lite)
    arrays = values(model)
    assert all(np.array_equal(arrays[path], value) for path, value in values(expected).items())
    # The random streams of dropout and drop-path too, or training could not start.
    keys = [variable.get_value() for variable in jax.tree.leaves(nnx.state(model, nnx.RngKey), is_leaf=is_variable)]
    theirs = [
        variable.get_value() for variable in jax.tree.leaves(nnx.state(expected, nnx.RngKey), is_leaf=is_variable)
    ]
    assert len(keys) == len(theirs) > 0
    assert all(
        jnp.array_equal(jax.random.key_data(a), jax.random.key_data(b)) for a, b in zip(keys, theirs, strict=True)
    )


def is_variable(value: Any) -> bool:
    return isinstance(value, nnx.Variable)


@pytest.mark.parametrize("build", [small_lite, small_resnet])
def test_training_changes_statistics_and_evaluation_none(build: Any) -> None:
    model = build()
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    forward = nnx.jit(lambda model, images: model(images))
    before = {path: np.array(value) for path, value in values(model).items()}
    model.eval()
    first = forward(model, images)
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())
    np.testing.assert_array_equal(forward(model, images), first)
    model.train()
    assert not np.allclose(forward(model, images), first)
    changed = {path for path, value in values(model).items() if not np.array_equal(value, before[path])}
    assert changed == set(values(model, nnx.BatchStat))


def test_dropout_and_drop_path_draw_anew_each_time() -> None:
    model = small_lite()
    for _, module in modules(model):
        if hasattr(module, "running_only"):
            module.running_only = True
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    forward = nnx.jit(lambda model, images: model(images))
    assert not np.array_equal(forward(model, images), forward(model, images))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("fc", "fc.kernel", True),
        ("fc", "fc", True),
        ("fc", "fc2.kernel", False),
        ("fc.kernel", "fc.bias", False),
        ("layer[12]", "layer2.0.conv1.kernel", True),
        ("layer[12]", "layer3.0.conv1.kernel", False),
        ("*.bn1", "layer1.0.bn1.scale", True),
        ("*.bn1", "bn1.scale", False),
        ("*", "anything.at.all", True),
        ("conv1", "layer1.0.conv1.kernel", False),
        ("FC", "fc.kernel", False),
    ],
)
def test_patterns_name_subtrees(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected
