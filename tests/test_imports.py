"""Who may import whom."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JAXFT, CONVERTERS = (sorted((ROOT / name).rglob("*.py")) for name in ("jaxft", "converters"))


FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (*JAXFT, *CONVERTERS)
}


def imported(path: Path, *, functions: bool = True) -> Iterator[str]:
    """What a file imports, anywhere in it or at its top, but for what only types need."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.orelse:
                yield from walk(child)
            return
        if isinstance(node, ast.FunctionDef) and not functions:
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
        "jaxft/models/detectors/lite.py",
        "jaxft/models/detectors/torchvision/rcnn.py",
    }


def test_one_file_imports_mmengine() -> None:
    assert importers(CONVERTERS, "mmengine", "mmdet", "mmcv") == {"converters/mmdet/file.py"}


def test_converters_import_no_training_loop() -> None:
    assert importers(CONVERTERS, "configs", "jaxft.train", "jaxft.evaluate", "jaxft.predict", "jaxft.export") == set()


def test_the_configurations_import_no_more_than_jaxft_and_converters() -> None:
    configs = sorted((ROOT / "configs").glob("*.py"))
    assert importers(configs, *TORCH, "jax", "flax") == set()


# Rooms

BASE = {"errors", "fields", "activity"}
ALLOWED = {  # what a room of jaxft may import besides itself and the base
    "detection": set(),
    "models": {"detection"},
    "schedulers": set(),
    "edits": set(),
    "surgery": {"edits", "models", "converters"},  # the names that PyTorch has for what an edit moves
    "parts": set(),
    "places": set(),
    "optimization": {"schedulers"},
    "initialization": {"models"},
    "adapters": {"models"},
    "network": {"adapters", "edits", "initialization"},
    "config": {
        "network",
        *("tasks", "config_file", "schedulers", "parts", "precision", "hardware"),
        *("optimization", "initialization", "adapters", "edits"),
    },
    "data": {"config", "download", "parts"},
    "tasks": {"config", "data", "models", "detection", "reporting", "parts", "processes"},
    "run": {"config", "places", "reporting"},
    "reporting": {"memory", "places", "processes"},
    "training": {
        "config",
        "download",  # where the cache folder is
        "memory",
        "schedulers",
        "data",
        "precision",
        "tasks",
        "models",
        "initialization",
        "adapters",
        "surgery",
        "reporting",
        "run",
        "places",
        "optimization",
        "checks",
        "converters",
        "hardware",
        "processes",
        "failures",
    },
    "planning": {"config", "data", "parts", "tasks", "training"},
}
TASKS = {path.name for path in (ROOT / "jaxft" / "tasks").iterdir() if (path / "task.py").is_file()}


def module(name: str) -> str:
    """The module of the project that an imported name is, or is in; empty where it is none."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name


def room(name: str) -> str:
    """The part of the project that a module belongs to: `training`, `tasks`, `converters`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "jaxft" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_imports_no_more_than_it_may(name: str) -> None:
    files = [path for found, path in FILES.items() if room(found) == name]
    assert files
    rooms = {room(module(found)) for path in files for found in imported(path)}
    assert rooms - BASE - {name, "", "jaxft"} <= ALLOWED[name]


def test_a_task_knows_no_other_task() -> None:
    assert len(TASKS) >= 4
    for task in TASKS:
        others = [f"jaxft.tasks.{other}" for other in TASKS - {task}]
        assert importers(sorted((ROOT / "jaxft" / "tasks" / task).glob("*.py")), *others) == set()


def test_training_and_the_commands_know_no_task() -> None:
    outside = [path for path in JAXFT if "tasks" not in path.parts]
    assert importers(outside, *(f"jaxft.tasks.{task}" for task in TASKS)) == set()


def test_the_listing_of_tasks_is_one_place() -> None:
    listing = ROOT / "jaxft" / "tasks" / "__init__.py"
    assert importers([listing], *(f"jaxft.tasks.{task}" for task in TASKS)) == {"jaxft/tasks/__init__.py"}
    beside = [path for path in (ROOT / "jaxft" / "tasks").glob("*.py") if path != listing]
    assert importers(beside, *(f"jaxft.tasks.{task}" for task in TASKS)) == set()


def test_no_module_is_imported_in_a_circle() -> None:
    """At the top of files; imports inside functions run later."""
    graph = {name: {module(found) for found in imported(path, functions=False)} for name, path in FILES.items()}
    assert graph["jaxft.training.loop"] >= {"jaxft.training.setup", "jaxft.config"}
    graphlib.TopologicalSorter({name: found - {name, ""} for name, found in graph.items()}).prepare()


@pytest.mark.parametrize("path", sorted((ROOT / "jaxft" / "detection").glob("*.py")), ids=lambda path: path.name)
def test_pieces_of_detection_import_jax_and_numpy_only(path: Path) -> None:
    others = {name for name in imported(path) if name.split(".")[0] not in {"jax", "numpy", *sys.stdlib_module_names}}
    assert all(name.startswith("jaxft.detection.") for name in others), others


def test_workers_that_decode_photos_import_no_jax() -> None:
    """What they unpickle, and what that imports at its top."""
    todo, seen = {"jaxft.data.loader", "jaxft.data.folder", "jaxft.tasks.detection.dataset"}, set[str]()
    while todo:
        name = todo.pop()
        seen.add(name)
        found = set(imported(FILES[name], functions=False))
        assert not {one.split(".")[0] for one in found} & {"jax", "flax", "optax", "torch"}, name
        todo |= {module(one) for one in found} - {""} - seen
    assert {"jaxft.data.photo", "jaxft.tasks.detection.scene"} <= seen
