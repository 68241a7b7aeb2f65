"""A configuration works from any folder, and without the checkout."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jaxft import config_file
from jaxft.cli import parse
from jaxft.config import load, load_with_parent, replace
from jaxft.config_file import SHIPPED, find, run_name
from jaxft.errors import UserError
from tests.small import ROOT, environment

MINE = """
from configs.hotdog import config as base
from configs.sibling import rate
from jaxft.config import replace

config = replace(base, {"optimizer.learning_rate": rate})
"""


def write(file: Path, text: str = MINE) -> Path:
    """A configuration and, beside it, one that it imports."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    (file.parent / "sibling.py").write_text("rate = 0.25\n")
    return file


@pytest.mark.parametrize("place", ["configs/mine.py", "mine.py", "a b/2 my-own.py", "no_suffix"])
def test_a_file_inherits_from_a_shipped_one_wherever_it_lies(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse(["--config", "jaxft:hotdog"])  # imports what it needs from the checkout, which is then taken from the path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT])
    expected = replace(load("jaxft:hotdog"), {"optimizer.learning_rate": 0.25})
    file = write(tmp_path / place)
    assert load(file) == expected
    assert load(file.relative_to(tmp_path)) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(f"~/{place}") == expected
    options, run = parse(["--config", f"~/{place}"])
    assert options.settings == expected
    assert options.parent == load("jaxft:hotdog")
    assert run == Path("runs") / file.stem


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for name, rate in (("one", 0.5), ("other", 0.75)):
        write(tmp_path / name / "configs" / "mine.py")
        (tmp_path / name / "configs" / "sibling.py").write_text(f"rate = {rate}\n")
        assert load(tmp_path / name / "configs" / "mine.py").optimizer.learning_rate == rate
    assert not [name for name in sys.modules if name.startswith("configs.sibling")]


def test_a_package_of_that_name_is_not_in_the_way(tmp_path: Path) -> None:
    write(tmp_path / "configs" / "mine.py")
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError('somebody else')\n")
    assert load(tmp_path / "configs" / "mine.py").optimizer.learning_rate == 0.25


def test_what_is_loaded_leaves_the_imports_as_they_were(tmp_path: Path) -> None:
    before = (list(sys.path), {name for name in sys.modules if name.startswith("configs")})
    load(write(tmp_path / "mine.py"))
    with pytest.raises(UserError, match=r"No module named 'configs\.nowhere'"):
        load(write(tmp_path / "wrong.py", "from configs.nowhere import config\n"))
    assert (list(sys.path), {name for name in sys.modules if name.startswith("configs")}) == before


def test_shipped_ones_go_by_name() -> None:
    for file in sorted(SHIPPED.glob("[!_]*.py")):
        assert find(f"jaxft:{file.stem}") == find(f"jaxft:{file.stem}.py") == file
        assert run_name(f"jaxft:{file.stem}") == file.stem
    _, run = parse(["--config", "jaxft:digits"])
    assert run == Path("runs/digits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jaxft:hotdgo", "ships no configuration 'hotdgo'; the nearest are jaxft:hotdog, "),
        ("jaxft:xyzzy", "the nearest are jaxft:digits, "),
        ("hotdog", "There is no configuration file hotdog; did you mean jaxft:hotdog?"),
        ("min.py", "did you mean mine.py?"),
        ("xyzzy.py", r"There is no configuration file xyzzy.py."),
    ],
)
def test_the_nearest_are_named(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load(name)
    assert message in str(error.value)


def test_the_package_brings_its_configurations(tmp_path: Path) -> None:
    """What the wheel holds, laid out as it is installed, and used from elsewhere."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert patterns == ["jaxft*", "converters*", "configs*"]
    for pattern in patterns:
        for package in ROOT.glob(pattern):
            shutil.copytree(package, tmp_path / "site" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    file = write(tmp_path / "work" / "mine.py")
    told = "import jaxft.cli; print(jaxft.__file__, jaxft.cli.read({!r})[0].optimizer.learning_rate)"
    for name, rate in (("mine.py", 0.25), ("jaxft:hotdog", 0.01), ("jaxft:hotdog_scratch", 0.01)):
        done = subprocess.run(
            [sys.executable, "-c", told.format(name)],
            cwd=file.parent,
            env=environment(PYTHONPATH=str(tmp_path / "site")),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [str(tmp_path / "site" / "jaxft" / "__init__.py"), str(rate)]


def test_shipped_configurations_lie_beside_the_package() -> None:
    assert Path(config_file.__file__).parents[1] / "configs" == SHIPPED


def test_the_parent_is_the_configuration_before_that_is_most_like_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = "from configs.hotdog import config as base\nfrom configs.digits import config as other\n"
    text += "from jaxft.config import replace\n\n"
    file.write_text(text + 'config = replace(base, {"seed": 7})\nquick = replace(config, {"phases.0.epochs": 1})\n')
    loaded = load_with_parent(file)
    assert loaded.config.seed == 7
    assert loaded.parent == load("jaxft:hotdog")
    file.write_text(text + "config = replace(other, {})\n")
    assert load_with_parent(file).parent == load("jaxft:digits")
    assert load_with_parent("jaxft:digits").parent == load("jaxft:digits")
