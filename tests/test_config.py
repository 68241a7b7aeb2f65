"""Configurations: files, inheritance, overrides, JSON, and what is said of mistakes."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from jaxft import config, train
from jaxft.cli import parse
from jaxft.config import Config, Data, Phase, Rule, differences, from_json, load, replace, to_json
from jaxft.errors import UserError
from jaxft.tasks import TaskFields
from tests.small import ROOT, call

HOTDOG = ROOT / "configs" / "hotdog.py"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a configuration with its dotted path."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from flat(getattr(value, field.name), f"{path}.{field.name}".strip("."))
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for index, item in enumerate(value):
            yield from flat(item, f"{path}.{index}")
    else:
        yield path, value


def test_a_file_binds_its_configuration(tmp_path: Path) -> None:
    file = write(tmp_path / "some.py", "from jaxft.config import Config\nconfig = Config(seed=7)\n")
    assert load(file) == Config(seed=7)


def test_a_configuration_inherits_by_import_and_replace() -> None:
    base, lite = load(HOTDOG), load(ROOT / "configs" / "hotdog_lite0.py")
    assert lite.data == base.data
    assert lite.task.label_smoothing == base.task.label_smoothing
    assert (base.model.name, lite.model.name) == ("resnet18", "efficientnet_lite0")
    assert lite.phases[0].batch_norm == "running"
    assert base.phases[0].batch_norm == "batch"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("config = 3", ["must bind", "int"]),
        ("", ["must bind", "NoneType"]),
        ("def", ["not a valid configuration", "SyntaxError"]),
        (
            "from jaxft.config import Config\nconfig = Config().foo",
            ["not a valid configuration", "AttributeError", "foo"],
        ),
        ("config = {}['a']", ["not a valid configuration", "KeyError"]),
        ("config = int('x')", ["not a valid configuration", "ValueError"]),
        ("config = 1 / 0", ["not a valid configuration", "ZeroDivisionError"]),
        ("open('/nowhere/x')", ["not a valid configuration", "/nowhere/x"]),
        ("import jaxft.nowhere", ["not a valid configuration", "jaxft.nowhere"]),
        ("from jaxft.config import Config\nconfig = Config(sed=1)", ["'sed'", "did you mean 'seed'"]),
        ("from jaxft.config import Data\nconfig = Data(batch_sise=1)", ["'batch_sise'", "did you mean 'batch_size'"]),
        ("from jaxft.config import Config\nconfig = Config(seed='x')", ["Config.seed", "'x'"]),
        ("from jaxft.config import Data\nconfig = Data(batch_size=0)", ["Data.batch_size", "found 0"]),
        (
            "from jaxft.config import Optimizer\nconfig = Optimizer(name='adan')",
            ["Optimizer.name", "'adan'", "'sgd'"],
        ),
        (
            "from jaxft.config import Optimizer\nconfig = Optimizer(learning_rate=float('nan'))",
            ["learning_rate", "nan"],
        ),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = write(tmp_path / "wrong.py", text)
    with pytest.raises(UserError) as error:
        load(file)
    assert all(part in str(error.value) for part in [str(file), *parts])


def test_a_missing_file_names_its_neighbor() -> None:
    with pytest.raises(UserError, match=r"no configuration file .*hotdgo\.py; did you mean .*hotdog\.py"):
        load(HOTDOG.with_name("hotdgo.py"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 3),
        ("data.batch_size", 8),
        ("task.images.scale", (0.5, 1.0)),
        ("phases.0.epochs", 2),
        ("phases.0.rules.1.lr_scale", 0.5),
        ("phases.0.rules.1", Rule(pattern="*", frozen=True)),
        ("phases", (Phase(), Phase(epochs=1))),
        ("pretrained.skip", ()),
    ],
)
def test_replace_changes_one_field_and_no_other(path: str, value: object) -> None:
    base = load(HOTDOG)
    before, after = dict(flat(base)), dict(flat(replace(base, {path: value})))
    assert after != before
    for name in before.keys() | after.keys():
        inside = name == path or name.startswith(path + ".")
        assert inside or before[name] == after[name], name
    node: Any = replace(base, {path: value})
    for part in path.split("."):
        node = node[int(part)] if part.isdigit() else getattr(node, part)
    assert node == value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.learning_rat", 1.0, r"optimizer\.learning_rat.*did you mean 'learning_rate'"),
        ("xyzzy", 1, "the fields are task, model, "),
        ("seed.more", 1, "seed.more: a plain value has no field 'more'"),
        ("phases.3.epochs", 1, "there are 1 elements, numbered from 0; '3'"),
        ("phases.first", 1, "'first' is none of them"),
        ("optimizer.momentum", 1.5, r"Optimizer\.momentum: .*found 1\.5"),
        ("data.batch_size", "many", r"Data\.batch_size: .*found 'many'"),
        ("optimizer.clip_norm", 0, r"Optimizer\.clip_norm: .*found 0"),
        ("optimizer.betas", (0.9, 1.0), r"Optimizer\.betas\.1: .*found 1\.0"),
        ("optimizer.betas", (-0.1, 0.9), r"Optimizer\.betas\.0: .*found -0\.1"),
        ("task.images.std", (0.2, 0.0, 0.2), r"Images\.std\.1: .*found 0\.0"),
        ("task.images.scale", (1.0, 0.5), r"Images\.scale: .*must not be larger than the second, found \(1\.0, 0\.5\)"),
        ("task.images.ratio", (0.0, 0.5), r"Images\.ratio\.0: .*found 0\.0"),
        ("task", {"kind": "detection", "std": (0, 1, 1)}, r"std\.0: .*found 0"),
        ("phases.0.rules.0.frozen", 0.3, r"Rule\.frozen"),
    ],
)
def test_replace_refuses(path: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(load(HOTDOG), {path: value})


def test_replace_changes_what_belongs_together_at_once() -> None:
    together = {"task.images.magnitude": 5, "task.images.policy": "randaugment", "phases.0.epochs": 7, "seed": 4}
    changed = replace(load(HOTDOG), together)
    assert changed == replace(load(HOTDOG), dict(reversed(together.items())))
    assert (changed.task.images.magnitude, changed.phases[0].epochs, changed.seed) == (5, 7, 4)
    assert differences(load(HOTDOG), changed).keys() == together.keys()
    phases = (Phase(epochs=1), Phase(epochs=2))
    assert replace(Config(), {"phases": phases, "phases.1.epochs": 3}).phases == (Phase(epochs=1), Phase(epochs=3))


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    arguments = (
        "--optimizer.learning-rate 0.005 --data.batch-size 64 --task.images.scale 0.5 1.0 --hardware.fsdp 2 --seed 9"
    )
    options, run = parse(["--config", str(HOTDOG), "--workdir", str(tmp_path / "run"), *arguments.split()])
    changes = {
        "optimizer.learning_rate": 0.005,
        "data.batch_size": 64,
        "task.images.scale": (0.5, 1.0),
        "hardware.fsdp": 2,
        "seed": 9,
    }
    assert options.settings == replace(load(HOTDOG), changes)
    assert run == tmp_path / "run"
    assert not options.resume


@pytest.mark.parametrize(
    ("argument", "value", "path"),
    [("--phases.0.epochs", "1", "phases.0.epochs"), ("--phases.0.rules.0.lr-scale", "3", "phases.0.rules.0.lr_scale")],
)
def test_the_command_line_reaches_into_phases(argument: str, value: str, path: str) -> None:
    options, _ = parse(["--config", str(HOTDOG), argument, value])
    assert options.settings == replace(load(HOTDOG), {path: int(value)})


def test_the_run_directory_is_named_after_the_configuration() -> None:
    _, run = parse(["--config", str(HOTDOG)])
    assert run == Path("runs/hotdog")


def test_help_lists_every_field() -> None:
    result = call(train.main, "--help-all")
    assert result.code == 0
    # Of a list that is empty there is nothing to change.
    hidden = {
        "model.mmdet",
        "model.init",
        "model.edits",
        "task.kind",
        "data.splits",
        "distillation.features",
        "distillation.teacher_model",
        "phases.0.schedule.schedulers",
        "phases.0.rules.0.schedule.schedulers",
    }
    options = {name.replace("_", "-") for name, _ in flat(Config()) if name not in hidden}
    options |= {"config", "workdir", "resume", "dry-run"}
    assert len(options) > 50
    missing = [name for name in sorted(options) if f"--{name}" not in result.out]
    assert not missing
    assert "The rate that phases, rules and schedules multiply." in result.out


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--optimizer.learning-rat", "1", "--optimizer.learning-rat"),
        ("--data.batch-size", "many", "--data.batch-size"),
        ("--data.batch-size", "-3", "batch_size"),
        ("--precision", "float8", "float8"),
    ],
)
def test_a_wrong_option_ends_with_code_2(option: str, value: str, named: str) -> None:
    result = call(train.main, "--config", HOTDOG, option, value)
    assert result.code == 2, result
    assert named in result.err
    assert "Traceback" not in result.out + result.err


def test_a_command_without_a_configuration_says_so() -> None:
    with pytest.raises(UserError, match="--config FILE"):
        parse([])


@pytest.mark.parametrize("name", ["hotdog", "hotdog_lite0", "hotdog_scratch", "digits"])
def test_json_goes_there_and_back(name: str) -> None:
    settings = load(ROOT / "configs" / f"{name}.py")
    assert from_json(to_json(settings), Path("config.json")) == settings


@pytest.mark.parametrize("damage", ["", "{", '{"seed": "x"}', '{"sed": 1}', "[]", "null"])
def test_damaged_json_is_refused_and_the_file_named(damage: str) -> None:
    with pytest.raises(UserError, match=r"some/config\.json is not a configuration"):
        from_json(damage, Path("some/config.json"))


def test_differences_name_each_field_and_both_values() -> None:
    one = Config(data=Data(batch_size=8))
    assert differences(one, one) == {}
    other = replace(
        one, {"data.batch_size": 16, "phases.0.rules": (Rule(pattern="fc"), Rule(pattern="*", lr_scale=0.5))}
    )
    found = differences(one, other)
    assert found["data.batch_size"] == (8, 16)
    assert found["phases.0.rules.0.pattern"] == ("*", "fc")
    assert found["phases.0.rules.1.lr_scale"] == (None, 0.5)
    assert all(path.startswith(("data.batch_size", "phases.0.rules")) for path in found)


def test_fields_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1  # type: ignore[misc]


def test_every_field_is_explained() -> None:
    for kind in (config.Model, config.Pretrained, config.Data, config.Schedule, config.Rule, config.Phase):
        assert_explained(kind)
    for kind in (config.Optimizer, config.Images, *get_args(TaskFields)):
        assert_explained(kind)


def assert_explained(kind: type) -> None:
    """A docstring follows each field; a field that is a group of fields has those of the group."""
    source = inspect.getsource(kind)
    for field in dataclasses.fields(kind):
        grouped = dataclasses.is_dataclass(field.type) or field.name == "kind"
        assert grouped or re.search(rf'\n    {field.name}: .*\n    """', source), (kind, field.name)
