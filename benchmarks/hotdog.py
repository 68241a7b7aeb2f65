"""Fine-tuned against from scratch on real photos, three seeds each, next to the same recipe in PyTorch.

    python -m benchmarks.hotdog --root ../shared/data/hotdog

The network is EfficientNet-Lite0, whose ImageNet weights an installed package carries; the recipe that of
`configs/hotdog_lite0.py`, from scratch with every parameter trained at one rate. PyTorch runs the reference model of
`efficientnet-lite-pytorch` with torchvision's transforms.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torchvision.transforms as T
import tyro
from efficientnet_lite_pytorch import EfficientNet
from rich.live import Live
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from converters.sources import load
from jaxft import config
from jaxft.models.paths import matches

CONFIGS = {"ImageNet": Path("configs/hotdog_lite0.py"), "random": Path("configs/hotdog_lite0_scratch.py")}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains twelve networks by default, which takes long on two cores."""

    root: str = "data/hotdog"
    """The folder with train/ and test/."""
    seeds: int = 3
    """Runs of each kind."""
    epochs: int = 5
    """Passes over the training photos."""
    programs: tuple[Literal["jaxft", "PyTorch"], ...] = ("jaxft", "PyTorch")
    """Whose training to run."""
    weights: tuple[Literal["ImageNet", "random"], ...] = ("ImageNet", "random")
    """The first weights to start from."""


@dataclass(frozen=True)
class Result:
    """Test accuracy after the last and after the best epoch, and the minutes of the whole run."""

    last: float
    best: float
    minutes: float


def with_jaxft(file: Path, options: Options, seed: int) -> Result:
    """The training command in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        command = [sys.executable, "-m", "jaxft.train", "--config", str(file), "--workdir", str(folder)]
        command += ["--data.root", options.root, "--seed", str(seed), "--phases.0.epochs", str(options.epochs)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.perf_counter() - start) / 60
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracies = [line["accuracy"] for line in lines if line["split"] == "validation"]
    return Result(accuracies[-1], max(accuracies), minutes)


def with_pytorch(file: Path, options: Options, seed: int) -> Result:
    """The same recipe, read from the same configuration."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    settings = config.load(file)
    assert isinstance(settings.task, config.Classification)
    phase, images = settings.phases[0], settings.task.images
    model = EfficientNet.from_name("efficientnet-lite0", num_classes=2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            momentum = settings.model.options.get("momentum", module.momentum)
            assert isinstance(momentum, float)
            module.momentum = momentum
    if settings.pretrained.source is not None:
        state = load(settings.pretrained.source)
        kept = {key: torch.from_numpy(value) for key, value in state.items() if not key.startswith("_fc.")}
        model.load_state_dict(kept, strict=False)
        torch.nn.init.xavier_uniform_(model._fc.weight)
    rates = {}
    for name, parameter in model.named_parameters():
        rule = next(rule for rule in phase.rules if matches(rule.pattern, name))
        parameter.requires_grad_(not rule.frozen)
        rates[name] = settings.optimizer.learning_rate * rule.lr_scale
    groups = [{"params": [p], "lr": rates[name]} for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        groups,
        lr=settings.optimizer.learning_rate,
        momentum=settings.optimizer.momentum,
        nesterov=settings.optimizer.nesterov,
        weight_decay=settings.optimizer.weight_decay,
    )
    tensor = [T.ToTensor(), T.Normalize(images.mean, images.std)]
    augment = T.Compose([T.RandomResizedCrop(images.crop, scale=images.scale), T.RandomHorizontalFlip(), *tensor])
    center = T.Compose([T.Resize(images.resize), T.CenterCrop(images.crop), *tensor])
    train = ImageFolder(f"{options.root}/train", augment)
    test = ImageFolder(f"{options.root}/test", center)
    batches = DataLoader(train, settings.data.batch_size, shuffle=True, drop_last=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(batches))
    accuracies = []
    for _ in range(options.epochs):
        model.train()
        if phase.batch_norm == "running":
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        for x, y in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in DataLoader(test, settings.data.batch_size))
        accuracies.append(right / len(test))
    return Result(accuracies[-1], max(accuracies), (time.perf_counter() - start) / 60)


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    table = Table("program", "first weights", "last epoch", "median", "best epoch", "median", "minutes a run")
    runs: dict[str, Callable[[Path, Options, int], Result]] = {"jaxft": with_jaxft, "PyTorch": with_pytorch}
    with Live(table, refresh_per_second=1):
        for program in options.programs:
            for weights in options.weights:
                results = [runs[program](CONFIGS[weights], options, seed) for seed in range(options.seeds)]
                row: list[str] = [program, weights]
                for values in ([r.last for r in results], [r.best for r in results]):
                    row += [" ".join(f"{value:.3f}" for value in values), f"{statistics.median(values):.3f}"]
                table.add_row(*row, f"{statistics.median(r.minutes for r in results):.1f}")


if __name__ == "__main__":
    main()
