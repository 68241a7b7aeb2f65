"""A user's datasets that a task cannot use: one sentence, before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft import ArrayDataset
from jaxft.config import Classification, Config, Data, Detection, Images, Model, replace
from jaxft.errors import UserError
from jaxft.training.loop import fit

CLASSES = ("a", "b")
CONFIG = Config(
    task=Classification(images=Images(crop=64, resize=64)), model=Model(name="squeezenet1_1"), data=Data(batch_size=4)
)
IMAGE = np.zeros((64, 64, 3), np.uint8)


def pair(train: dict[str, Any], validation: dict[str, Any] | None = None) -> tuple[ArrayDataset, ArrayDataset]:
    return ArrayDataset([train] * 4, CLASSES), ArrayDataset([validation or train] * 4, CLASSES)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        (pair({"x": IMAGE}), "The task needs an array 'image' of each example, but your dataset has x;"),
        (pair({"image": IMAGE}), "The task needs an array 'label' of each example, but your dataset has image;"),
        (pair({"image": IMAGE}, {"image": IMAGE, "label": 1}), "needs an array 'label'"),
        (pair({"image": IMAGE, "label": [1]}), r"for labels of the shape \([12], 1\)"),
        (pair({"image": IMAGE, "label": [1]}, {"image": IMAGE, "label": 1}), r"for labels of the shape \([12], 1\)"),
    ],
)
def test_arrays_that_the_task_needs_are_named(tmp_path: Path, datasets: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(CONFIG, tmp_path / "run", datasets=datasets)
    assert not (tmp_path / "run").exists()


def test_detection_makes_its_datasets_itself(tmp_path: Path) -> None:
    config = replace(CONFIG, {"task": Detection(), "model.name": "retinanet_efficientnet_lite0_fpn"})
    with pytest.raises(UserError, match=r"makes its datasets itself .* yours is of the kind ArrayDataset"):
        fit(config, tmp_path / "run", datasets=pair({"image": IMAGE, "label": 0}))
    assert not (tmp_path / "run").exists()
