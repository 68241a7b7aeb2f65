"""`python -m tests.training.detector_steps`: steps of narrow detectors on one device and on four, and what travels.

Prints a JSON object: for each detector the bytes of its gradients and statistics, the collectives of its compiled
programs, and how far what four devices say lies from what one says; with `--all` each detector in each layout. To be
run with four CPU devices, in float64.
"""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxft.config import Config, Optimizer, Phase, Rule
from jaxft.models.paths import values
from jaxft.models.streams import initial_rngs
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.task import DetectionTask
from jaxft.training.layout import DATA, FSDP, Layout, one_device
from jaxft.training.optim import set_modes
from jaxft.training.stages import lay_out
from jaxft.training.state import initial_state
from jaxft.training.step import Compiled, StepInputs, key_data, predict_step, train_step
from tests.models.detectors.narrow import CLASSES, mask_rcnn, retinanet

IMAGES, OBJECTS, HEIGHT, WIDTH = 4, 3, 64, 96
DETECTORS: dict[str, Callable[[nnx.Rngs], Any]] = {
    "retinanet": retinanet,
    "mask_rcnn": mask_rcnn,
}
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def batch(masks: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    low, sides = random.uniform(0, 40, (IMAGES, OBJECTS, 2)), random.uniform(8, 24, (IMAGES, OBJECTS, 2))
    arrays = {
        "image": random.integers(0, 256, (IMAGES, HEIGHT, WIDTH, 3)).astype(np.uint8),
        "size": np.array([(HEIGHT, WIDTH), (60, 70), (50, 96), (64, 80)], np.int32),
        "boxes": np.concatenate([low, low + sides], -1).astype(np.float32),
        "label": random.integers(0, CLASSES, (IMAGES, OBJECTS)).astype(np.int32),
        "valid": np.arange(OBJECTS)[None] < np.array([[3], [0], [1], [2]]),
        "ignored": np.zeros((IMAGES, OBJECTS), bool),
    }
    if masks:
        arrays["masks"] = random.integers(0, 256, (IMAGES, OBJECTS, HEIGHT, WIDTH // 8)).astype(np.uint8)
    return arrays


def collectives(text: str) -> list[tuple[str, str, int]]:
    """Kind, shapes and bytes of every result of a collective in compiled HLO."""
    found = []
    for line in text.splitlines():
        match = re.match(rf"\s*(?:ROOT )?%?\S+ = (.*?) ({KINDS})(?:-start)?\(", line)
        if match:
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1]):
                size = BYTES[dtype] * int(np.prod([int(side) for side in shape.split(",") if side], initial=1))
                found.append((match[2], shape, size))
    return found


class Detector:
    """A narrow detector with its weights in float64, and its compiled steps on so many devices."""

    def __init__(self, name: str) -> None:
        self.masks = name == "mask_rcnn"
        self.model = DETECTORS[name](initial_rngs(0))
        self.task = DetectionTask(Detection(masks=self.masks), "float64")
        self.arrays = {
            path: np.asarray(value, np.float64 if value.dtype == np.float32 else value.dtype)
            for path, value in values(self.model).items()
        }

    def trained(self, layout: Layout) -> tuple[dict[str, Any], str]:
        """Gradients and metrics of a step, and its program."""
        parameters = values(self.model, nnx.Param)
        shapes = {path: value.shape for path, value in parameters.items()}
        config = Config(optimizer=Optimizer(learning_rate=1.0), phases=(Phase(rules=(Rule(pattern="*"),)),))
        (stage,) = lay_out(config, shapes, steps_per_epoch=10)
        set_modes(self.model, stage.groups, stage.batch_norm)
        placed = layout.place(self.arrays)
        params = {path: placed[path] for path in parameters}
        stats = {path: array for path, array in placed.items() if path not in params}
        state = initial_state(stage, params, stats, layout, ema=False)
        function = train_step(self.model, self.task.loss, stage.groups.trained, stage.chain, gathered=layout.gathered)
        arguments = state, layout.batch(batch(self.masks)), StepInputs(key_data(0), stage.numbers(0))
        program = Compiled(function, updates_state=True).compiler(*arguments)()
        after, metrics = program(*arguments)
        gradients = {path: self.arrays[path] - np.asarray(array) for path, array in after.params.items()}
        statistics = {path: np.asarray(array) for path, array in after.stats.items()}
        return gradients | statistics | {name: np.asarray(value) for name, value in metrics.items()}, program.as_text()

    def predicted(self, layout: Layout) -> tuple[dict[str, Any], str]:
        """What is found in a batch, and the program."""
        model = nnx.clone(self.model)
        model.eval()
        images = {name: array for name, array in batch(False).items() if name in ("image", "size")}
        arguments = layout.place(self.arrays), layout.batch(images)
        program = Compiled(predict_step(model, self.task.predict)).compiler(*arguments)()
        return {name: np.asarray(value) for name, value in program(*arguments).items()}, program.as_text()


def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of two sets of arrays, in units of the largest number of each array."""
    assert one.keys() == other.keys()
    wide = [(np.asarray(one[name], np.float64), np.asarray(other[name], np.float64)) for name in one]
    return max(float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-3)) for x, y in wide)


def measured(name: str, layouts: dict[str, dict[str, Layout]]) -> dict[str, Any]:
    """By the kind of a step, the layouts that are compared with one device."""
    detector, found = Detector(name), {}
    parameters = values(detector.model, nnx.Param).keys()
    for kind, run in (("train", detector.trained), ("predict", detector.predicted)):
        if not layouts[kind]:
            continue
        alone, _ = run(one_device())
        for where, layout in layouts[kind].items():
            result, text = run(layout)
            found[f"{kind} {where}"] = {"apart": apart(alone, result), "collectives": collectives(text)}
        found[kind] = {"finite": all(np.isfinite(value).all() for value in alone.values()), **{
            name: float(value.sum()) for name, value in alone.items() if "loss" in name or name == "valid"
        }}  # fmt: skip
    found["gradients"] = sum(detector.arrays[path].nbytes for path in parameters)
    found["statistics"] = sum(array.nbytes for array in detector.arrays.values()) - found["gradients"]
    found["shapes"] = sorted({",".join(map(str, array.shape)) for array in detector.arrays.values()})
    return found


def main() -> None:
    devices = np.array(jax.devices())
    four = {"four": Layout(Mesh(devices, (DATA,)))}
    fsdp = {"fsdp": Layout(Mesh(devices.reshape(1, 4), (DATA, FSDP)))}
    if "--all" in sys.argv:
        found = {name: measured(name, {"train": four | fsdp, "predict": four}) for name in DETECTORS}
    else:
        found = {
            "retinanet": measured("retinanet", {"train": four, "predict": four}),
            "mask_rcnn": measured("mask_rcnn", {"train": fsdp, "predict": {}}),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
