"""The mean of checkpoints against PyTorch's `AveragedModel` and `update_bn`, and runs that average themselves."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from converters import to_torch
from jaxft import average, train
from jaxft.config import Classification, replace
from jaxft.inference import host_arrays
from jaxft.models import BUILDERS
from jaxft.training.averaging import estimated_statistics
from jaxft.training.finished import open_run
from jaxft.training.setup import Setup, set_up
from tests.small import CLASSES, Small, assert_equal_runs, call, final, interrupted, user_error

pytest_plugins = ("tests.runs",)

STEPS = (3, 6, 9)


def steady(num_classes: int = 1000, *, rngs: nnx.Rngs) -> Small:
    """The small network without dropout."""
    return Small(num_classes, dropout=0.0, rngs=rngs)


BUILDERS["steady"] = steady  # type: ignore[assignment]


class Twin(nn.Module):
    """The same in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.fc((x + self.bn2(self.conv2(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def kept_run(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has kept three checkpoints, without dropout."""
    run = tmp_path_factory.mktemp("kept") / "run"
    settings = ("--phases.0.epochs", 3, "--keep-checkpoints", 3, "--model.name", "steady")
    result = call(train.main, "--config", config_file, "--workdir", run, *settings)
    assert result.code == 0, result
    return run


@pytest.fixture(scope="module")
def setup(kept_run: Path) -> Setup:
    return set_up(open_run(kept_run).config)


def twin(run: Path, step: int) -> Twin:
    network = Twin()
    network.load_state_dict({name: torch.tensor(array) for name, array in to_torch(open_run(run, step).model).items()})
    return network


def normalized(setup: Setup, pixels: np.ndarray) -> Tensor:
    assert isinstance(setup.config.task, Classification)
    images = setup.config.task.images
    scaled = (pixels / 255 - np.array(images.mean)) / np.array(images.std)
    return torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float64)


def test_the_average_is_pytorchs_with_its_statistics(kept_run: Path, setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "mean.pth"
    result = call(average.main, "--run", kept_run, "--output", file, "--json")
    assert result.code == 0, result
    printed = json.loads(result.out)
    assert printed["steps"] == list(STEPS)
    ours = torch.load(file, weights_only=True)
    network = Twin()
    network.load_state_dict(ours, strict=True)
    assert json.loads((tmp_path / "mean.pth.json").read_text())["dataset_meta"]["classes"] == list(CLASSES)

    theirs = AveragedModel(twin(kept_run, STEPS[0]).double())
    for step in STEPS:
        theirs.update_parameters(twin(kept_run, step).double())

    def batches() -> Iterator[Tensor]:
        with setup.batches() as found:
            for batch in islice(found, setup.steps_per_epoch):
                yield normalized(setup, batch["image"])

    before = theirs.module.bn1.running_mean.clone()
    update_bn(batches(), theirs)
    assert (before - theirs.module.bn1.running_mean).abs().max() > 1e-3
    for name, tensor in theirs.module.state_dict().items():
        np.testing.assert_allclose(ours[name], tensor, rtol=2e-5, atol=2e-6, err_msg=name)
    assert int(ours["bn1.num_batches_tracked"]) == setup.steps_per_epoch == 3

    assert setup.validation is not None
    examples = [setup.validation.evaluation(index) for index in range(len(setup.validation))]
    labels = torch.tensor([int(example["label"]) for example in examples])
    with torch.no_grad():
        logits = theirs.eval()(normalized(setup, np.stack([example["image"] for example in examples])))
    mean, last, best = printed["metrics"].values()
    assert next(iter(printed["metrics"])) == "average of steps 3, 6, 9"
    assert mean["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert {line for line in printed["metrics"] if line.startswith("last")} == {"last (step 9)"}
    assert last["loss"] != pytest.approx(mean["loss"], rel=1e-4)
    assert best.keys() == mean.keys()


@pytest.mark.parametrize("how", ["mean", "last"])
def test_the_statistics_may_be_the_checkpoints(kept_run: Path, how: str, tmp_path: Path) -> None:
    file = tmp_path / "mean.pth"
    result = call(average.main, "--run", kept_run, "--output", file, "--steps", 9, 3, "--batch-norm", how)
    assert result.code == 0, result
    assert "average of steps 3, 9" in result.out
    ours, (first, last) = torch.load(file, weights_only=True), (twin(kept_run, step) for step in (3, 9))
    wanted = (first.bn2.running_var + last.bn2.running_var) / 2 if how == "mean" else last.bn2.running_var
    np.testing.assert_allclose(ours["bn2.running_var"], wanted, rtol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(ours["fc.weight"], (first.fc.weight + last.fc.weight) / 2, rtol=1e-5, atol=1e-7)
    assert ours["bn1.num_batches_tracked"] == last.bn1.num_batches_tracked


def test_statistics_that_the_last_phase_keeps_stay(kept_run: Path, setup: Setup) -> None:
    kept = set_up(replace(setup.config, {"phases.0.batch_norm": "running"}))
    assert estimated_statistics(kept, host_arrays(open_run(kept_run).model)) == {}


def test_what_cannot_be_averaged_is_refused(small_run: Path, kept_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mean.pth"
    message = user_error(call(average.main, "--run", small_run, "--output", file))
    assert "There is one checkpoint to average, of step 6" in message
    assert "--keep-checkpoints 5" in message
    message = user_error(call(average.main, "--run", kept_run, "--output", file, "--steps", 3, 4))
    assert "holds no checkpoint of step 4; those that it holds: 3, 6, 9" in message
    assert "ends in none of .pth" in user_error(call(average.main, "--run", kept_run, "--output", tmp_path / "a.npz"))
    assert not list(tmp_path.iterdir())
    file.write_text("mine")
    assert "not overwritten" in user_error(call(average.main, "--run", kept_run, "--output", file))


def test_a_run_that_averages_itself_goes_on_bit_for_bit(config_file: Path, tmp_path: Path) -> None:
    calm, run = tmp_path / "calm", tmp_path / "run"
    settings = ("--ema.kind", "swa", "--ema.begin", 3, "--ema.interval", 2, "--data.validation", None)
    result = call(train.main, "--config", config_file, "--workdir", calm, *settings, "--checkpoint-every", 4)
    assert result.code == 0, result
    interrupted(config_file, run, 5, *settings, "--checkpoint-every", 4)
    assert call(train.main, "--workdir", run, "--resume").code == 0
    assert_equal_runs(run, calm)
    now = final(calm)[1]
    assert np.abs(now["ema['fc.kernel']"] - now["fc.kernel"]).max() > 1e-3
    file = tmp_path / "mean.pth"
    assert call(average.main, "--run", run, "--output", file, "--json").code == 0  # for its statistics alone
    weight = torch.load(file, weights_only=True)["fc.weight"].numpy()
    np.testing.assert_array_equal(weight.T, now["ema['fc.kernel']"])
    message = user_error(
        call(train.main, "--config", config_file, "--workdir", tmp_path / "x", *settings, "--ema.decay", 0.9)
    )
    assert "has neither a decay nor a warm-up" in message
