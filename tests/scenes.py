"""Small photos with colored rectangles in COCO's and VOC's layout, and a small detector: for the tests of detection.

`python -m tests.scenes ARGUMENTS` is `python -m jaxft.train` that also knows the small detector.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from PIL import Image

from jaxft import train
from jaxft.cli import run_command
from jaxft.models import BUILDERS
from jaxft.models.detectors.types import Detections, Targets
from jaxft.models.layers import BatchNorm, Conv

CLASSES = ("disc", "square")
IDS = (3, 7)  # category ids with gaps
CELL, FOUND = 8, 6
TRAIN_COUNTS = (0, 1, 2, 3, 4, 1, 0, 7, 2, 2, 1, 5)  # objects of each photo; every third is a portrait


class Finder(nnx.Module):
    """Says of every cell of 8 pixels whether the middle of an object of each class is near; as small as can be."""

    def __init__(self, num_classes: int = 2, *, rngs: nnx.Rngs) -> None:
        self.backbone = Conv(3, 8, CELL, stride=CELL, bias=False, rngs=rngs)
        self.bn = BatchNorm(8)
        self.bbox_head = Conv(8, num_classes, 3, padding=1, rngs=rngs)
        self.rngs = rngs.dropout.fork()

    def _logits(self, images: Array) -> Array:
        return self.bbox_head(nnx.relu(self.bn(self.backbone(images))))

    def loss(self, images: Array, sizes: Array, targets: Targets) -> dict[str, Array]:
        logits = self._logits(images)
        rows, columns = (CELL * jnp.arange(length) + CELL / 2 for length in logits.shape[1:3])
        y, x = rows[None, :, None, None], columns[None, None, :, None]
        x0, y0, x1, y1 = (edge[:, None, None, :] for edge in jnp.moveaxis(targets.boxes, -1, 0))
        inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)  # [N, h, w, G]
        counted = targets.valid[:, None, None, :, None] & (
            targets.labels[:, None, None, :, None] == jnp.arange(logits.shape[-1])[None, None, None, None]
        )
        wanted = (inside[..., None] & counted).any(3)
        weight = jax.random.uniform(self.rngs(), logits.shape, minval=0.5, maxval=1.5)
        losses = weight * jnp.logaddexp(0, jnp.where(wanted, -logits, logits))
        return {"loss_cls": losses.mean(), "s0.loss_bbox": 0.1 * (logits**2).mean(), "acc": wanted.mean()}

    def predict(self, images: Array, sizes: Array) -> Detections:
        logits = self._logits(images)
        n, _, width, classes = logits.shape
        scores, place = jax.lax.top_k(jax.nn.sigmoid(logits).reshape(n, -1), FOUND)
        x, y = CELL * (place // classes % width) + CELL / 2, CELL * (place // classes // width) + CELL / 2
        corners = jnp.stack([x - CELL, y - CELL, x + CELL, y + CELL], -1).astype(jnp.float32)
        valid = (x < sizes[:, 1:]) & (y < sizes[:, :1])
        return Detections(corners, scores, (place % classes).astype(jnp.int32), valid)


BUILDERS["finder"] = Finder  # type: ignore[assignment]

CONFIG = """
from jaxft.config import Config, Data, Detection, Images, Model, Optimizer, Phase

config = Config(
    model=Model(name={model!r}),
    data=Data(source="coco", root={root!r}, image_folder="photos", batch_size=4),
    task=Detection(scales=((64, 48), (56, 40)), test_scale=(64, 48), max_objects=5, divisor=16),
    optimizer=Optimizer(learning_rate=0.05, momentum=0.9, clip_norm=10.0),
    phases=(Phase(epochs=2),),
    log_every=1,
)
"""


def write_config(path: Path, root: Path, *, model: str = "finder") -> Path:
    """A configuration file for `write_coco`'s photos."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CONFIG.format(model=model, root=str(root)))
    return path


def write_coco(root: Path, counts: Sequence[int], split: str, *, side: int = 48, seed: int = 0) -> dict[str, Any]:
    """Photos with so many rectangles each, every third one a portrait; returns the content of the JSON file.

    The last rectangle of a photo with more than two is a crowd, given as a run-length code.
    """
    rng = np.random.default_rng([seed, len(split)])
    (root / "photos").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, count in enumerate(counts):
        height, width = (side * 4 // 3, side) if number % 3 == 2 else (side, side * 4 // 3)
        pixels = rng.integers(0, 90, (height, width, 3))
        name = f"{split}{number}.png"
        images.append({"id": 100 + 3 * number, "file_name": name, "height": height, "width": width})
        for index in range(count):
            w, h = rng.integers(8, 20, 2).tolist()
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            label = int(rng.integers(2))
            pixels[y : y + h, x : x + w, label] = 240
            crowd = count > 2 and index == count - 1
            mask = np.zeros((height, width), np.uint8)
            mask[y : y + h, x : x + w] = 1
            annotation = {
                "id": len(annotations) + 1,
                "image_id": 100 + 3 * number,
                "category_id": IDS[label],
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(crowd),
                "segmentation": run_lengths(mask) if crowd else [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            annotations.append(annotation)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / name)
    categories = [{"id": number, "name": name} for number, name in zip(IDS, CLASSES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(root, split, content)
    return content


def write_json(root: Path, split: str, content: object) -> Path:
    """The annotation file of a split."""
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(content))
    return file


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed code of a mask `[H, W]`: lengths of runs of 0 and 1 in turn, column by column."""
    bits = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(bits)) + 1
    runs = np.diff([0, *ends, len(bits)]).tolist()
    return {"size": list(mask.shape), "counts": runs if bits[0] == 0 else [0, *runs]}


VOC_OBJECT = """  <object>
    <name>{name}</name><difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  </object>
"""


def write_voc(root: Path, photos: dict[str, list[tuple[str, int, tuple[int, ...]]]], split: str = "train") -> Path:
    """Photos of 40 x 30 pixels with objects (name, difficult, xmin ymin xmax ymax) in VOC's layout."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, objects in photos.items():
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(root / "JPEGImages" / f"{stem}.jpg")
        entries = "".join(VOC_OBJECT.format(name=name, difficult=hard, box=box) for name, hard, box in objects)
        size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
        text = f"<annotation>\n  <filename>{stem}.jpg</filename>{size}\n{entries}</annotation>\n"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(photos) + "\n")
    return root


if __name__ == "__main__":
    run_command(train.main)


def copied(scenes: Path, tmp_path: Path) -> Path:
    shutil.copytree(scenes, tmp_path / "scenes")
    return tmp_path / "scenes"


def with_content(change: Callable[[dict], object], split: str = "train") -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        change(content)
        write_json(root, split, content)

    return apply
