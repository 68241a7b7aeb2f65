import hashlib
import sys
from pathlib import Path

import pytest

from converters.sources import hash_in_name, locate
from converters.torchvision import OTHER_WEIGHTS, WEIGHTS, weights_url
from jaxft.errors import UserError
from jaxft.models import list_models
from jaxft.models.detectors.torchvision import PRESETS
from tests.web import NOWHERE, served

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_a_path_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert locate("runs/a.pth") == Path("runs/a.pth")
    assert locate("~/a.pth") == Path("/home/someone/a.pth")


def test_a_file_inside_a_package() -> None:
    assert locate("package://converters/rules.py") == Path(__file__).parents[2] / "converters" / "rules.py"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package://no_such_package/a.pth", "no_such_package is not installed; pip install no-such-package"),
        ("package://../a.pth", "is not installed"),
        ("package://", "is not installed"),
        ("package://difflib/a.pth", "is not installed"),
        ("package://converters/a.pth", r"the installed package converters holds no file a\.pth"),
        ("package://converters", "holds no file"),
        ("s3://bucket/a.pth", r"starts with s3://, which is no source of weights; use a path, http\(s\)://"),
        ("torchvision://resnet81", "no weights of 'resnet81' are known; the nearest are resnet18"),
        ("torchvision://zzz", "the nearest are alexnet, convnext_base"),
        ("torchvision://resnet50/V3", "resnet50 has the weights IMAGENET1K_V1, IMAGENET1K_V2"),
    ],
)
def test_what_cannot_be_found_is_named(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        locate(source)


@pytest.fixture
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)


def addresses(model: str) -> dict[str, str]:
    return {weights: weights_url(f"{model}/{weights}") for weights in WEIGHTS[model]} | {"": weights_url(model)}


def test_the_built_in_list_says_what_torchvision_says(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")
    detectors = {*list_models("detection")} & WEIGHTS.keys()
    assert WEIGHTS.keys() - detectors == set(models.list_models(module=models))
    assert detectors == {builder.__name__ for builder in PRESETS}
    asked = {model: addresses(model) for model in WEIGHTS}
    for model in WEIGHTS:
        weights = models.get_model_weights(model)
        urls = {entry.name: entry.url for entry in weights} | {"": weights.DEFAULT.url}
        assert asked[model] == urls
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert {model: addresses(model) for model in WEIGHTS} == asked


def test_the_list_of_other_models_says_what_torchvision_says() -> None:
    models = pytest.importorskip("torchvision.models")
    readable = {name for name in models.list_models() if not name.startswith("quantized_")}
    assert readable == WEIGHTS.keys() | OTHER_WEIGHTS.keys()
    assert not WEIGHTS.keys() & OTHER_WEIGHTS.keys()
    for model in OTHER_WEIGHTS:
        weights = models.get_model_weights(model)
        asked = {name: weights_url(f"{model}/{name}") for name in OTHER_WEIGHTS[model]} | {"": weights_url(model)}
        assert asked == {entry.name: entry.url for entry in weights} | {"": weights.DEFAULT.url}


@pytest.mark.usefixtures("no_torchvision")
def test_torchvisions_weights_come_from_its_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path))
    monkeypatch.setattr("converters.torchvision.BASE", f"{NOWHERE}/models/")
    with pytest.raises(UserError) as error:
        locate("torchvision://resnet18")
    file = tmp_path / "weights" / "resnet18-f37072fd.pth"
    assert str(error.value) == (
        f"{NOWHERE}/models/resnet18-f37072fd.pth could not be downloaded (no connection). "
        f"Without a network, put the file at {file}."
    )
    # A file put there by hand is checked by the hash in its name.
    file.write_bytes(CONTENT)
    with pytest.raises(UserError, match=f"its sha256 is {SHA256}, not f37072fd"):
        locate("torchvision://resnet18")


def test_a_url_is_checked_and_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    site = tmp_path / "site"
    site.mkdir()
    named, misnamed = f"net-{SHA256[:8]}.pth", "net-01234567.pth"
    for name in ("a.pth", named, misnamed):
        (site / name).write_bytes(CONTENT)
    with served(site) as (url, asked):
        for name, sha256 in (("a.pth", None), ("a.pth", SHA256), (named, None)):
            path = locate(f"{url}/{name}", sha256)
            assert path == tmp_path / "cache" / "weights" / name
            assert path.read_bytes() == CONTENT
        assert asked == ["/a.pth", f"/{named}"]
        with pytest.raises(UserError, match=r"not the file that was expected.*not 01234567"):
            locate(f"{url}/{misnamed}")
        assert locate(f"{url}/{misnamed}", SHA256[:10]).read_bytes() == CONTENT
        with pytest.raises(UserError, match="not the file that was expected"):
            locate(f"{url}/a.pth", "0" * 64)
    assert locate(f"{url}/{named}").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("resnet18-f37072fd.pth", "f37072fd"),
        ("resnet18-5c106cde.pth", "5c106cde"),
        ("resnet18.pth", None),
        ("resnet-final.pth", None),
        ("deadbeef.pth", "deadbeef"),
        ("net-F37072FD.pth", None),
        ("net-1234567.pth", None),
    ],
)
def test_the_hash_in_a_name(name: str, digits: str | None) -> None:
    assert hash_in_name(f"https://example.org/{name}") == digits
