"""`python -m converters`."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from flax import nnx

from converters.__main__ import Convert, Inspect, Verify, main
from converters.exports import export
from converters.files import read, write
from converters.ledger import MismatchError
from jaxft.data.preprocessing import Preprocessing
from jaxft.errors import UserError
from jaxft.models import BUILDERS, create_model
from jaxft.models.paths import values
from tests.converters.tiny import Tiny, random_state, tiny


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a model that the commands know as `tiny`."""
    monkeypatch.setitem(BUILDERS, "tiny", Tiny)  # type: ignore[arg-type]
    path = tmp_path / "tiny.safetensors"
    write(random_state(tiny()), path)
    return path


def test_inspecting_a_checkpoint_lists_it_and_what_it_fits(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Inspect(source=str(checkpoint)).run()
    printed = capsys.readouterr().out
    assert "layer1.0.weight" in printed
    assert "4x3x3x2" in printed
    assert "15 tensors; fits: tiny" in printed


def test_inspecting_with_a_model_shows_where_each_tensor_goes(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Inspect(source=str(checkpoint), model="tiny", num_classes=9, skip=("fc",)).run()
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if "layer1.0.weight" in line]
    assert "mapped" in row
    assert "layer1.0.kernel" in row
    assert [line.split("│")[1].strip() for line in printed.splitlines() if "fc." in line] == [
        "skipped", "skipped", "new", "new"
    ]  # fmt: skip
    with pytest.raises(MismatchError, match=r"fc\.weight has shape \(2, 6\), the model wants \(9, 6\)"):
        Inspect(source=str(checkpoint), model="tiny", num_classes=9).run()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back_is_bit_for_bit(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".pth":
        pytest.importorskip("torch")
    flax, back = tmp_path / "flax.safetensors", tmp_path / f"back{suffix}"
    Convert(source=str(checkpoint), model="tiny", num_classes=2, to="flax", output=flax).run()
    assert read(flax).keys() == values(tiny()).keys()
    np.testing.assert_array_equal(read(flax)["fc.kernel"], read(checkpoint)["fc.weight"].T)
    Convert(source=str(flax), model="tiny", num_classes=2, to="torch", output=back).run()
    before, after = read(checkpoint), read(back)
    assert after.keys() == before.keys()
    assert all((after[key].dtype, after[key].tobytes()) == (before[key].dtype, before[key].tobytes()) for key in before)


def test_flax_parameters_that_do_not_fit_are_named(checkpoint: Path, tmp_path: Path) -> None:
    arrays = {path: np.asarray(value) for path, value in values(tiny(3)).items() if path != "bn1.var"}
    write(arrays | {"more": np.ones(1, np.float32)}, checkpoint)
    with pytest.raises(MismatchError, match=r"Flax parameters of this Tiny \(4 reasons\)\.") as caught:
        Convert(source=str(checkpoint), model="tiny", num_classes=2, to="torch", output=tmp_path / "out.pth").run()
    assert str(caught.value).splitlines()[1:] == [
        "  - bn1.var is missing there and (4,) here",
        "  - fc.bias is (3,) there and (2,) here",
        "  - fc.kernel is (6, 3) there and (6, 2) here",
        "  - more is (1,) there and missing here",
    ]
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_ten_reasons_of_flax_parameters_are_shown_and_the_others_counted(checkpoint: Path, tmp_path: Path) -> None:
    write({f"other.{number}": np.ones(1, np.float32) for number in range(3)}, checkpoint)
    with pytest.raises(MismatchError, match=r"\(18 reasons\)") as caught:
        Convert(source=str(checkpoint), model="tiny", num_classes=2, to="torch", output=tmp_path / "out.pth").run()
    assert len(str(caught.value).splitlines()) == 1 + 10 + 1
    assert str(caught.value).endswith("\n  - ... and 8 more")


def test_what_is_skipped_is_left_out_and_said(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flax, back = tmp_path / "flax.safetensors", tmp_path / "back.pth"
    # The head is of another number of classes than the model, and a layer is named by PyTorch's name alone.
    Convert(source=str(checkpoint), model="tiny", num_classes=5, to="flax", output=flax, skip=("@head",)).run()
    assert read(flax).keys() == {path for path in values(tiny()) if not path.startswith("fc.")}
    printed = capsys.readouterr().out
    assert "13 of 15 source keys mapped, 2 skipped; 2 of our leaves are new" in printed
    assert "left out of the source: fc.bias, fc.weight\n" in printed.replace("fc.weight, fc.bias", "fc.bias, fc.weight")
    assert "left out of the model: fc.bias, fc.kernel\n" in printed
    with pytest.raises(MismatchError, match=r"fc\.bias is missing there and \(5,\) here"):
        Convert(source=str(flax), model="tiny", num_classes=5, to="torch", output=back).run()
    skip = ("fc", "bn1.running_mean")
    Convert(source=str(flax), model="tiny", num_classes=5, to="torch", output=back, skip=skip).run()
    before = read(checkpoint)
    assert read(back).keys() == {key for key in before if not key.startswith("fc.") and key != "bn1.running_mean"}
    assert all(np.array_equal(array, before[key]) for key, array in read(back).items())
    printed = capsys.readouterr().out
    assert "left out of the source: bn1.mean\n" in printed
    assert "left out of the model: bn1.mean, fc.bias, fc.kernel\n" in printed


@pytest.mark.parametrize("to", ["flax", "torch"])
def test_a_skip_that_matches_nothing_is_an_error(
    checkpoint: Path, tmp_path: Path, to: Literal["flax", "torch"]
) -> None:
    if to == "torch":
        write({path: np.asarray(value) for path, value in values(tiny()).items()}, checkpoint)
    output = tmp_path / "out.safetensors"
    with pytest.raises(MismatchError, match="skip pattern 'head' matches nothing"):
        Convert(source=str(checkpoint), model="tiny", num_classes=2, to=to, output=output, skip=("head",)).run()
    Convert(source=str(checkpoint), model="tiny", num_classes=2, to=to, output=output, skip=("~head",)).run()
    assert len(read(output)) == 15


def test_inspecting_says_what_the_checkpoint_says_of_itself(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = create_model("tiny")
    export(model, checkpoint, classes=[f"c{n}" for n in range(12)], preprocessing=Preprocessing(size=32, resize=36))
    Inspect(source=str(checkpoint)).run()
    printed = capsys.readouterr().out
    assert "exported by jaxft: tiny\n" in printed
    assert "12 classes: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ...\n" in printed
    assert "preprocessing: size 32, resize 36" in printed
    export(tiny(), tmp_path / "m.pth", wrapped=True, mmdet={"type": "RetinaNet", "backbone": {"type": "ResNet"}})
    Inspect(source=str(tmp_path / "m.pth")).run()
    assert "exported by jaxft: RetinaNet of an MMDetection configuration\n" in capsys.readouterr().out
    write(random_state(tiny()), tmp_path / "theirs.pth", {"experiment_name": "faster-rcnn_1x_20240101", "model": 7})
    Inspect(source=str(tmp_path / "theirs.pth")).run()
    printed = capsys.readouterr().out
    assert "experiment: faster-rcnn_1x_20240101\n" in printed
    assert "exported by jaxft" not in printed


@pytest.mark.parametrize(
    ("name", "message"), [("there.safetensors", "exists already and is not overwritten"), ("a.npz", "ends otherwise")]
)
def test_an_output_is_refused_before_anything_is_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.safetensors").write_text("precious")
    with pytest.raises(UserError, match=message):
        Convert(source="missing.pth", model="tiny", to="flax", output=tmp_path / name).run()
    assert (tmp_path / "there.safetensors").read_text() == "precious"


@pytest.fixture
def two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mine`, which is its reference, and `slow`, whose BatchNorm has another momentum."""
    pytest.importorskip("torch")
    from tests.converters.test_verify import Ours, Theirs, momentum

    def slow(num_classes: int = 10, *, rngs: nnx.Rngs) -> Ours:
        model = Ours(num_classes, rngs=rngs)
        momentum(model)
        return model

    monkeypatch.setitem(BUILDERS, "mine", Ours)  # type: ignore[arg-type]
    monkeypatch.setitem(BUILDERS, "slow", slow)  # type: ignore[arg-type]
    monkeypatch.setattr("converters.verify.reference", lambda name, num_classes: Theirs())
    monkeypatch.setattr("converters.survey.images", lambda name: (8, 2))


@pytest.mark.usefixtures("two_models")
def test_verify_shows_one_model_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert Verify(model=("mine",), dtype="float64").run() == 0
    printed = capsys.readouterr().out
    assert "mine: 166 parameters" in printed
    assert "evaluation: logits" in printed
    assert "1 of 1 models within the limits" in printed
    with pytest.raises(UserError, match="no model named 'resnet81'"):
        Verify(model=("resnet81",)).run()
    with pytest.raises(UserError, match="nothing to verify; name models with --model, or take --all"):
        Verify().run()


@pytest.mark.usefixtures("two_models")
def test_verify_shows_many_models_a_line_each_and_fails_with_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Verify(model=("mine", "slow"), dtype="float64", markdown=tmp_path / "models.md").run() == 1
    printed = capsys.readouterr().out
    assert "1 of 2 models within the limits\n  slow: statistics" in printed
    lines = (tmp_path / "models.md").read_text().splitlines()
    assert "1 of 2 models within the limits" in lines
    (mine,) = [line.split(" | ") for line in lines if line.startswith("| mine")]
    assert mine[1] == "166"
    assert mine[-2] == "exact"
    assert all(float(figure) < 1e-12 for figure in mine[2:7])


@pytest.mark.usefixtures("two_models")
def test_a_model_that_cannot_be_verified_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("converters.survey.images", lambda name: (8 if name == "mine" else 0, 2))
    assert Verify(model=("slow", "mine"), dtype="float64").run() == 1
    printed = capsys.readouterr().out
    assert "1 of 1 models within the limits\nslow failed: " in printed


def test_the_command_line_reaches_the_command(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.safetensors"
    words = ["convert", str(checkpoint), "--model", "tiny", "--num-classes", "2", "--to", "flax", "--output"]
    monkeypatch.setattr(sys, "argv", ["converters", *words, str(output)])
    main()
    assert output.is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "nowhere.pth"], "error: nowhere.pth is missing; a checkpoint file was expected."),
        (["convert", "a.pth", "--model", "resnet81", "--to", "torch", "--output", "b.pth"],
         "error: There is no model named 'resnet81'; the nearest names are resnet18"),
    ],
)  # fmt: skip
def test_errors_end_with_code_2_and_one_sentence(words: list[str], message: str) -> None:
    command = [sys.executable, "-m", "converters", *words]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
