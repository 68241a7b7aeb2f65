"""Training and inference steps of detectors against torchvision's in the same run, on the device that JAX uses.

    python -m benchmarks.detectors

The ratio is torchvision's seconds divided by ours: 1.0 is as fast, 0.5 takes twice as long. Both sides have the same
weights, the same photos (of noise) and the same boxes, and the settings that torchvision trains with: proposals,
samples, losses and non-maximum suppression are all part of a step. Convolutions are float32 on both sides; on an NVIDIA
GPU both may use TF32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision
import tyro
from flax import nnx
from rich.live import Live
from rich.table import Table

from benchmarks.steps import OPTIMIZER, our_training
from benchmarks.timing import interleaved
from converters import load_pretrained
from jaxft import config
from jaxft.models import BUILDERS, abstract_model, initialize_missing
from jaxft.models.paths import filled, values
from jaxft.models.streams import initial_rngs
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.task import DetectionTask

TASK = DetectionTask(Detection())
CLASSES, BOXES, CAP = 20, 8, 16
Program = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times steps of training and inference of torchvision's detectors."""

    models: tuple[str, ...] = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
    """Names of detectors."""
    batch: int = 2
    """Photos a step."""
    height: int = 320
    """Of the photos, pixels; a multiple of 32."""
    width: int = 416
    """Of the photos, pixels; a multiple of 32."""
    rounds: int = 3
    """Timed runs of each program, in turn."""


def random_batch(options: Options) -> dict[str, np.ndarray]:
    """Photos with eight boxes each, as the loop gives them to a step."""
    random = np.random.default_rng(0)
    shape = (options.batch, options.height, options.width)
    corner = random.uniform(0, 0.6, (options.batch, CAP, 2)) * (options.width, options.height)
    side = random.uniform(0.1, 0.4, (options.batch, CAP, 2)) * (options.width, options.height)
    valid = np.broadcast_to(np.arange(CAP) < BOXES, (options.batch, CAP))
    return {
        "image": random.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "size": np.full((options.batch, 2), shape[1:], np.int32),
        "boxes": np.concatenate([corner, corner + side], -1).astype(np.float32),
        "label": random.integers(0, CLASSES, (options.batch, CAP)).astype(np.int32),
        "valid": np.array(valid),
        "ignored": np.zeros((options.batch, CAP), bool),
    }


def their_programs(model: Any, batch: dict[str, np.ndarray], background: bool) -> dict[str, Program]:
    """torchvision's training and inference step."""
    device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=OPTIMIZER.weight_decay)
    photos = list(torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(device, torch.float32) / 255)
    targets = [
        {
            "boxes": torch.from_numpy(boxes[:BOXES]).to(device),
            "labels": torch.from_numpy(labels[:BOXES]).long().to(device) + background,
        }
        for boxes, labels in zip(batch["boxes"], batch["label"], strict=True)
    ]

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def training() -> None:
        model.train()
        optimizer.zero_grad()
        sum(model(photos, targets).values()).backward()
        optimizer.step()
        finish()

    def inference() -> None:
        model.eval()
        with torch.inference_mode():
            model(photos)
        finish()

    return {"training": training, "inference": inference}


def our_programs(model: Any, batch: dict[str, np.ndarray]) -> dict[str, Program]:
    """Our training and inference step, as the loop compiles them."""
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    inference_model = nnx.clone(model)
    inference_model.eval()

    @jax.jit
    def predict(weights: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
        return TASK.predict(filled(inference_model, weights), batch)

    weights = values(model)
    rules = (config.Rule(pattern="*", lr_scale=1e-3),)
    training = our_training(model, TASK, OPTIMIZER, rules, arrays)
    return {"training": training, "inference": lambda: jax.block_until_ready(predict(weights, arrays))}


def freeze_norms(model: "torch.nn.Module") -> None:
    """Constants in the place of every BatchNorm, which torchvision has wherever it starts from weights."""
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, torch.nn.BatchNorm2d):
                setattr(owner, name, torchvision.ops.FrozenBatchNorm2d(layer.num_features))


def programs(name: str, options: Options) -> dict[str, dict[str, Program]]:
    """Both sides' steps of one detector, with the same weights."""
    background = "rcnn" in name
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(
        name,
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + background,
        trainable_backbone_layers=5,
        min_size=options.height,
        max_size=options.width,
    )
    freeze_norms(theirs)
    ours = abstract_model(name, CLASSES)
    load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    initialize_missing(ours, lambda: BUILDERS[name](CLASSES, rngs=initial_rngs(0)))
    batch = random_batch(options)
    sides = {"theirs": their_programs(theirs, batch, background), "ours": our_programs(ours, batch)}
    return {step: {side: sides[side][step] for side in sides} for step in ("training", "inference")}


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    where = jax.devices()[0].device_kind
    title = f"{options.batch} photos of {options.height} x {options.width}, {where}, median of {options.rounds}"
    table = Table("model", "step", "torchvision, s", "jaxft, s", "ratio", title=title)
    with Live(table, refresh_per_second=1):
        for name in options.models:
            for step, both in programs(name, options).items():
                seconds = interleaved(both, options.rounds)
                ratio = seconds["theirs"] / seconds["ours"]
                table.add_row(name, step, f"{seconds['theirs']:.3f}", f"{seconds['ours']:.3f}", f"{ratio:.2f}")


if __name__ == "__main__":
    main()
