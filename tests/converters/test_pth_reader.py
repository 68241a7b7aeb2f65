"""Files of `torch.save` read without PyTorch, beside what `torch.load` reads from them."""

import io
import pickle
import subprocess
import sys
import tarfile
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.files import read
from converters.pth_names import DTYPES, OTHER_DTYPES, STORAGES, UNTYPED
from jaxft.errors import UserError
from tests.converters.pth_samples import (
    FLOATS,
    NO_ARGUMENTS,
    legacy,
    named,
    pickled,
    plain,
    reference,
    saved,
    tensor,
    zipped,
)

NUMBERS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
DICT = b"}("


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def views(dtype: str) -> dict[str, torch.Tensor]:
    """Tensors of all layouts, several of one storage."""
    random = np.random.default_rng(0)
    high = 2 if dtype == "bool" else 256
    raw = torch.from_numpy(random.integers(0, high, (4, 6 * DTYPES[dtype].itemsize), np.uint8))
    whole = raw.view(getattr(torch, dtype))
    return {
        "whole": whole,
        "turned": whole.t(),
        "part": whole[1:3, 2:],
        "every other": whole[:, ::2],
        "scalar": whole[3, 5],
        "empty": whole[:, :0],
        "expanded": whole[:1].expand(3, 6),
        "alone": whole[2].clone(),
    }


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("dtype", [name for name in DTYPES if hasattr(torch, name)])  # PyTorch 2.6 has not yet all
def test_every_dtype_and_layout_is_read_bit_for_bit(file: Path, dtype: str, old: bool) -> None:
    theirs = views(dtype)
    torch.save(theirs, file, _use_new_zipfile_serialization=not old)
    state = read(file)
    assert state.keys() == theirs.keys()
    if not (old and theirs["whole"].dtype in torch.storage._new_dtypes()):  # which PyTorch writes so, but cannot read
        theirs = torch.load(file, weights_only=True)
    for key, expected in theirs.items():
        assert (state[key].dtype, state[key].shape) == (DTYPES[dtype], tuple(expected.shape)), key
        assert state[key].tobytes() == bits(expected), key


def test_the_dtypes_are_those_of_pytorch() -> None:
    named_there = {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    twice = {"half", "float", "double", "short", "int", "long", "cfloat", "cdouble", "chalf", "bit"}
    assert named_there - twice <= DTYPES.keys() | OTHER_DTYPES.keys()
    for dtype, kind in torch.storage._dtype_to_storage_type_map().items():
        name = str(dtype).removeprefix("torch.")
        assert STORAGES[f"torch.{kind}"] == name
        sizes = DTYPES[name].itemsize if name in DTYPES else OTHER_DTYPES[name]
        assert sizes == dtype.itemsize
    assert STORAGES["torch.storage.UntypedStorage"] == UNTYPED


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol_is_read(file: Path, protocol: int, old: bool) -> None:
    beside = {
        "é": {1, 2}, "bytes": b"ab", "array": bytearray(b"ab"), "large": [2**40, -(2**80)], (1, "a"): 1,
        "tuple": (1, 2.5, None, True), "frozen": frozenset([1]), "complex": 1j, "counter": Counter("ab"),
        "nothing": [(), [], {}, set(), b""],
        "size": torch.Size([1]), "numpy": np.arange(3), "device": torch.device("cuda", 1), "dtype": torch.float16,
    }  # fmt: skip
    torch.save({"model": {"w": torch.from_numpy(NUMBERS)}, "beside": beside}, file, pickle_protocol=protocol,
               _use_new_zipfile_serialization=not old)  # fmt: skip
    np.testing.assert_array_equal(read(file)["w"], NUMBERS)


def test_parameters_and_tensors_with_attributes_are_plain_tensors(file: Path) -> None:
    marked, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(2))
    marked.mark = parameter.mark = 3  # type: ignore[attr-defined]
    values = {"marked": marked, "parameter": parameter, "buffer": torch.nn.Buffer(torch.ones(2))}
    torch.save(values, file)
    assert {key: value.tolist() for key, value in read(file).items()} == {key: [1.0, 1.0] for key in values}


