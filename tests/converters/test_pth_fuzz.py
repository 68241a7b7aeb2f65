"""Small files of all formats, cut off and with bits turned over: never more than a sentence comes of it."""

import os
import pickle
import subprocess
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from converters.files import read, read_classes
from converters.pth_names import DTYPES
from jaxft.errors import UserError
from tests.converters.pth_samples import saved

CASES = 2_000


def samples() -> dict[str, bytes]:
    """One small checkpoint in every format."""
    whole = torch.arange(6.0).reshape(2, 3)
    state = OrderedDict(a=whole, b=whole.t(), c=torch.nn.Parameter(whole[:, 1]), d=torch.tensor(True))
    state["e"] = torch.ones(3, dtype=torch.bfloat16)
    meta = {"classes": ("cat", "dog"), "seed": np.int64(7), "sizes": [1, {2}, None, 2**70, 1.5]}
    content = {"state_dict": state, "meta": meta}
    return {
        "zip": saved(content),
        "zip, protocol 4": saved(content, pickle_protocol=4),
        "legacy": saved(content, _use_new_zipfile_serialization=False),
        "legacy, protocol 1": saved(content, _use_new_zipfile_serialization=False, pickle_protocol=1),
        "state dict": saved(state),
        "safetensors": save({key: value.detach().contiguous() for key, value in state.items()}),
    }


SAMPLES = samples()


def damaged(content: bytes, seed: int) -> Iterator[bytes]:
    """Copies of a file, each cut off, with up to five bits turned over, or with some bytes out of another place."""
    random = np.random.default_rng(seed)
    for case in range(CASES // len(SAMPLES) + 1):
        file = bytearray(content)
        if case % 3 == 0:
            del file[int(random.integers(1, len(file))) :]
        elif case % 3 == 1:
            for place in random.integers(0, len(file), int(random.integers(1, 6))):
                file[place] ^= 1 << int(random.integers(8))
        else:
            start, source, length = (int(x) for x in random.integers(0, (len(file), len(file), 30)))
            file[start : start + length] = content[source : source + length]
        yield bytes(file)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a hostile file would call, were it able to."""
    calls: list[object] = []

    def call(*arguments: object, **_: object) -> None:
        calls.append(arguments)

    for owner, name in ((os, "system"), (os, "popen"), (subprocess, "Popen"), (pickle, "loads"), (pickle, "load")):
        monkeypatch.setattr(owner, name, call)
    return calls


def sentence(path: Path) -> str | None:
    """Reads all of a file; what is said of it where that cannot be done."""
    try:
        state = read(path)
        read_classes(path)
    except UserError as error:
        return str(error)
    assert all(value.dtype in DTYPES.values() for value in state.values())
    return None


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, kind: str, ran: list[object]) -> None:
    path, content, refused = tmp_path / "weights.pth", SAMPLES[kind], 0
    path.write_bytes(content)
    assert read(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for number, file in enumerate(damaged(content, seed=list(SAMPLES).index(kind))):
        path.write_bytes(file)
        tracemalloc.start()
        said = sentence(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert said is None or (said.startswith(str(path)) and len(said) < 800), number
        assert peak < 10 * len(file) + 2**19, number
        refused += said is not None
    assert refused > CASES / len(SAMPLES) / 3  # all that are cut off, at least
    assert not ran


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    path, content = tmp_path / "weights.pth", SAMPLES[kind]
    for length in [*range(0, len(content) - 1, 3), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"weights\.pth is (damaged|empty|not a readable)"):
            read(path)
