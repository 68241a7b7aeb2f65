"""MMDetection's configurations with changes of a test's own."""

from pathlib import Path

BASE = "_base_ = 'mmdet::{}'\n"
RETINA = "retinanet/retinanet_r50_fpn_1x_coco.py"


def written(folder: Path, base: str, text: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(BASE.format(base) + text)
    return path
