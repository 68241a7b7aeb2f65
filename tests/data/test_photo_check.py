"""Photos are decoded once before a run starts, and again only when they change."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from jaxft.config import Data, Detection
from jaxft.data import photo_check
from jaxft.data.csv_targets import read_numbers
from jaxft.data.folder import ImageFolder
from jaxft.data.photo_check import stored_sizes
from jaxft.data.sharing import Sharing, shared
from jaxft.errors import UserError
from jaxft.fields import Check
from jaxft.tasks.classification.data import open_source as open_folder
from jaxft.tasks.detection.data import open_source as open_objects
from jaxft.tasks.splits import open_csv
from tests.scenes import write_coco


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(photo_check, "_WORTH_KEEPING", 1)
    return tmp_path / "cache" / "photos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the photos that were decoded, in any order."""
    names: list[str] = []
    whole = photo_check._whole

    def counted(path: Path) -> photo_check.Stored:
        names.append(path.name)
        return whole(path)

    monkeypatch.setattr(photo_check, "_whole", counted)
    return names


def photos(folder: Path, count: int = 4) -> list[Path]:
    """Noise, so that a file of half its length has lost a part of the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.jpg" for number in range(count)]
    rng = np.random.default_rng(0)
    for file in files:
        Image.fromarray(rng.integers(0, 256, (32, 48, 3), np.uint8)).save(file)
    return files


def truncate(file: Path) -> None:
    """The header stays whole."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def test_a_second_look_decodes_what_changed_alone(tmp_path: Path, decoded: list[str], cache: Path) -> None:
    files = photos(tmp_path / "a" / "x") + photos(tmp_path / "a" / "y", 2)
    assert stored_sizes(files, "full", "x") == [(48, 32)] * 6
    assert len(decoded) == 6
    decoded.clear()
    assert stored_sizes(files, "full", "x") == [(48, 32)] * 6
    assert decoded == []
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(files[1])
    os.utime(files[2], ns=(1, 1))
    assert stored_sizes(files, "full", "x")[:3] == [(48, 32), (9, 8), (48, 32)]
    assert sorted(decoded) == ["1.jpg", "2.jpg"]
    assert len(list(cache.glob("*/*"))) == 1


def test_what_cannot_be_used_is_looked_at_each_time(tmp_path: Path, decoded: list[str]) -> None:
    files = photos(tmp_path / "a")
    truncate(files[0])
    files[1].unlink()
    for _ in range(2):
        decoded.clear()
        found = stored_sizes(files, "full", "x")
        assert "0.jpg cannot be read" in str(found[0])
        assert "1.jpg does not exist" in str(found[1])
        assert found[2:] == [(48, 32)] * 2
    assert sorted(decoded) == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"/0.jpg": [1, "2", 3, 4]}', b'{"/0.jpg": [1]}', b"\xff\xfe"])
def test_a_damaged_cache_costs_a_second_look_and_no_more(tmp_path: Path, content: bytes, decoded: list[str]) -> None:
    files = photos(tmp_path / "a")
    stored_sizes(files, "full", "x")
    (cache,) = (tmp_path / "cache" / "photos").glob("*/*.json")
    whole = json.loads(cache.read_text())
    cache.write_bytes(content)
    decoded.clear()
    assert stored_sizes(files, "full", "x") == [(48, 32)] * 4
    assert len(decoded) == 4
    assert json.loads(cache.read_text()) == whole


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("no folder")
    assert stored_sizes(photos(tmp_path / "a"), "full", "x") == [(48, 32)] * 4


def test_processes_look_at_their_share_and_know_of_all(tmp_path: Path, decoded: list[str], cache: Path) -> None:
    """Two processes, whose caches are one folder, then one process, then three."""
    files = photos(tmp_path / "a", 7)
    truncate(files[3])
    expected = [(48, 32)] * 7

    def look(count: int) -> list[list[photo_check.Stored]]:
        given, met = [b""] * count, Barrier(count)

        def process(index: int) -> list[photo_check.Stored]:
            def exchange(own: bytes) -> list[bytes]:
                given[index] = own
                met.wait(60)
                return given

            with shared(Sharing(index, count, exchange)):
                return stored_sizes(files, "full", "x")

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(process, range(count)))

    first, second = look(2)
    assert first == second
    assert "3.jpg cannot be read" in str(first[3])
    assert [size for index, size in enumerate(first) if index != 3] == expected[:6]
    assert sorted(decoded) == [f"{number}.jpg" for number in range(7)]  # each once
    assert len(list(cache.glob("*/*.json"))) == 2
    for count in (1, 3):
        decoded.clear()
        assert look(count)[0] == first
        assert decoded == ["3.jpg"]


def test_names_that_are_no_text_are_said_all_the_same(tmp_path: Path, decoded: list[str]) -> None:
    odd = [
        file.rename(os.fsdecode(os.fsencode(file.with_suffix("")) + b"\xe9.jpg")) for file in photos(tmp_path / "a", 2)
    ]
    truncate(odd[1])
    for _ in range(2):
        found = stored_sizes(odd, "full", "x")
        assert found[0] == (48, 32)
        assert "cannot be read" in str(found[1])


def test_splits_of_one_folder_are_kept_beside_each_other(tmp_path: Path, decoded: list[str]) -> None:
    files = photos(tmp_path / "a")
    for part in (files[:2], files[2:], files):
        stored_sizes(part, "full", "x")
    assert len(decoded) == 4


def test_a_few_photos_are_not_worth_a_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_check, "_WORTH_KEEPING", 5)
    stored_sizes(photos(tmp_path / "a"), "full", "x")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("how", "found"), [("full", [False, False, True]), ("headers", [True, False, True]), ("none", [True, True, True])]
)
def test_how_much_is_looked_at(tmp_path: Path, how: Check, found: list[bool]) -> None:
    files = photos(tmp_path / "a", 3)
    truncate(files[0])
    files[1].write_text("no image")
    assert [not isinstance(size, str) for size in stored_sizes(files, how, "x")] == found


def test_every_source_looks_as_the_configuration_says(tmp_path: Path) -> None:
    """A truncated photo whose header is whole is found before the first step, unless headers are enough."""
    (tmp_path / "coco").mkdir()
    content = write_coco(tmp_path / "coco", [1, 1], "train")
    truncate(tmp_path / "coco" / "photos" / content["images"][1]["file_name"])
    for name in ("a", "b"):
        truncate(photos(tmp_path / "folder" / "train" / name)[0])
    truncate(photos(tmp_path / "csv" / "train")[0])
    (tmp_path / "csv" / "train.csv").write_text("file,height\n0.jpg,1\n1.jpg,2\n")
    for how in ("full", "headers", "none"):
        coco, folder, csv = (
            Data(source=source, root=str(tmp_path / source), image_folder=photos, check=how)
            for source, photos in (("coco", "photos"), ("folder", "{split}"), ("csv", "{split}"))
        )
        sources = (
            open_objects(coco, Detection(), "train", ()),
            open_folder(folder, "train"),
            open_csv(csv, "train", read_numbers, ()),
        )
        for source in sources:
            if how == "full":
                with pytest.raises(UserError, match="cannot be read"):
                    source.check()
            else:
                source.check()


def test_a_folder_is_looked_at_in_full_by_default(tmp_path: Path) -> None:
    for name in ("a", "b"):
        truncate(photos(tmp_path / "train" / name)[0])
    with pytest.raises(UserError, match="2 of the 8 images"):
        ImageFolder(tmp_path / "train").check()
