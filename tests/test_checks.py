"""Fields that nothing would read are refused by name, before anything is written."""

from typing import Any

import pytest

from jaxft import train
from jaxft.checks import check_places, check_used
from jaxft.config import Config, Data, Optimizer, load, replace
from jaxft.errors import UserError
from jaxft.tasks.multilabel import Multilabel
from tests.small import ROOT, call


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained.skip": ("fc",)}, r"pretrained\.skip is \('fc',\), but there is no checkpoint"),
        ({"pretrained.sha256": "ab"}, "pretrained.sha256 is 'ab'"),
        ({"pretrained.rename": {"a": "b"}}, "pretrained.rename is {'a': 'b'}"),
        ({"pretrained.transfer_head_rows": True}, "pretrained.transfer_head_rows is True"),
        ({"pretrained.new_kernels": "xavier_uniform"}, "pretrained.new_kernels is 'xavier_uniform'"),
        ({"optimizer.name": "adam", "optimizer.momentum": 0.9}, r"optimizer\.momentum is 0\.9, .* to 0\.0\."),
        (
            {"optimizer.betas": (0.5, 0.9)},
            r"betas is \(0\.5, 0\.9\), which is for adam, adamw, radam, lamb, lion alone",
        ),
        ({"optimizer.name": "lion", "optimizer.eps": 1e-3}, r"optimizer\.eps is 0\.001, which is for adam"),
        ({"optimizer.trust": 0.1}, r"optimizer\.trust is 0\.1, which is for lars alone"),
        ({"optimizer.name": "adamw", "optimizer.nesterov": True}, r"optimizer\.nesterov is True, .* to False\."),
        ({"optimizer.moments": "bfloat16"}, "optimizer.moments is 'bfloat16', but sgd without momentum keeps none"),
        ({"optimizer.nesterov": True}, "optimizer.nesterov is a form of momentum, but optimizer.momentum is 0"),
    ],
)
def test_what_nothing_reads_is_refused(changes: dict[str, Any], message: str) -> None:
    config = Config(optimizer=Optimizer())
    check_places(config, None, own_data=True)
    with pytest.raises(UserError, match=message):
        check_places(replace(config, changes), None, own_data=True)


def test_nothing_cuts_datasets_of_ones_own() -> None:
    for changes in ({"data.holdout": 0.2}, {"data.folds": 3}, {"data.subset": 0.5}, {"data.balance": "oversample"}):
        with pytest.raises(UserError, match=r"but the datasets are your own, which nothing cuts"):
            check_places(replace(Config(), changes), None, own_data=True)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda file: file.stem)
def test_shipped_configurations_say_nothing_in_vain(file: Any) -> None:
    check_used(load(file))


@pytest.mark.parametrize("source", ["folder", "tfds", "digits"])
@pytest.mark.parametrize("field", [{"classes": ("cat",)}, {"single_class": "cat"}])
def test_sources_of_classes_refuse_what_they_do_not_read(source: str, field: dict[str, Any]) -> None:
    config = Config(data=Data(source=source, name="x", **field))
    with pytest.raises(UserError, match=f"data.{next(iter(field))} is .*, but the data source '{source}' has no use"):
        config.task.task().datasets(config.data, 0)


def test_a_single_class_is_no_matter_of_labels() -> None:
    for source in ("csv", "shapes"):
        with pytest.raises(UserError, match=f"data.single_class is 'cat', but the data source '{source}'"):
            Multilabel().task().datasets(Data(source=source, single_class="cat"), 0)


@pytest.mark.parametrize("option", ["--full", "--compile"])
def test_options_of_a_dry_run_want_one(option: str) -> None:
    result = call(train.main, "--config", "jaxft:digits", option)
    assert result.code == 2
    assert f"{option} says what a dry run prints; add --dry-run" in result.err