def test_what_is_written_to_an_array_stays_in_the_process(file: Path) -> None:
    torch.save({"w": torch.from_numpy(NUMBERS)}, file)
    content = file.read_bytes()
    read(file)["w"][:] = 0
    assert file.read_bytes() == content
    file.unlink()


def test_reading_needs_no_pytorch(file: Path) -> None:
    torch.save({"w": torch.from_numpy(NUMBERS)}, file)
    code = f"""
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
from pathlib import Path
from converters.files import read, write
write(read(Path({str(file)!r})), Path({str(file.with_name("again.pth"))!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert bits(torch.load(file.with_name("again.pth"))["w"]) == NUMBERS.tobytes()


def python_2() -> bytes:
    """A state dict as Python 2 pickled it: with a list of pairs, and names as strings of bytes."""
    name = b"U\x08w\xc3\xa9ights"
    pair = b"](" + name + tensor(reference(FLOATS, "7", 24, b"N"), (2, 3, 4), (12, 4, 1)) + b"e"
    return pickled(named("collections", "OrderedDict") + b"](" + pair + b"e\x85R")


def test_what_python_2_wrote_is_read(file: Path) -> None:
    file.write_bytes(legacy(python_2(), [("7", 24, NUMBERS.tobytes())]))
    np.testing.assert_array_equal(read(file)["wéights"], NUMBERS)
    (key, theirs), = torch.load(file, weights_only=False).items()  # fmt: skip
    assert (key, bits(theirs)) == ("wéights", NUMBERS.tobytes())


def test_a_storage_that_is_part_of_another_is_read(file: Path) -> None:
    """The views of storages that the legacy format has, of a GPU's numbers."""
    view = b"(" + plain("8") + plain(4) + plain(16) + b"t"
    part = tensor(reference(named("torch.cuda", "FloatStorage"), "7", 24, view), (2, 3), (6, 2), offset=1)
    file.write_bytes(legacy(pickled(DICT, plain("w"), part, b"u"), [("7", 24, NUMBERS.tobytes())]))
    expected = np.lib.stride_tricks.as_strided(NUMBERS.reshape(-1)[5:], (2, 3), (24, 8))
    np.testing.assert_array_equal(read(file)["w"], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(torch.load(file, map_location="cpu", weights_only=False)["w"].numpy(), expected)


def test_a_file_without_a_record_of_its_byte_order_is_little_endian(file: Path) -> None:
    content = pickled(DICT, plain("w"), tensor(reference(FLOATS, "0", 24), (24,), (1,)), b"u")
    file.write_bytes(zipped(content, {"0": NUMBERS.tobytes()}, version=b"3\n"))
    np.testing.assert_array_equal(read(file)["w"], NUMBERS.reshape(-1))
    assert bits(torch.load(file)["w"]) == NUMBERS.tobytes()
    file.write_bytes(zipped(content, {"0": NUMBERS.tobytes()}, byteorder=b"big", version=b"3\n"))
    with pytest.raises(UserError, match=r"order of bytes b'big'; little was expected.*save it as \.safetensors"):
        read(file)


class Sub(torch.Tensor):
    """A class of somebody's own."""


SIX = torch.arange(6.0)
UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "quantized": (
        lambda: torch.quantize_per_tensor(SIX, 1.0, 0, torch.qint8),
        r"a quantized .*: save its \.dequantize",
    ),
    "channels": (
        lambda: torch.quantize_per_channel(SIX.reshape(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint8),
        "a quantized tensor",
    ),
    "COO": (lambda: SIX.to_sparse(), r"a sparse tensor.*: save its \.to_dense"),
    "CSR": (lambda: SIX.reshape(2, 3).to_sparse_csr(), r"a sparse tensor.*: save its \.to_dense"),
    "meta": (lambda: torch.empty(2, device="meta"), "a meta tensor, without values"),
    "nested": (lambda: torch.nested.nested_tensor([SIX, SIX[:2]]), "a nested tensor"),
    "negated": (lambda: (SIX * 1j).conj().imag, r"a lazily negated tensor.*: save its \.resolve_neg"),
    "conjugated": (lambda: (SIX * 1j).conj(), r"a lazily conjugated tensor.*: save its \.resolve_conj"),
    "subclass": (lambda: SIX.as_subclass(Sub), r"a tensor of the class \S+\.Sub;.*save it as a plain torch\.Tensor"),
    "complex32": (
        lambda: torch.ones(2, dtype=torch.complex32),
        "a tensor of the dtype complex32, which NumPy does not have",
    ),
    "bits8": (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.bits8), "a tensor of the dtype bits8"),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_numpy_has_no_array_for_is_named(file: Path, kind: str, old: bool) -> None:
    make, message = UNREADABLE[kind]
    content = {"model": {"a": SIX, "odd.weight": make()}, "model_ema": {"a": SIX}}
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match=rf"weights\.pth: odd\.weight is {message}"):
        read(file)
    np.testing.assert_array_equal(read(file, "model_ema")["a"], SIX.numpy())


