"""Temperature, negative log-likelihood, expected calibration error and Brier score against SciPy, PyTorch and
scikit-learn; and the command."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics
import torch
from PIL import Image

import jaxft
from jaxft import calibrate, export
from jaxft.calibration import bins, fitted, scores
from jaxft.errors import UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.predict import main as predict_main
from jaxft.reporting.reliability import BINS
from jaxft.tasks.views import Link
from tests.small import CLASSES, call, user_error

pytest_plugins = ("tests.runs", "tests.detector_runs")

LAST = ("--checkpoint", "last")
LINKS: tuple[Link, Link] = ("softmax", "sigmoid")


def drawn(link: Link, examples: int = 400, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure by about 2.5, and labels drawn from the probabilities that they should have had."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (examples, classes))
    if link == "sigmoid":
        return 2.5 * true, (rng.uniform(size=true.shape) < 1 / (1 + np.exp(-true))).astype(np.float32)
    return 2.5 * true, (true + rng.gumbel(size=true.shape)).argmax(1)


def their_loss(link: Link, logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scaled = torch.tensor(logits) / temperature
    if link == "sigmoid":
        return float(torch.nn.functional.binary_cross_entropy_with_logits(scaled, torch.tensor(labels).double()))
    return float(torch.nn.functional.cross_entropy(scaled, torch.tensor(labels)))


def their_probabilities(link: Link, logits: np.ndarray) -> np.ndarray:
    given = torch.tensor(logits)
    return (given.sigmoid() if link == "sigmoid" else given.softmax(1)).numpy()


@pytest.mark.parametrize("link", LINKS)
def test_the_temperature_is_the_optimum_that_scipy_finds(link: Link) -> None:
    logits, labels = drawn(link)
    found = fitted(logits, labels, link)
    theirs = scipy.optimize.minimize_scalar(
        lambda logarithm: their_loss(link, logits, labels, float(np.exp(logarithm))),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found == pytest.approx(float(np.exp(theirs.x)), rel=1e-6)
    assert 2 < found < 3
    assert fitted(logits * 20, labels, link) == pytest.approx(20 * found, rel=1e-9)


@pytest.mark.parametrize("link", LINKS)
def test_figures_are_those_of_scikit_learn_and_of_the_paper(link: Link) -> None:
    logits, labels = drawn(link)
    for temperature in (1.0, 2.5):
        ours = scores(logits, labels, link, temperature)
        probabilities = their_probabilities(link, logits / temperature)
        assert ours.nll == pytest.approx(their_loss(link, logits, labels, temperature), rel=1e-12)
        if link == "softmax":
            brier = sklearn.metrics.brier_score_loss(labels, probabilities, scale_by_half=False)
            assert ours.nll == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), rel=1e-9)
            sure, right = probabilities.max(1), probabilities.argmax(1) == labels
        else:
            columns = zip(labels.T, probabilities.T, strict=True)
            brier = np.mean([sklearn.metrics.brier_score_loss(*column) for column in columns])
            sure, right = probabilities.ravel(), labels.ravel() == 1
        assert ours.brier == pytest.approx(brier, rel=1e-12)
        error = 0.0
        for low in np.arange(BINS) / BINS:
            inside = (sure > low) & (sure <= low + 1 / BINS)
            if inside.any():
                error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
        assert ours.ece == pytest.approx(error, rel=1e-9)
    assert scores(logits, labels, link, 2.5).ece < scores(logits, labels, link).ece / 2


def test_bins_are_closed_to_the_right_and_may_be_empty() -> None:
    logits, labels = np.array([[np.log(2.0), 0.0], [0.0, 0.0], [500.0, 0.0]]), np.array([0, 1, 0])
    found = bins(logits, labels, "softmax")
    assert found.members.sum() == 3
    assert found.members[-1] == 1  # of a probability of 1
    assert found.members[7] == 1  # of 1 / 2, which is between 7 / 15 and 8 / 15
    assert np.isnan(found.said[0])
    assert found.error == pytest.approx((1 / 3 + 1 / 2) / 3)


def test_what_has_no_optimum_or_no_labels_is_refused() -> None:
    logits, labels = np.eye(3) * 5, np.arange(3)
    with pytest.raises(UserError, match="right on all 3 examples, or nearly so"):
        fitted(logits, labels, "softmax")
    with pytest.raises(UserError, match="The less sure the model is on these 3 examples, the better"):
        fitted(-logits, labels, "softmax")
    with pytest.raises(UserError, match="1 of 3 examples have no ground truth"):
        fitted(logits, np.array([0, -1, 2]), "softmax")
    with pytest.raises(UserError, match="1 of 3 examples have no ground truth"):
        fitted(logits, np.array([[0, 0, 1], [0, np.nan, 1], [1, 1, 1]]), "sigmoid")


@pytest.fixture(scope="module")
def hard(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a split in which two photos of each class lie in another one's, so that nobody is right on all."""
    root = tmp_path_factory.mktemp("hard")
    for number, name in enumerate(CLASSES):
        shutil.copytree(photos / "train" / name, root / "val" / name)
        (root / "val" / name / "00.jpg").unlink()
        (root / "val" / name / "01.png").unlink()
        for file in ("00.jpg", "01.png"):
            other = photos / "train" / CLASSES[number - 1] / file
            shutil.copy(other, root / "val" / name / f"other{file}")
    return root


