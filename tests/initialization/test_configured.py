"""Initialisers of a configuration: what they draw in a run, and what is said of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import jaxft
from converters import to_torch
from converters.files import write
from jaxft import train
from jaxft.checks import check_places
from jaxft.config import Config, Model, Pretrained, from_json, load, replace, to_json
from jaxft.errors import UserError
from jaxft.initialization import Initialize, Normal, Override, Uniform
from jaxft.models import create_model
from jaxft.models.paths import values
from jaxft.training.own import Own
from jaxft.training.setup import set_up
from tests.small import call, user_error

pytest_plugins = ("tests.runs",)

RULES = (
    Initialize(how=Normal(mean=3, std=0.1, bias=2), layer=("Conv2d", "_BatchNorm")),
    Initialize(how=Uniform(a=5, b=6, bias_prob=0.01), override=(Override(name="fc"),)),
)


def first(config: Config) -> dict[str, np.ndarray]:
    """The values that a run starts from."""
    setup = set_up(config)
    state = setup.first_state(setup.stages[0], setup.load_weights())
    return {path: np.asarray(array) for path, array in {**state.params, **state.stats}.items()}


def test_a_model_from_scratch_is_drawn_by_the_rules(config_file: Path) -> None:
    config = replace(load(config_file), {"model.init": RULES})
    one, again = first(config), first(config)
    other = first(replace(config, {"seed": 1}))
    for path, array in one.items():
        np.testing.assert_array_equal(array, again[path])
    assert (one["conv1.kernel"] != other["conv1.kernel"]).all()
    assert abs(one["conv1.kernel"].mean() - 3) < 0.05
    assert abs(one["bn2.scale"].mean() - 3) < 0.2
    assert (one["bn1.bias"] == 2).all()
    assert (one["bn1.mean"] == 0).all()
    assert (one["fc.kernel"] >= 5).all()
    assert (one["fc.kernel"] <= 6).all()
    np.testing.assert_allclose(one["fc.bias"], np.log(0.01 / 0.99), rtol=1e-6)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write(to_torch(create_model("small", 7, rngs=nnx.Rngs(1))), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def test_what_a_checkpoint_fills_stays(config_file: Path, checkpoint: Path) -> None:
    whole = values(create_model("small", 7, rngs=nnx.Rngs(1)))
    named = {"pretrained.source": str(checkpoint), "pretrained.skip": ("@head",)}
    started = first(replace(load(config_file), {"model.init": RULES, **named}))
    for path, array in started.items():
        if path.startswith("fc"):
            assert array.shape[-1] == 3
            assert (array >= 5).all() or path == "fc.bias"
        else:
            np.testing.assert_array_equal(array, whole[path], err_msg=path)


def test_a_dry_run_says_what_the_rules_draw(config_file: Path, checkpoint: Path) -> None:
    rules = [
        {"type": "Normal", "layer": ["Conv2d"], "override": {"type": "Constant", "val": 0, "name": "fc"}},
        {"type": "Normal"},
    ]
    config_file.with_name("ruled.py").write_text(
        config_file.read_text()
        + f"\nfrom jaxft.config import replace\nconfig = replace(config, {{'model.init': {rules}}})\n"
    )
    given = ("--pretrained.source", checkpoint, "--pretrained.skip", "fc", "--dry-run", "--full")
    result = call(
        train.main, "--config", config_file.with_name("ruled.py"), "--workdir", checkpoint.parent / "run", *given
    )
    assert result.code == 0, result
    assert "model.init.0 (Normal) draws 2 arrays: fc.bias, fc.kernel, 3 that the checkpoint fills stay" in result.out
    assert "model.init.1 (Normal) draws 0 arrays" in result.out
    assert result.out.count("(new, Constant)") == 2


def test_a_checkpoint_among_the_rules_is_where_the_weights_come_from() -> None:
    def config(*rules: dict[str, Any], **fields: Any) -> Config:
        return Config(model=Model(init=rules), **fields)  # type: ignore[arg-type]

    loads = {"type": "Pretrained", "checkpoint": "torchvision://resnet18", "prefix": "encoder"}
    found = config({"type": "Normal", "layer": "Linear"}, loads, pretrained=Pretrained(skip=("@head",)))
    assert found.pretrained == Pretrained(
        source="torchvision://resnet18/IMAGENET1K_V1", prefix="encoder.", skip=("@head",)
    )
    assert found.model.init == (Initialize(how=Normal(), layer=("Linear",)),)
    assert from_json(to_json(found), Path("x")) == found
    for name, source in (
        ("torchvision://resnet18.IMAGENET1K_V2", "torchvision://resnet18/IMAGENET1K_V2"),
        ("torchvision://resnet18/DEFAULT", "torchvision://resnet18/DEFAULT"),
        ("open-mmlab://detectron2/resnet50_caffe", "open-mmlab://detectron2/resnet50_caffe"),
        ("a.pth", "a.pth"),
    ):
        assert config({"type": "Pretrained", "checkpoint": name}).pretrained.source == source
    for more in ({"pretrained": Pretrained(source="b.pth")}, {}):
        with pytest.raises(ValueError, match="more than one checkpoint"):
            config(loads, *(() if more else (loads,)), **more)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"type": "Normal", "layer": "Conv9d"}, "'Conv9d' is no kind of layer"),
        ({"type": "Normal", "override": {"name": "head"}}, "override names 'head', which the Small lacks"),
        ({"type": "Normal", "standard": 3}, "standard"),
    ],
)
def test_a_mistake_is_one_sentence(config_file: Path, rule: dict[str, Any], message: str) -> None:
    text = f"\nfrom jaxft.config import replace\nconfig = replace(config, {{'model.init': ({rule},)}})\n"
    config_file.with_name("ruled.py").write_text(config_file.read_text() + text)
    arguments = ("--config", config_file.with_name("ruled.py"), "--workdir", config_file.parent / "run")
    assert message in user_error(call(train.main, *arguments))


def test_rules_that_nothing_would_read_are_refused(config_file: Path, checkpoint: Path) -> None:
    config = replace(load(config_file), {"model.init": RULES})
    both = {"pretrained.source": str(checkpoint), "pretrained.new_kernels": "xavier_uniform"}
    with pytest.raises(UserError, match=r"model\.init and pretrained\.new_kernels both"):
        check_places(replace(config, both), None, own_data=True)
    with pytest.raises(UserError, match=r"model\.init draws what no checkpoint fills, but your own model"):
        set_up(config, Own(model=jaxft.create_model("small", 3)))
