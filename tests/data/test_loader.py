import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.dataset import ImageDataset
from jaxft.data.folder import ImageFolder
from jaxft.data.loader import Batch, eval_batches, train_batches
from jaxft.data.source import Example
from jaxft.data.transforms import Augment, CenterCrop
from jaxft.errors import UserError
from tests.data.images import photo_folder

AUGMENT, CROP = Augment(size=8), CenterCrop(size=8, resize=8)


class Numbered:
    """A source in which the pixels, the label and the position agree, up to 255."""

    classes = ("even", "odd")

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        return Example(np.full((1, 1, 3), index % 256, np.uint8), index % 2, str(index))


class Dot:
    """A transform that gives the one pixel it gets."""

    size = 1

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        return image


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A transform that shows its random numbers."""
    return np.concatenate([image, rng.integers(0, 256, (1, 7, 3), np.uint8)], axis=1)


def take(count: int, size: int = 23, batch_size: int = 4, **options: Any) -> list[Batch]:
    """The first batches of a training run over numbered examples."""
    with train_batches(
        ImageDataset(Numbered(size), noise, CROP), batch_size=batch_size, **({"seed": 1} | options)
    ) as batches:
        return [next(batches) for _ in range(count)]


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The worker processes, without the helper that `multiprocessing` keeps."""
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]


def examples(batches: list[Batch]) -> list[int]:
    return [int(number) for batch in batches for number in batch["image"][:, 0, 0, 0]]


def test_shapes_and_dtypes() -> None:
    (batch,) = take(1)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 1, 8, 3), np.uint8),
        "label": ((4,), np.int32),
    }
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 2)