@pytest.fixture(scope="module")
def calibrated(small_run: Path, hard: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A copy of the small run, and what the command printed of its last model."""
    run = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(small_run, run)
    result = call(calibrate.main, "--run", run, *LAST, "--root", hard, "--split", "val", "--json")
    assert result.code == 0, result
    return run, json.loads(result.out)


def test_the_command_writes_a_temperature_that_evaluation_takes(
    calibrated: tuple[Path, dict], photos: Path, hard: Path
) -> None:
    run, printed = calibrated
    written = json.loads((run / "calibration.json").read_text())
    assert written["temperature"] == printed["temperature"]
    assert (written["split"], written["examples"], written["checkpoint"]) == ("val", 24, "last")
    with Image.open(run / "pictures" / "reliability.png") as picture:
        assert picture.width > 500
    common = ("--run", run, *LAST, "--root", hard, "--split", "val", "--json")
    plain, divided = (
        json.loads(call(evaluate_main, *common, *more).out)["metrics"] for more in ((), ("--calibrated",))
    )
    assert plain["loss"] == pytest.approx(printed["before"]["nll"], rel=1e-5)
    assert divided["loss"] == pytest.approx(printed["after"]["nll"], rel=1e-5)
    assert divided["loss"] < plain["loss"]
    assert divided["accuracy"] == plain["accuracy"]
    one, other = (
        jaxft.predict(run, photos / "test" / "red", checkpoint="last", calibrated=on)[0]["probabilities"]
        for on in (False, True)
    )
    wanted = (torch.tensor(list(one.values())).log() / printed["temperature"]).softmax(0)
    np.testing.assert_allclose(list(other.values()), wanted, rtol=1e-5)


def test_a_temperature_is_of_one_checkpoint(calibrated: tuple[Path, dict], photos: Path, tmp_path: Path) -> None:
    run, _ = calibrated
    other = tmp_path / "run"
    shutil.copytree(run, other)
    file = other / "calibration.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"weights": "00000000", "step": 3}))
    common = ("--run", other, photos / "test" / "red", *LAST, "--calibrated")
    assert "is of the last checkpoint of step 3, and the model is another one" in user_error(
        call(predict_main, *common)
    )
    file.write_text("{}")
    assert "write it anew with jaxft calibrate" in user_error(call(predict_main, *common))


def test_an_exported_program_divides_and_a_state_dict_cannot(calibrated: tuple[Path, dict], tmp_path: Path) -> None:
    run, printed = calibrated
    common = ("--run", run, *LAST)
    message = user_error(call(export.main, *common, "--output", tmp_path / "a.pth", "--calibrated"))
    assert "have no place for a temperature" in message
    found = []
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    said = (f"are not divided by the temperature {printed['temperature']:.4f} (--calibrated does so)", "are divided")
    for number, (more, part) in enumerate(zip(((), ("--calibrated",)), said, strict=True)):
        file = tmp_path / f"{number}.stablehlo"
        result = call(export.main, *common, "--format", "stablehlo", "--output", file, *more)
        assert result.code == 0, result
        assert part in result.out
        found.append(np.asarray(jax.export.deserialize(bytearray(file.read_bytes())).call(pixels)))
    np.testing.assert_allclose(found[1] * printed["temperature"], found[0], rtol=1e-5)
    result = call(export.main, *common, "--output", tmp_path / "a.pth")
    assert "Its logits are not divided by the temperature" in result.out


def test_a_share_is_chosen_on_and_the_rest_reported(calibrated: tuple[Path, dict], hard: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(calibrated[0], run)
    common = ("--run", run, *LAST, "--root", hard, "--split", "val")
    result = call(calibrate.main, *common, "--share", 0.75)
    assert result.code == 0, result
    assert "chosen on val: 18 examples; the figures are of the other 6." in result.out
    assert "leaves none on one side" in user_error(call(calibrate.main, *common, "--share", 0.01))
    assert "--share is 2" in user_error(call(calibrate.main, *common, "--share", 2))


def test_tasks_without_logits_are_refused(detector_run: Path) -> None:
    message = user_error(call(calibrate.main, "--run", detector_run))
    assert "The task is detection, which has no logits" in message
    assert not (detector_run / "calibration.json").exists()
