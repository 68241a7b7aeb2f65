"""Small images for the tests of the data side."""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth random RGB picture; smooth, so that JPEG keeps it well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def photo_folder(root: Path, counts: dict[str, int], width: int = 40, height: int = 32) -> Path:
    """A folder of JPEG files, `counts` a class, all different."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            photo(width, height, seed=1000 * label + number).save(root / name / f"{number:03}.jpg", quality=95)
    return root
