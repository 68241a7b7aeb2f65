"""The recipe of a configuration in PyTorch: `efficientnet-lite-pytorch`, and torchvision's transforms."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision.transforms as T
from efficientnet_lite_pytorch import EfficientNet
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from converters.sources import load
from jaxft import config
from jaxft.models.paths import matches


def training(file: str, root: str, seed: int, epochs: int) -> Callable[[], dict[str, float]]:
    """Trains, and says test accuracy after the last and after the best epoch, and the minutes of all."""
    start = time.perf_counter()
    accuracies = accuracy_of_epochs(config.load(Path(file)), root, seed, epochs)
    minutes = (time.perf_counter() - start) / 60
    return lambda: {"last": accuracies[-1], "best": max(accuracies), "minutes": minutes}


def training_once(file: str, root: str, seed: int, epochs: int) -> Callable[[], float]:
    """The same, to be timed; says the accuracy after the last epoch."""
    settings = config.load(Path(file))
    return lambda: accuracy_of_epochs(settings, root, seed, epochs)[-1]


def accuracy_of_epochs(settings: config.Config, root: str, seed: int, epochs: int) -> list[float]:
    """Test accuracy after each epoch."""
    torch.manual_seed(seed)
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
        rule = next(rule for rule in phase.rules if matches(rule.pattern.replace("@head", "_fc"), name))
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
    train = ImageFolder(f"{root}/train", augment)
    test = ImageFolder(f"{root}/test", center)
    batches = DataLoader(train, settings.data.batch_size, shuffle=True, drop_last=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    accuracies = []
    for _ in range(epochs):
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
    return accuracies
