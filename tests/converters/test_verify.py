"""That the proof notices what is wrong. That nothing is wrong with the models is `classifiers/test_parity.py`."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax import Array

from converters.report import Report, difference, worst
from converters.verify import verify
from jaxft.errors import UserError
from jaxft.models import BUILDERS
from jaxft.models.layers import BatchNorm, Conv, Linear
from jaxft.models.layers.pooling import global_average_pool

torch = pytest.importorskip("torch")


class Ours(nnx.Module):
    def __init__(self, num_classes: int = 10, *, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(3, 4, 3, padding=1, bias=False, rngs=rngs)
        self.bn1 = BatchNorm(4)
        self.fc = Linear(4, num_classes, rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        return {"bn1": self.bn1(self.conv1(x))}

    def __call__(self, x: Array) -> Array:
        return self.fc(global_average_pool(jax.nn.relu(self.stages(x)["bn1"])))


class Theirs(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 10)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.relu(self.bn1(self.conv1(x))).mean((2, 3)))


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Ours], None]], None]:
    """Makes `verify("mine")` check `Ours` after a change."""

    def install(change: Callable[[Ours], None]) -> None:
        def build(num_classes: int = 10, *, rngs: nnx.Rngs) -> Ours:
            model = Ours(num_classes, rngs=rngs)
            change(model)
            return model

        monkeypatch.setitem(BUILDERS, "mine", build)  # type: ignore[arg-type]

    return install


def report(dtype: str = "float64") -> Report:
    return verify("mine", size=12, batch=4, dtype=dtype, theirs=Theirs())


def figures(found: Report) -> dict[str, float]:
    return {
        "stages": max(found.stages.values()),
        "logits": found.logits,
        "loss": found.loss,
        "gradients": found.gradients[0],
        "statistics": found.statistics[0],
        "steps": found.steps[0],
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
def test_equal_models_are_equal(ours: Any, dtype: str, tolerance: float) -> None:
    ours(lambda model: None)
    found = report(dtype)
    assert max(figures(found).values()) < tolerance
    assert found.round_trip
    assert found.parameters == 3 * 4 * 9 + 8 + 50
    assert list(found.stages) == ["bn1"]
    assert found.table().row_count == 7


def eps(model: Ours) -> None:
    model.bn1.eps = 1e-4


def momentum(model: Ours) -> None:
    model.bn1.momentum = 0.09


def shifted(model: Ours) -> None:
    model.conv1.padding = "same"
    model.conv1.stride = (2, 2)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (eps, {"stages", "logits", "loss", "gradients", "steps"}),
        (momentum, {"statistics"}),
        (shifted, {"stages", "logits", "loss", "gradients", "statistics", "steps"}),
    ],
)
def test_a_fault_shows_where_it_matters(ours: Any, change: Callable[[Ours], None], wrong: set[str]) -> None:
    ours(change)
    found = {name for name, value in figures(report()).items() if value > 1e-9}
    assert found == wrong


def test_bessels_correction_shows(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    track = BatchNorm._track
    monkeypatch.setattr(BatchNorm, "_track", lambda layer, mean, var, _, take: track(layer, mean, var, 10**9, take))
    ours(lambda model: None)
    found = report()
    assert {name for name, value in figures(found).items() if value > 1e-9} == {"statistics"}
    assert found.statistics[1] == "bn1.running_var"


def test_the_missing_reference_is_named(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match=r"verify needs PyTorch's resnet18 .*pip install 'jaxft\[test\]'"):
        verify("resnet18")


def test_differences_are_relative_and_infinite_where_they_cannot_be_told() -> None:
    assert difference(np.array([1.0, 3.0]), np.array([1.0, 4.0])) == 0.25
    assert difference(np.zeros(2), np.zeros(2)) == 0
    assert difference(np.array([1.0, 3.0]), np.array([1.0, 4.0]), floor=10) == 0.1
    assert difference(np.array([np.nan, 4.0]), np.array([1.0, 4.0])) == float("inf")
    assert difference(np.ones((2, 1)), np.ones(2)) == float("inf")
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([1e-9])
    assert worst({"a": np.array([1.0, 1.5]), "b": np.array([0.0])}, {"a": a, "b": b}, 1e-3) == (0.25, "a")
    with pytest.raises(AssertionError, match=r"one side only: \['b'\]"):
        worst({"a": np.ones(2)}, {"a": a, "b": b}, 0.0)