def test_an_epoch_is_a_permutation_less_the_last_incomplete_batch() -> None:
    run = take(15)  # 23 // 4 = 5 batches an epoch
    epochs = [examples(run[start : start + 5]) for start in (0, 5, 10)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert epochs[0] != sorted(epochs[0])
    assert epochs[0] != epochs[1] != epochs[2]


def test_augmentation_changes_with_the_epoch_the_example_and_the_seed() -> None:
    noises = [row[1:].tobytes() for batch in take(15) for row in batch["image"][:, 0]]
    assert len(set(noises)) == 60
    assert_equal(take(6), take(6))
    assert examples(take(5)) != examples(take(5, seed=2))


@pytest.mark.parametrize("start_step", [1, 5, 7])
def test_resume_gives_the_same_batches(start_step: int) -> None:
    assert_equal(take(4, start_step=start_step), take(start_step + 4)[start_step:])


@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0], [1], [2], [3]], [[1, 2], [0, 3]]])
def test_processes_share_the_same_batches(shares: list[list[int]]) -> None:
    """Also where the devices of one do not lie beside each other."""
    parts = [take(7, positions=share) for share in shares]
    order = np.argsort(np.concatenate(shares))
    joined = [
        {key: np.concatenate([part[key] for part in step])[order] for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(joined, take(7))


def test_worker_processes_give_the_same_batches(tmp_path: Path) -> None:
    source = ImageFolder(photo_folder(tmp_path, {"cat": 7, "dog": 6}))
    options = {"batch_size": 4, "seed": 3, "start_step": 2}
    with (
        train_batches(ImageDataset(source, AUGMENT, CROP), **options) as threads,
        train_batches(ImageDataset(source, AUGMENT, CROP), **options, workers=2) as processes,
    ):
        assert_equal([next(processes) for _ in range(7)], [next(threads) for _ in range(7)])
    with eval_batches(ImageDataset(source, AUGMENT, CROP), batch_size=4, workers=3) as batches:
        assert_equal(list(batches), list(eval_batches(ImageDataset(source, AUGMENT, CROP), batch_size=4)))
    assert not workers_of(psutil.Process())


@pytest.mark.parametrize(("size", "workers"), [(13, 2), (7, 3)])
def test_passes_are_read_by_the_same_workers(tmp_path: Path, size: int, workers: int) -> None:
    source = ImageFolder(photo_folder(tmp_path, {"cat": size - 1, "dog": 1}))
    dataset = ImageDataset(source, AUGMENT, CROP)
    expected, family = list(eval_batches(dataset, batch_size=4)), []
    with eval_batches(dataset, batch_size=4, workers=workers) as passes:
        for _ in range(3):
            assert_equal(list(passes), expected)
            family.append(workers_of(psutil.Process()))
        assert family[0] == family[1] == family[2]
        assert len(family[0]) == workers
    assert not workers_of(psutil.Process())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_that_is_left_takes_its_workers_with_it_and_the_next_is_whole(tmp_path: Path, workers: int) -> None:
    dataset = ImageDataset(ImageFolder(photo_folder(tmp_path, {"cat": 6, "dog": 6})), AUGMENT, CROP)
    with eval_batches(dataset, batch_size=4, workers=workers) as passes:
        next(iter(passes))
        assert not workers_of(psutil.Process())
        assert [batch["index"].tolist() for batch in passes] == np.arange(12).reshape(3, 4).tolist()


def test_no_step_looks_at_the_whole_dataset() -> None:
    looked: list[str] = []

    class Many(ImageDataset):
        @property
        def buckets(self) -> np.ndarray:
            looked.append("buckets")
            return super().buckets

    def counted(name: str) -> Any:
        real = getattr(np, name)

        def function(*arguments: Any, **options: Any) -> Any:
            looked.append(name)
            return real(*arguments, **options)

        return mock.patch.object(np, name, function)

    with (
        counted("unique"),
        counted("argsort"),
        counted("flatnonzero"),
        train_batches(Many(Numbered(4000), noise, CROP), batch_size=2, seed=0) as batches,
    ):
        for _ in range(20):
            next(batches)
        before = list(looked)
        for _ in range(500):
            next(batches)
        assert looked == before
        for _ in range(1800):  # into the second epoch, whose order is found once, however many threads want it
            next(batches)
    assert looked.count("unique") <= before.count("unique") + 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_every_example_is_evaluated_exactly_once(size: int, rows: int, hosts: int) -> None:
    parts = [
        list(eval_batches(ImageDataset(Numbered(size), noise, Dot()), batch_size=rows * hosts, positions=share))
        for share in np.split(np.arange(rows * hosts), hosts)
    ]
    assert {len(part) for part in parts} == {-(-size // (rows * hosts))}
    rows_of_all = [batch for step in zip(*parts, strict=True) for batch in step]
    index = np.concatenate([batch["index"] for batch in rows_of_all])
    mask = np.concatenate([batch["mask"] for batch in rows_of_all])
    image = np.concatenate([batch["image"] for batch in rows_of_all])[:, 0, 0, 0]
    label = np.concatenate([batch["label"] for batch in rows_of_all])
    assert (mask.dtype, index.dtype, label.dtype) == (np.float32, np.int32, np.int32)
    np.testing.assert_array_equal(index[:size], np.arange(size))
    np.testing.assert_array_equal(image[:size], np.arange(size))
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < size)
    assert np.all(index[size:] == -1)
    assert not np.any(image[size:])
    assert not np.any(label[size:])


@pytest.mark.parametrize("batch_size", [0, -2])
def test_the_batch_size_must_be_positive(batch_size: int) -> None:
    with pytest.raises(UserError, match=f"batch size is {batch_size}"):
        train_batches(ImageDataset(Numbered(20), AUGMENT, CROP), batch_size=batch_size, seed=0)
    with pytest.raises(UserError, match=f"batch size is {batch_size}"):
        eval_batches(ImageDataset(Numbered(20), AUGMENT, CROP), batch_size=batch_size)


def test_too_few_examples() -> None:
    with pytest.raises(UserError, match="there are only 3"):
        train_batches(ImageDataset(Numbered(3), AUGMENT, CROP), batch_size=4, seed=0)
    with pytest.raises(UserError, match="no examples"):
        eval_batches(ImageDataset(Numbered(0), AUGMENT, CROP), batch_size=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_named(tmp_path: Path, workers: int) -> None:
    source = ImageFolder(photo_folder(tmp_path, {"cat": 2, "dog": 2}))
    (tmp_path / "dog" / "001.jpg").unlink()
    with (
        train_batches(ImageDataset(source, AUGMENT, CROP), batch_size=4, seed=0, workers=workers) as batches,
        pytest.raises(UserError, match=r"'dog/001\.jpg' cannot be used: .*does not exist"),
    ):
        next(batches)


SCRIPT = """
    import signal, sys, time
    from pathlib import Path
    from jaxft.data.dataset import ImageDataset
    from jaxft.data.folder import ImageFolder
    from jaxft.data.loader import train_batches
    from jaxft.data.transforms import Augment, CenterCrop

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
        rows = ImageDataset(ImageFolder(Path(sys.argv[1])), Augment(size=8), CenterCrop(size=8, resize=8))
        batches = train_batches(rows, batch_size=4, seed=0, workers=2)
        kept = [next(batches) for _ in range(3)]
        print("ready", flush=True)
        time.sleep(float(sys.argv[2]))
"""


def start(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    """A program that reads with workers and never closes them, in a process group of its own."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    root = photo_folder(tmp_path / "photos", {"cat": 4, "dog": 4})
    command = [sys.executable, "-W", "error", str(tmp_path / "script.py"), str(root), str(seconds)]
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_program_that_forgets_to_close_ends_quietly(tmp_path: Path) -> None:
    output, errors = start(tmp_path, 0).communicate(timeout=20)
    assert (output, errors) == ("", "")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_program(tmp_path: Path, how: signal.Signals) -> None:
    process = start(tmp_path, 60)
    family = workers_of(psutil.Process(process.pid))
    assert len(family) == 2
    assert list((tmp_path / "temporary").glob("jaxft-*"))  # what the workers share
    for worker in family:
        worker.send_signal(signal.SIGTERM)  # as the parent's group gets it, which may want to save first
    assert len(psutil.wait_procs(family, timeout=1)[1]) == 2
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as Ctrl-C does
    else:
        process.send_signal(how)
    try:
        _, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert errors.count("Traceback") == (how == signal.SIGINT)
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert not list((tmp_path / "temporary").glob("jaxft-*"))


def test_importing_the_data_side_does_not_import_torch_or_flax() -> None:
    code = (
        "import sys, jaxft.data; sys.exit(bool({'torch', 'flax', 'tensorflow', 'sklearn', 'pooch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
