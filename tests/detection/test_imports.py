"""The pieces stand by themselves."""

import ast
import sys
from pathlib import Path

import pytest

PIECES = sorted((Path(__file__).parents[2] / "jaxft" / "detection").glob("*.py"))


@pytest.mark.parametrize("path", PIECES, ids=lambda path: path.name)
def test_pieces_import_jax_and_numpy_only(path: Path) -> None:
    names = {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or "."] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    others = {name for name in names if name.split(".")[0] not in {"jax", "numpy", *sys.stdlib_module_names}}
    assert all(name.startswith("jaxft.detection.") for name in others), others
