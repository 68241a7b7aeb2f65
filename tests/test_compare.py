"""Ways to fine-tune a network, compared."""

import json
from pathlib import Path

import pytest
from flax import nnx

from jaxft import compare
from jaxft.config import Config, Phase, Pretrained, Rule, load, replace
from jaxft.errors import UserError
from jaxft.models.paths import matches, values
from jaxft.tasks.task import Metric
from jaxft.training.setup import set_up
from jaxft.training.trials import block_depths
from jaxft.ways import LORA, WAYS, changed, upper_half
from tests.small import call, user_error, write_config

pytest_plugins = ("tests.runs",)

DEPTHS = {
    "conv.kernel": 0,
    "rows.0.a": 1,
    "rows.1.a": 2,
    "rows.1.b": 2,
    "rows.2.a": 3,
    "rows.3.a": 4,
    "norm": 5,
    "fc.bias": 5,
}
BASE = Config(
    pretrained=Pretrained(source="a.pth", skip=("@head",)),
    phases=(
        Phase(epochs=2, rules=(Rule(pattern="@head", lr_scale=7.0), Rule(pattern="*", frozen=True))),
        Phase(epochs=3),
    ),
)


def test_the_upper_half_is_named_shortly_and_alone() -> None:
    assert upper_half(DEPTHS, ["fc"]) == ["norm", "rows.2", "rows.3"]
    assert upper_half({"a.kernel": 1, "b.kernel": 1}, ["b"]) == []
    assert upper_half({"stem": 0, "a.0.k": 1, "b.0.k": 2, "b.1.k": 3, "c.k": 4, "fc.k": 5}, ["fc"]) == ["b.1", "c"]


def test_ways_share_out_the_budget() -> None:
    upper = upper_half(DEPTHS, ["fc"])
    ways = {way: changed(BASE, way, upper) for way in WAYS}
    assert {way: [phase.epochs for phase in config.phases] for way, config in ways.items()} == {
        "scratch": [5],
        "features": [5],
        "partial": [5],
        "full": [5],
        "progressive": [1, 2, 2],
        "lora": [5],
    }
    assert ways["scratch"].pretrained == Pretrained()
    assert ways["lora"].model.lora == LORA
    assert [rule.pattern for rule in ways["lora"].phases[0].rules] == ["@head", "*.lora", "*"]
    stored = replace(BASE, {"stored_features": True, "data.views": 1})
    assert [changed(stored, way, upper).stored_features for way in ("features", "full", "lora", "given")] == [
        *(True, False, False, True)
    ]
    own = replace(BASE, {"model.lora.rank": 3})
    assert [changed(own, way, upper).model.lora.rank for way in ("full", "lora")] == [0, 3]
    head = Rule(pattern="@head", lr_scale=7.0)
    assert ways["features"].phases[0].rules == (head, Rule(pattern="*", frozen=True))
    assert [rule.pattern for rule in ways["partial"].phases[0].rules] == ["@head", "norm", "rows.2", "rows.3", "*"]
    assert [rule.frozen for rule in ways["partial"].phases[0].rules] == [False, False, False, False, True]
    assert ways["progressive"].phases[1].rules == ways["partial"].phases[0].rules
    assert ways["full"].phases[0].rules == ways["progressive"].phases[2].rules == (head, Rule(pattern="*"))
    with pytest.raises(UserError, match="no blocks to freeze the lower half of; leave partial out"):
        changed(BASE, "partial", [])
    with pytest.raises(UserError, match="there are 2 epochs in all"):
        changed(Config(phases=(Phase(epochs=2),)), "progressive", upper)
    with pytest.raises(UserError, match="give the phases epochs and no steps"):
        changed(Config(phases=(Phase(steps=9),)), "full", upper)


def test_every_pattern_of_the_upper_half_names_parameters(photos: Path, tmp_path: Path) -> None:
    """A counter of batches, which nothing reads, is no parameter, and lies nowhere."""
    settings = load(write_config(tmp_path / "lite.py", photos, model="efficientnet_lite0"))
    setup = set_up(settings)
    parameters = values(setup.model, nnx.Param)
    patterns = upper_half(block_depths(setup.task, setup.model, setup.train), setup.source.head())
    assert patterns
    assert all(any(matches(pattern, path) for path in parameters) for pattern in patterns)
    assert not any(matches(pattern, "_conv_stem.kernel") for pattern in patterns)
    assert set_up(changed(settings, "partial", patterns)).stages


def test_a_comparison_prints_a_table_and_goes_on_where_it_was(photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "configs" / "fire.py", photos, model="squeezenet1_1")
    flags = ("--config", config, "--workdir", tmp_path / "runs", "--phases.0.epochs", 1, "--json", "--seeds", 3)
    first = call(compare.main, *flags, "--ways", "features")
    assert first.code == 0, first
    found = json.loads(first.out)
    assert found["metric"] == "accuracy"
    (features,) = found["ways"]["features"]
    assert features["seconds"] > 0
    assert "GB" in features["memory"]
    both = json.loads(call(compare.main, *flags, "--ways", "features", "full").out)
    assert both["ways"]["features"][0] | {"seconds": 0, "memory": ""} == features | {"seconds": 0, "memory": ""}
    assert both["ways"]["features"][0]["seconds"] == 0  # it was there
    assert both["trained"]["features"] == 512 * 3 + 3
    assert both["trained"]["full"] > 700_000
    assert {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()} == {"features-3", "full-3"}
    assert (tmp_path / "runs" / "comparison.png").stat().st_size > 1000


def test_what_cannot_be_compared(config_file: Path, tmp_path: Path) -> None:
    flags = ("--config", config_file, "--workdir", tmp_path / "runs")
    assert "leave partial out of --ways" in user_error(call(compare.main, *flags, "--ways", "partial"))
    assert "Nothing is evaluated" in user_error(call(compare.main, *flags, "--data.validation", "None"))
    assert not (tmp_path / "runs").exists()


def test_folds_are_runs_of_their_own(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the configuration as it is, one fold after the other, for each seed."""
    asked = []

    def run(config: Config, folder: Path, metric: Metric) -> compare.Outcome:
        asked.append((config.seed, config.data.fold, folder.name))
        return compare.Outcome(config.seed, config.data.fold, 0.5, 0.25 * len(asked), 1.0, "")

    monkeypatch.setattr(compare, "run", run)
    flags = ("--data.folds", 2, "--data.batch-size", 4, "--ways", "given", "--seeds", 0, 7)
    result = call(compare.main, "--config", config_file, "--workdir", tmp_path / "runs", *flags)
    assert result.code == 0, result
    assert asked == [(0, 0, "given-0-0"), (0, 1, "given-0-1"), (7, 0, "given-7-0"), (7, 1, "given-7-1")]
    assert "0.6250 ± 0.3227" in result.out
    assert "4 run(s) each" in result.out
