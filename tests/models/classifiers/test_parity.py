"""Whole models against live PyTorch; the full ones by hand, `pytest -m zoo`."""

import time

import jax
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, survey
from converters.report import Report
from converters.verify import compare, precision, verify
from converters.verify_reference import perturb
from jaxft.models import FAMILIES, class_layers, initialize_missing
from tests.models.classifiers import shallow

torch = pytest.importorskip("torch")
shallow_torch = pytest.importorskip("tests.models.classifiers.shallow_torch")

# Factors on the tolerances. The 1/6 in PyTorch's gradient of Hardsigmoid is that of float32 also in float64.
HARD_SIGMOID = 100.0
SLACK = {
    ("mobilenet_v3", "float64"): HARD_SIGMOID,
    # Gradients through eleven blocks of ReLUs, some of which sit on their kinks.
    ("inception", "float32"): 10.0,
    # With depthwise channels that are almost always 0, PyTorch's own float32 gradients are as far from its float64.
    ("mnasnet", "float32"): 10.0,
}


def check(report: Report, dtype: str, slack: float = 1.0) -> None:
    """Every figure of a report against the tolerances of its precision."""
    single = dtype == "float32"
    found = {
        **{stage: (value, 1e-5 if single else 1e-9) for stage, value in report.stages.items()},
        "logits": (report.logits, 1e-5 if single else 1e-9),
        "loss": (report.loss, 1e-5 if single else 1e-9),
        f"gradient of {report.gradients[1]}": (report.gradients[0], 1e-4 if single else 1e-9),
        f"statistics {report.statistics[1]}": (report.statistics[0], 1e-5 if single else 1e-9),
        f"three steps, {report.steps[1]}": (report.steps[0], 1e-5 if single else 1e-9),
    }
    print({name: f"{value:.1e}" for name, (value, _) in found.items()}, f"{report.seconds:.0f} s")
    assert {name: value for name, (value, tolerance) in found.items() if not value < slack * tolerance} == {}
    assert report.round_trip


# In float64 an error cannot hide in rounding. The precision that runs use is tried on two of the ordinary tests.
BOTH = ("vit", "efficientnet")
# For time's sake: vgg_bn and regnet_y have all of their parts.
BY_HAND = ("vgg", "regnet_x")


def ordinary(name: str, dtype: str) -> bool:
    """Whether a case belongs to the ordinary tests."""
    return name not in BY_HAND and (dtype == "float64" or name in BOTH)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[] if ordinary(name, dtype) else [pytest.mark.zoo])
        for name in shallow.NETS
        for dtype in ("float32", "float64")
    ],
)
def test_a_shallow_model_is_pytorchs(name: str, dtype: str) -> None:
    net = shallow.NETS[name]
    torch.manual_seed(0)
    theirs = shallow_torch.NETS[name]()
    with torch.no_grad():
        perturb(theirs, 0)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (8, net.size, net.size, 3), dtype=np.uint8)
    labels = random.integers(0, shallow.CLASSES, 8).astype(np.int32)
    with precision(dtype):
        ours = nnx.eval_shape(lambda: net.build(shallow.CLASSES))
        load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
        initialize_missing(ours, lambda: net.build(shallow.CLASSES))
        heads = class_layers(lambda classes: nnx.eval_shape(lambda: net.build(classes)))
        report = compare("shallow", theirs, ours, heads, pixels, labels, dtype, time.perf_counter())
        check(report, dtype, SLACK.get((name, dtype), 1.0))


@pytest.mark.zoo
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [builder.__name__ for family in FAMILIES for builder in family.PRESETS])
def test_a_full_model_is_pytorchs(name: str, dtype: str) -> None:
    try:
        size, batch = survey.images(name)
        report = verify(name, size=size, batch=batch, dtype=dtype)
        if dtype == "float64":
            check(report, dtype, HARD_SIGMOID if name.startswith("mobilenet_v3") else 1.0)
        assert survey.misses(report) == []
    finally:
        jax.clear_caches()
