"""Reading an MMDetection configuration file, with MMEngine's own reader."""

import ast
import difflib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from jaxft.errors import UserError


def is_mmdet(path: Path) -> bool:
    """Whether a configuration file is one of MMDetection: it binds `model` or `_base_`, and no `config`."""
    if "::" in str(path):
        return True
    try:
        tree = ast.parse(path.expanduser().read_text())
    except (OSError, SyntaxError, ValueError):
        return False
    names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in _names(node.targets)}
    lazy = any(isinstance(node, ast.With) and "read_base" in ast.unparse(node.items[0]) for node in tree.body)
    return "config" not in names and (lazy or bool(names & {"model", "_base_"}))


def _names(targets: list[ast.expr]) -> list[ast.Name]:
    return [target for target in targets if isinstance(target, ast.Name)]


def read(config: str | Path) -> dict[str, Any]:
    """A whole configuration as plain values: dictionaries, lists, tuples, numbers and strings.

    `_base_` files are merged in. A configuration is Python, and MMEngine runs it; the modules of its `custom_imports`
    are not imported.

    Args:
        config: a path, or `mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py`, a file of the installed package.

    Raises:
        UserError: MMEngine is not installed, or the file is missing or cannot be read.
    """
    path = _located(str(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MMEngine under newer versions of what it uses
        try:
            from mmengine.config import Config
        except ImportError as error:
            raise UserError(
                f"Reading {path} needs MMEngine, which is not installed: pip install 'jaxft[mmdet]'."
            ) from error
        try:
            with _packages_are_found():
                found = Config.fromfile(path, import_custom_modules=False, format_python_code=False).to_dict()
        except Exception as error:  # the file is a program and can fail in any way
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{path} is no readable MMDetection configuration ({type(error).__name__}: {reason})."
            ) from error
    plain = _plain(found)
    assert isinstance(plain, dict)
    return plain


def _located(config: str) -> Path:
    package, mark, name = config.partition("::")
    if not mark:
        path = Path(config).expanduser()
        if not path.is_file():
            others = [other.name for other in path.parent.glob("*.py")]
            near = difflib.get_close_matches(path.name, others, n=3, cutoff=0.3)
            hint = f"; {path.parent} holds {', '.join(near)}" if near else ""
            raise UserError(f"There is no MMDetection configuration {path}{hint}.")
        return path
    folder = _package(package) / ".mim" / "configs"
    file = folder / (name if name.endswith(".py") else f"{name}.py")
    if not file.is_file():
        raise UserError(f"{config}: there is no {file.relative_to(folder)} among the configurations in {folder}.")
    return file


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{name}:: names a package that is not installed; pip install {name}.")
    return Path(spec.submodule_search_locations[0])


@contextmanager
def _packages_are_found() -> Iterator[None]:
    """Lets `_base_ = "mmdet::..."` be found; MMEngine asks a part of setuptools that newer ones do not have."""
    with (
        mock.patch("mmengine.config.config.is_installed", lambda name: importlib.util.find_spec(name) is not None),
        mock.patch("mmengine.config.config.get_installed_path", lambda name: str(_package(name))),
    ):
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        # MMEngine notes in each dictionary of a package's file which package it came from.
        return {str(key): _plain(item) for key, item in value.items() if key != "_scope_"}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", None) or str(value)
