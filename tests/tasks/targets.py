"""Small photos with a CSV of targets, the small network in PyTorch, and what a run of it exports."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import torch
from jax import Array
from PIL import Image
from torch import nn

from jaxft import export
from jaxft.config import Config, Data, Images, Model, Optimizer, Phase, Schedule, to_json
from jaxft.tasks import TaskFields
from tests.small import call

IMAGES = Images(crop=24, resize=24, scale=(1.0, 1.0), ratio=(1.0, 1.0))
COUNTS = {"train": 24, "test": 11}


def write_csv(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A CSV file of a header and lines."""
    file.write_text("\n".join(",".join(map(str, row)) for row in (header, *rows)) + "\n")


def paint_photos(root: Path, targets: Callable[[np.ndarray], Sequence[object]], names: Sequence[str]) -> Path:
    """Two splits of photos of one color each, with the targets that `targets` makes of its R, G, B (0..1)."""
    for seed, (split, count) in enumerate(COUNTS.items()):
        (root / split).mkdir(parents=True)
        rng, rows = np.random.default_rng(seed), []
        for number in range(count):
            color = rng.integers(0, 2, 3) * 0.6 + rng.random(3) * 0.3
            noise = rng.normal(0, 0.03, (26, 24, 3))
            pixels = np.clip((color + noise) * 255, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            rows.append([f"{number}.png", *targets(color)])
        write_csv(root / f"{split}.csv", ["file", *names], rows)
    return root


def small_config(task: TaskFields, root: Path) -> Config:
    """Two epochs of three steps of the small network, from scratch."""
    return Config(
        model=Model(name="small"),
        data=Data(source="csv", root=str(root), batch_size=8),
        task=task,
        optimizer=Optimizer(learning_rate=0.05, momentum=0.9),
        phases=(Phase(epochs=2, schedule=Schedule(decay="cosine", unit="step", warmup=2)),),
        log_every=1,
    )


def write_config(file: Path, config: Config) -> Path:
    """A configuration file that binds a configuration."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["from pathlib import Path", "from jaxft.config import from_json", f"text = {to_json(config)!r}"]
    file.write_text("\n".join([*lines, "config = from_json(text, Path())"]) + "\n")
    return file


class SmallTorch(nn.Module):
    """`tests.small.Small` in evaluation."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc((x + self.bn2(self.conv2(x))).mean((2, 3)))


def exported(run: Path, folder: Path) -> tuple[SmallTorch, Callable[[np.ndarray], Array]]:
    """The small network of a run in PyTorch, loaded strictly, and its StableHLO program."""
    for kind, suffix in (("torch", "pth"), ("stablehlo", "stablehlo")):
        result = call(export.main, "--run", run, "--format", kind, "--output", folder / f"model.{suffix}")
        assert result.code == 0, result
    weights = torch.load(folder / "model.pth", weights_only=True)
    network = SmallTorch(len(weights["fc.bias"]))
    network.load_state_dict(weights, strict=True)
    network.eval()
    program = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    return network, program.call


def run_torch(network: SmallTorch, pixels: np.ndarray) -> np.ndarray:
    """Outputs of the network for uint8 `[N, H, W, 3]`, normalized as `IMAGES` says."""
    normalized = (pixels / 255 - np.array(IMAGES.mean)) / np.array(IMAGES.std)
    with torch.no_grad():
        return network(torch.tensor(normalized.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
