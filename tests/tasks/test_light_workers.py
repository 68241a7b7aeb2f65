"""Worker processes get a copy of a dataset; what they import to use it must stay light."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from jaxft.config import Classification, Data, Images
from jaxft.tasks import TaskFields
from jaxft.tasks.multilabel import Multilabel
from jaxft.tasks.regression import Regression
from tests.small import ROOT, environment

IMAGES = Images(crop=16, resize=16)
AUGMENTED = Images(crop=16, resize=16, policy="randaugment", color_jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5, erasing=0.5)
HEAVY = ("jax", "flax", "torch", "matplotlib", "sklearn")
PROGRAM = f"""
import pickle, sys
import numpy as np
dataset = pickle.load(sys.stdin.buffer)
example = dataset.training(3, np.random.default_rng(0))
dataset.report(8)
print([name for name in {HEAVY} if name in sys.modules], example["image"].sum(), example["label"].sum())
"""


@pytest.mark.parametrize(
    ("fields", "source"),
    [(Classification(images=AUGMENTED), "digits"), (Regression(images=IMAGES), "shapes"), (Multilabel(), "shapes")],
    ids=["classification", "regression", "multilabel"],
)
def test_a_dataset_works_in_a_process_without_jax(fields: TaskFields, source: str) -> None:
    dataset, _ = fields.task().datasets(Data(source=source), 0)
    example = dataset.training(3, np.random.default_rng(0))
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=pickle.dumps(dataset), env=environment(), cwd=ROOT, capture_output=True
    )
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().split() == ["[]", str(example["image"].sum()), str(example["label"].sum())]
