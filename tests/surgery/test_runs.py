"""A run with `model.edits`: from data to a checkpoint that PyTorch's edited model takes, and on from there."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import jaxft
from converters.files import write
from jaxft import edits, export, train
from jaxft.edits import READER
from jaxft.evaluate import main as evaluate
from jaxft.inspect import main as inspect
from jaxft.models import abstract_model
from jaxft.models.paths import values
from jaxft.predict import main as predict
from tests.converters.tiny import random_state
from tests.small import Result, assert_equal_runs, call, interrupted

pytest_plugins = ("tests.runs",)

CONFIG = """
from jaxft.config import Phase, Rule, replace
from jaxft.edits import Activation, BatchNorm, Conv2d, Dropout, Insert, Linear, Replace
from small import config as base

rules = (Rule(pattern="@head", lr_scale=2.0), Rule(pattern="*"))
config = replace(
    base,
    {
        "model.edits": (
            Replace(path="conv2", layer=Conv2d(out_channels=8, kernel_size=3, padding=2, dilation=2)),
            dict(type="Insert", layer=dict(type="SiLU"), after="bn1"),
            Replace(path="fc", layer=[Linear(out_features=6), BatchNorm(type="BatchNorm1d"), Activation(), Linear()]),
        ),
        "phases.0.rules": rules,
    },
)
"""


class Theirs(nn.Module):
    """`tests.small.Small` in PyTorch, edited."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc: nn.Module = nn.Linear(8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.bn1 = nn.Sequential(self.bn1, nn.SiLU())  # type: ignore[assignment]
        self.fc = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        found: torch.Tensor = self.fc((x + self.bn2(self.conv2(x))).mean((2, 3)))
        return found


def unwrapped(result: Result) -> str:
    """What was printed, in one line."""
    assert result.code == 0, result
    return " ".join(result.out.split())


@pytest.fixture(scope="module")
def edited_config(config_file: Path) -> Path:
    path = config_file.with_name("edited.py")
    path.write_text(CONFIG.replace("from small", f"from configs.{config_file.stem}"))
    return path


@pytest.fixture(scope="module")
def edited_run(edited_config: Path) -> Path:
    """An undisturbed run. Not to be changed."""
    run = edited_config.parent / "edited_run"
    result = call(train.main, "--config", edited_config, "--workdir", run)
    assert result.code == 0, result
    assert "model.edits: conv2 is Conv2d(8, 8, 3, 1, 2, 2, 1) now" in result.out
    assert "model.edits: bn1 is bn1.0 now" in result.out
    return run


def test_from_data_to_export_and_on(edited_config: Path, edited_run: Path, photos: Path, tmp_path: Path) -> None:
    run = edited_run
    assert call(evaluate, "--run", run).code == 0
    photo = next((photos / "test" / "red").iterdir())
    assert call(predict, "--run", run, photo, "--output", tmp_path / "out").code == 0
    weights = tmp_path / "m.pth"
    assert call(export.main, "--run", run, "--output", weights).code == 0

    # PyTorch's model takes the file, and says the same.
    opened = jaxft.load_run(run)
    theirs = Theirs().eval()
    theirs.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    seen = opened.preprocessing(photo)[None]
    with torch.no_grad():
        logits = theirs(torch.from_numpy(np.array(seen)).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(opened.model(jnp.asarray(seen)), logits, rtol=1e-5, atol=1e-5)

    # What was edited travels with it, so that the same configuration starts from it, by its metadata.
    (group,) = json.loads(weights.with_name("m.pth.json").read_text())["model"]["edits"]
    assert READER.validate_python(group)[-1] == edits.Replace(
        path="fc",
        layer=(
            edits.Linear(in_features=8, out_features=6, flatten=False),
            edits.BatchNorm(type="BatchNorm1d", num_features=6),
            edits.Activation(),
            edits.Linear(in_features=6, flatten=False),
        ),
    )
    ledger = "22 of 22 source keys mapped, 0 skipped; 0 of our leaves are new"
    warm = ("--config", edited_config, "--workdir", tmp_path / "warm", "--dry-run", "--pretrained.source")
    assert ledger in unwrapped(call(train.main, *warm, weights))
    assert "its edits: Replace conv2; Insert after bn1; Replace fc" in unwrapped(call(inspect, weights))
    # And a checkpoint of the model before its edits.
    write(random_state(abstract_model("small", 3)), tmp_path / "before.safetensors")
    before = "11 of 15 source keys mapped, 0 skipped, 4 deleted by model.edits; 11 of our leaves are new"
    assert before in unwrapped(call(train.main, *warm, tmp_path / "before.safetensors"))
    told = unwrapped(call(inspect, tmp_path / "before.safetensors", "--config", edited_config, "--num-classes", 3))
    assert "bn1 is bn1.0 now" in told
    assert before in told


def test_a_run_with_edits_goes_on_bit_for_bit(edited_config: Path, edited_run: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    interrupted(edited_config, parts, 4)
    assert call(train.main, "--workdir", parts, "--resume").code == 0
    assert_equal_runs(edited_run, parts)
    changed = call(train.main, "--workdir", parts, "--resume", "--model.edits.1.after", "bn2")
    assert changed.code == 2
    assert "model.edits.1.after: 'bn1' there, 'bn2' here" in changed.err


def test_create_model_with_edits_takes_the_checkpoint_of_before() -> None:
    whole = random_state(abstract_model("squeezenet1_1", 5))
    cut = (edits.Cut(after="features[7]"), edits.Insert(before="classifier[1]", layer=edits.BatchNorm()))
    model = jaxft.create_model("squeezenet1_1", 5, pretrained=whole, edits=cut)
    exported = jaxft.to_torch(model)
    assert exported["classifier.2.weight"].shape == (5, 256, 1, 1)
    assert {key for key in whole if key.startswith("features.9.")} & exported.keys() == set()
    np.testing.assert_array_equal(exported["features.7.squeeze.weight"], whole["features.7.squeeze.weight"])
    assert all(np.isfinite(value).all() for value in values(model).values())
    again = jaxft.create_model("squeezenet1_1", 5, edits=cut)
    assert len(jaxft.load_pretrained(again, exported).having("mapped")) == len(exported)