def module() -> bytes:
    return saved(torch.nn.Sequential(torch.nn.Linear(2, 3)))


def module_inside() -> bytes:
    return saved({"epoch": 3, "model": torch.nn.Linear(2, 3)}, _use_new_zipfile_serialization=False)


def module_with_source() -> bytes:
    """As PyTorch pickled modules before 2018, with the source of their class."""
    kind = named("my.models", "Net")
    reference = b"(" + plain("module") + kind + plain("models.py") + plain("class Net: ...") + b"tQ"
    return legacy(pickled(reference, NO_ARGUMENTS, b"}", b"b"))


def script() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), stream)
    return stream.getvalue()


def tar(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=NUMBERS)
    return stream.getvalue()


def plain_pickle() -> bytes:
    return pickle.dumps({"w": torch.zeros(2)})


OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "module": (module, r"a whole pickled model \(torch\.nn\.modules\.container\.Sequential\).*model\.state_dict\(\)"),
    "module inside": (module_inside, r"a whole pickled model \(torch\.nn\.modules\.linear\.Linear\)"),
    "module with source": (module_with_source, r"a whole pickled model \(my\.models\.Net\)"),
    "TorchScript": (script, r"a TorchScript archive.*torch\.jit\.load"),
    "web page": (lambda: b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "a web page.*download the checkpoint itself"),
    "XML": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "a web page"),
    "LFS": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a pointer of Git LFS.*git lfs pull",
    ),
    "gzip": (lambda: b"\x1f\x8b\x08\0" + b"\0" * 99, "compressed by gzip.*Unpack"),
    "old tar": (
        lambda: tar("sys_info", "pickle", "tensors", "storages"),
        r"of the tar format that PyTorch wrote before 0\.1",
    ),
    "tar": (lambda: tar("weights.pth"), "a tar archive.*Unpack"),
    "npz": (arrays, r"a zip archive that torch\.save did not write"),
    "pickle": (plain_pickle, r"a plain pickle.*asks to import and run torch\.storage\._load_from_bytes"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_state_dict_is_called_by_its_name(file: Path, kind: str) -> None:
    make, message = OTHERS[kind]
    file.write_bytes(make())
    with pytest.raises(UserError, match=rf"weights\.pth (is|holds) {message}"):
        read(file)


def test_a_safetensors_file_of_another_name_is_read(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.from_numpy(NUMBERS)}, file)
    np.testing.assert_array_equal(read(file)["w"], NUMBERS)


@pytest.mark.parametrize("old", [False, True])
def test_state_dicts_under_unknown_names_are_listed(file: Path, old: bool) -> None:
    def write(content: Any) -> None:
        torch.save(content, file, _use_new_zipfile_serialization=not old)

    state = OrderedDict(w=torch.from_numpy(NUMBERS))
    write({"student": state, "teacher": {"model": state}, "optimizer": {"state": {}}, "epoch": 3})
    with pytest.raises(UserError, match=r"tensors in student, teacher; say which: \S+weights\.pth#student\."):
        read(file)
    np.testing.assert_array_equal(read(file, "teacher")["w"], NUMBERS)
    write({"net": state, "epoch": 3})
    with pytest.raises(UserError, match=r"tensors in net; say which: \S+weights\.pth#net\."):
        read(file)
    write({"optimizer": {"state": {}}, "epoch": 3})
    with pytest.raises(UserError, match=r"a dict was found, with optimizer, epoch\."):
        read(file)
