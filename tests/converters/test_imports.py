"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JAXFT, CONVERTERS = (sorted((ROOT / name).rglob("*.py")) for name in ("jaxft", "converters"))


def imported(path: Path, *, types: bool = False) -> Iterator[str]:
    """The modules that a file imports anywhere in it; those under `if TYPE_CHECKING` only where asked for."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            for child in node.orelse:
                yield from walk(child)
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    yield from walk(ast.parse(path.read_text()))


def importers(files: list[Path], *names: str) -> set[str]:
    """The files that import one of the modules or something inside it."""
    assert files
    return {
        str(path.relative_to(ROOT))
        for path in files
        for module in imported(path)
        if any(f"{module}.".startswith(f"{name}.") for name in names)
    }


TORCH = ("torch", "torchvision", "efficientnet_lite_pytorch")


def test_nothing_in_jaxft_imports_torch() -> None:
    assert importers(JAXFT, *TORCH) == set()


def test_torch_is_imported_by_the_proof_alone() -> None:
    assert importers(CONVERTERS, *TORCH) == {
        "converters/verify.py",
        "converters/verify_reference.py",
        "converters/verify_state.py",
    }


@pytest.mark.parametrize("path", CONVERTERS, ids=lambda path: path.name)
def test_torch_is_imported_only_where_it_is_used(path: Path) -> None:
    """A module can be imported where torch is absent: no import of torch at the top of a file."""
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in top for alias in node.names] + [getattr(node, "module", "") for node in top]
    assert not set(TORCH) & {str(name).split(".")[0] for name in names}


def test_models_import_neither_converters_nor_the_training() -> None:
    models = [path for path in JAXFT if path.is_relative_to(ROOT / "jaxft" / "models")]
    inner = {"jaxft.models", "jaxft.detection", "jaxft.errors"}
    outer = {f"jaxft.{(path.relative_to(ROOT / 'jaxft').with_suffix('')).parts[0]}" for path in JAXFT} - inner
    assert {"jaxft.train", "jaxft.tasks", "jaxft.data"} <= outer
    assert {path.parent.name for path in models} >= {"models", "layers", "classifiers", "detectors", "dense"}
    assert importers(models, "converters", "configs", *outer) == set()


def test_layers_know_no_models_and_classifiers_no_detectors() -> None:
    models = ROOT / "jaxft" / "models"
    layers, classifiers = (sorted((models / name).glob("*.py")) for name in ("layers", "classifiers"))
    assert importers(layers, "jaxft.models.classifiers", "jaxft.models.detectors", "jaxft.detection") == set()
    assert importers(classifiers, "jaxft.models.detectors", "jaxft.detection") == set()
    assert importers(sorted((models / "detectors").rglob("*.py")), "jaxft.models.classifiers") == {
        "jaxft/models/detectors/retinanet_lite.py",
        "jaxft/models/detectors/torchvision/rcnn.py",
    }


def test_one_file_imports_mmengine() -> None:
    assert importers(CONVERTERS, "mmengine", "mmdet", "mmcv") == {"converters/mmdet/file.py"}


def test_converters_import_no_training_loop() -> None:
    assert importers(CONVERTERS, "configs", "jaxft.train", "jaxft.evaluate", "jaxft.predict", "jaxft.export") == set()


def test_the_configurations_import_no_more_than_jaxft_and_converters() -> None:
    configs = sorted((ROOT / "configs").glob("*.py"))
    assert importers(configs, *TORCH, "jax", "flax") == set()
