"""From what a person writes as the source of weights to a file on this machine, and to its tensors."""

import difflib
import importlib.util
import json
from pathlib import Path

from converters.files import State, holds_tensors_alone, read
from converters.torchvision import weights_url
from jaxft.download import cache_folder, fetch
from jaxft.errors import UserError

TORCHVISION = "torchvision://"


def load(source: str, sha256: str | None = None) -> State:
    """The tensors of what `locate` finds; `SOURCE#model_ema` chooses one of several state dicts in a `.pth`.

    Raises:
        UserError: it cannot be found or read.
    """
    place, mark, entry = source.partition("#")
    if not mark or Path(source).exists():
        return read(locate(source, sha256))
    return read(locate(place, sha256), entry)


def locate(source: str, sha256: str | None = None) -> Path:
    """The local file that `source` names, downloaded into the cache if need be.

    Args:
        source: a path; `http(s)://...`; `package://MODULE/FILE`, a file inside an installed package;
            `torchvision://NAME[/WEIGHTS]`; or `open-mmlab://NAME`, by the list of addresses that MMEngine brings.
        sha256: expected hash or its first digits; a URL that ends in `-0123abcd.pth` carries its own, as PyTorch's do.

    Raises:
        UserError: no such file, package or weights; no network; or the hash differs.
    """
    place = _place(source)
    if isinstance(place, Path):
        return place
    return fetch(place, cache_folder() / "weights", sha256 or hash_in_name(place))


def check(source: str) -> None:
    """Looks whether `source` names a checkpoint, as far as that is known from the first bytes and without a network.

    Raises:
        UserError: there is no such file, package or weights, or the file is of another kind.
    """
    place = _place(source if Path(source).exists() else source.partition("#")[0])
    if isinstance(place, Path):
        holds_tensors_alone(place)


def _place(source: str) -> Path | str:
    """The local path or the URL that `source` stands for."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return Path(source).expanduser()
    if scheme == "package":
        return _in_package(rest)
    if scheme == "torchvision":
        return weights_url(rest)
    if scheme in ("open-mmlab", "openmmlab"):
        return _place(_open_mmlab(rest))
    if scheme in ("http", "https"):
        return source
    raise UserError(
        f"{source} starts with {scheme}://, which is no source of weights; "
        "use a path, http(s)://, package://MODULE/FILE, torchvision://NAME or open-mmlab://NAME."
    )


def hash_in_name(url: str) -> str | None:
    """`.../resnet18-f37072fd.pth` -> `f37072fd`: PyTorch's way to put the first digits of the SHA-256 into a name."""
    digits = Path(url).stem.rpartition("-")[2]
    return digits if len(digits) >= 8 and all(digit in "0123456789abcdef" for digit in digits) else None


def _in_package(rest: str) -> Path:
    package, _, file = rest.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"package://{rest}: the package {package} is not installed; pip install {package.replace('_', '-')}."
        )
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise UserError(f"package://{rest}: the installed package {package} holds no file {file}.")
    return path


def _open_mmlab(name: str) -> str:
    """The address of one of OpenMMLab's backbones: `detectron2/resnet50_caffe`."""
    hub = _in_package("mmengine/hub/openmmlab.json").parent
    places = json.loads((hub / "openmmlab.json").read_text())
    name = json.loads((hub / "deprecated.json").read_text()).get(name, name)
    if name not in places:
        near = difflib.get_close_matches(name, places, n=3) or sorted(places)
        raise UserError(f"open-mmlab://{name}: MMEngine knows no such weights; the nearest are {', '.join(near)}.")
    return str(places[name])
