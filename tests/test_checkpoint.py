from pathlib import Path
from tests.small import *
pytest_plugins = ("tests.runs",)
def test_a(small_run: Path):
    print(lines(small_run)); print(sorted(small_run.rglob("*")))
def test_b(resnet_run):
    print(lines(resnet_run))
