"""The guides' code runs as it stands, from top to bottom, without a network."""

import re
from pathlib import Path

import pytest

from tests.small import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_guide_to_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```") // 2 > 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("socket.socket.connect", None)
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        code = "\n" * text[: block.start(1)].count("\n") + block[1]  # so that a traceback has the page's line
        exec(compile(code, "docs/python.md", "exec"), names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pth", "net.pth.json", "net.safetensors", "run"]
    printed = capsys.readouterr().out
    assert "294 of 296 source keys mapped, 2 skipped; 2 of our leaves are new" in printed
    assert "72 of 296 source keys mapped, 0 skipped, 224 deleted by model.edits; 9 of our leaves are new" in printed
    assert "'probabilities': {'red': " in printed
