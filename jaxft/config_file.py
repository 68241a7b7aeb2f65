"""From what a person writes after `--config` to what the file binds, whatever folder that is typed in.

A configuration imports the one that it inherits from as `configs.NAME`. That is a file in its own folder, in a folder
`configs` beside that, or one that this package ships.
"""

import difflib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from jaxft.errors import UserError

SHIPPED = Path(__file__).resolve().parent.parent / "configs"
PREFIX = "jaxft:"  # before the name of a configuration that is shipped


def find(name: str | Path) -> Path:
    """The file of a configuration: a path (`~` is the home folder), or `jaxft:NAME` for one that is shipped.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    text = str(name)
    shipped = sorted(file.stem for file in SHIPPED.glob("[!_]*.py"))
    if text.startswith(PREFIX):
        stem = text.removeprefix(PREFIX).removesuffix(".py")
        if stem not in shipped:
            near = difflib.get_close_matches(stem, shipped, n=3, cutoff=0.4) or shipped
            raise UserError(f"jaxft ships no configuration {stem!r}; the nearest are {_listed(near)}.")
        return SHIPPED / f"{stem}.py"
    path = Path(text).expanduser()
    if not path.is_file():
        beside = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")], n=1)
        near = [str(path.parent / file) for file in beside]
        near = near or [PREFIX + stem for stem in difflib.get_close_matches(path.stem, shipped, n=1)]
        raise UserError(f"There is no configuration file {path}{f'; did you mean {near[0]}?' if near else '.'}")
    return path


def run_name(name: str | Path) -> str:
    """What a run directory is called after its configuration."""
    return Path(str(name).removeprefix(PREFIX)).stem


def execute(path: Path) -> ModuleType:
    """The module of a configuration file, which may have any name.

    Raises:
        Exception: whatever the file raises.
    """
    loader = SourceFileLoader(f"configs.{path.stem}", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with _configurations_are_found(path.resolve().parent):
        loader.exec_module(module)
    return module


@contextmanager
def _configurations_are_found(folder: Path) -> Iterator[None]:
    """Within, `configs.NAME` is looked for around a folder, and afterwards forgotten: another file has others."""
    package = ModuleType("configs")
    places = [folder, *(Path(entry or ".") / "configs" for entry in (str(folder.parent), *sys.path)), SHIPPED]
    package.__path__ = list(dict.fromkeys(str(place) for place in places if place.is_dir()))
    before = _loaded()
    for name in before:
        del sys.modules[name]
    sys.modules["configs"] = package
    sys.path.insert(0, str(folder.parent))
    try:
        yield
    finally:
        sys.path.remove(str(folder.parent))
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(before)


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}


def _listed(names: list[str]) -> str:
    return ", ".join(PREFIX + name for name in names)
