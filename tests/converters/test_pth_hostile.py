"""Pickles made to fill the memory, to run forever, to run code, or to read what is not theirs."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from converters.files import read, read_classes
from converters.pth_pickle import Unpickler
from jaxft.errors import UserError
from tests.converters.pth_samples import (
    FLOATS,
    MAGIC,
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

MANY = 10_000
WEIGHT = tensor(reference(FLOATS, "0", 2), (2,), (1,))
DICT = b"}("
NUMBERS = struct.pack("<2f", 1, 2)


def wrappings(content: bytes, *, storage: bool = True) -> list[bytes]:
    """A pickle in a file of either format, with a storage that it refers to, or none."""
    return [zipped(content, {"0": NUMBERS}), legacy(content, [("0", 2, NUMBERS)] if storage else [])]


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
    finally:
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return size


def refused_or_empty(path: Path) -> None:
    """Reads a file that holds no tensors."""
    with pytest.raises(UserError):
        read(path)


def beside(value: bytes) -> bytes:
    """A value beside no weights."""
    return pickled(DICT, plain("a"), value, b"u")


FILLING = {
    "bytes of 2^62": beside(b"\x8e" + struct.pack("<Q", 2**62) + b"a"),
    "bytes of 2^31": beside(b"B" + struct.pack("<I", 2**31) + b"a"),
    "array of 2^62": beside(b"\x96" + struct.pack("<Q", 2**62) + b"a"),
    "text of 2^62": beside(b"\x8d" + struct.pack("<Q", 2**62) + b"a"),
    "text of 2^32": beside(b"X" + struct.pack("<I", 2**32 - 1) + b"a"),
    "string of 2^31": beside(b"T" + struct.pack("<i", 2**31 - 1) + b"a"),
    "number of 2^31 bytes": beside(b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a"),
    "number of 100,000 digits": beside(b"L" + b"9" * 100_000 + b"L\n"),
    "frame of 2^60": beside(b"\x95" + struct.pack("<Q", 2**60) + b"N"),
    "far memo": beside(b"Nr\xff\xff\xff\xff"),
    "large memo": beside(b"N" + b"".join(b"r" + struct.pack("<I", 7919 * i) for i in range(MANY))),
    "dictionaries": beside(b"(" + b"}" * MANY + b"l"),
    "lists": beside(b"(" + b"]" * MANY + b"l"),
    "sets": beside(b"(" + b"\x8f" * MANY + b"l"),
    "remembered": beside(b"(" + b"}\x94" * MANY + b"l"),
    "copies": beside(b"(N" + b"2" * MANY + b"l"),
    "marks": beside(b"(" * MANY),
    "deep tuple": beside(b")" + b"\x85" * MANY),
    "deep list": beside(b"]" * MANY + b"a" * (MANY - 1)),
    "deep dictionary": pickled(b"}\x8c\x05model" * MANY + b"N" + b"s" * MANY),
    "list in itself": beside(b"]q\x01h\x01a"),
    "array of 10^12": beside(named("builtins", "bytearray") + plain(10**12) + b"\x85R"),
    "bytes again and again": beside(
        named("_codecs", "encode") + b"q\x010" + plain("a" * MANY)[:-2] + b"q\x020(" + b"h\x01h\x02\x85R" * MANY + b"l"
    ),
    "pairs again and again": beside(
        named("collections", "OrderedDict") + b"q\x010](" + b"".join(plain((i, i)) for i in range(1000)) + b"eq\x020("
        + b"h\x01h\x02\x85R" * MANY + b"l"
    ),
    "storages": beside(reference(FLOATS, "0", 2)[:-1] + b"q\x010(" + b"h\x01Q" * MANY + b"l"),
    "tensors": beside(WEIGHT[:-1] + b"q\x0100" + named("torch._utils", "_rebuild_tensor") + b"q\x020("
                      + b"h\x02h\x01R" * MANY + b"l"),
    "doubling tuples": beside(b")" + b"".join(b"q\x01h\x01\x86" for _ in range(1000))),
    "doubling lists": beside(b"]" + b"".join(b"q\x010](h\x01h\x01e" for _ in range(1000))),
}  # fmt: skip


@pytest.mark.parametrize("attack", FILLING)
def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "weights.pth"
    for content in wrappings(FILLING[attack], storage=attack in ("storages", "tensors")):
        path.write_bytes(content)
        assert peak(lambda: refused_or_empty(path)) < 130 * len(content) + 2**20


LONG = {
    "nested key": beside(DICT + b")" + b"".join(b"q\x01h\x01\x86" for _ in range(100)) + b"Nu"),
    "long key": beside(DICT + b"(" + b"N" * MANY + b"t" + b"Nu"),
    "key of Python 2": beside(
        named("collections", "OrderedDict") + b"])" + b"".join(b"q\x01h\x01\x86" for _ in range(100)) + b"N\x86a\x85R"
    ),
    "call in itself": beside(
        named("torch._tensor", "_rebuild_from_type_v2") + b"q\x01" + named("torch", "Tensor") + b"q\x02)"
        + b"".join(b"q\x030(h\x01h\x02h\x03Nt" for _ in range(MANY)) + b"q\x03000h\x01h\x03R"
    ),
    "keys of the storages": legacy(pickled(DICT, plain("w"), WEIGHT, b"u"))[:-4] + pickled(
        b"](" + b")" + b"".join(b"q\x01h\x01\x86" for _ in range(100)) + b"e"
    ),
    "no storages": legacy(pickled(DICT, plain("w"), WEIGHT, b"u"))[:-4] + pickled(plain(3)),
    "protocol": pickle.dumps(MAGIC, 2) + pickled(b")" + b"".join(b"q\x01h\x01\x86" for _ in range(100))),
}  # fmt: skip


@pytest.mark.parametrize("attack", LONG)
def test_nothing_takes_forever_or_exhausts_the_stack(tmp_path: Path, attack: str) -> None:
    path, content = tmp_path / "weights.pth", LONG[attack]
    for file in [content] if content.startswith(b"\x80\x02\x8a") else wrappings(content):
        path.write_bytes(file)
        with pytest.raises(
            UserError, match=r"weights\.pth is damaged.*(tuple as a key|inside itself|no keys|protocol)"
        ):
            read(path)


def test_a_checkpoint_inside_itself_holds_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content in wrappings(pickled(b"}q\x01(", plain("model"), b"h\x01u"), storage=False):
        path.write_bytes(content)
        with pytest.raises(UserError, match="holds no state dict"):
            read(path)


def test_a_name_of_many_prefixes_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(zipped(pickled(DICT, plain("module." * 10_000 + "w"), WEIGHT, b"u"), {"0": NUMBERS}))
    (name,) = read(path)
    assert name.endswith("module.w")


def test_names_of_classes_that_are_no_names_are_not_spelled_out(tmp_path: Path) -> None:
    """Each list holds the last one twice: written out, it would never end."""
    path = tmp_path / "weights.pth"
    doubling = b"]" + b"".join(b"q\x010](h\x01h\x01e" for _ in range(1000))
    path.write_bytes(zipped(pickled(DICT, plain("meta"), DICT, plain("CLASSES"), doubling, b"u" + b"u")))
    assert read_classes(path) == ()


def asks(*opcodes: bytes) -> bytes:
    return pickled(DICT, plain("w"), *opcodes, b"u")


# Each asks for a call of os.system, or the like, in a way of its own.
CODE: dict[str, Callable[[bytes], bytes]] = {
    "REDUCE": lambda touch: asks(named("os", "system"), touch, b"\x85R"),
    "STACK_GLOBAL": lambda touch: asks(plain("os"), plain("system"), b"\x93", touch, b"\x85R"),
    "INST": lambda touch: asks(b"(", touch, b"ios\nsystem\n"),
    "OBJ": lambda touch: asks(b"(", named("os", "system"), touch, b"o"),
    "NEWOBJ": lambda touch: asks(named("os", "system"), touch, b"\x85\x81"),
    "NEWOBJ_EX": lambda touch: asks(named("os", "system"), touch, b"\x85}\x92"),
    "Python 2": lambda touch: asks(named("__builtin__", "eval"), touch, b"\x85R"),
    "getattr": lambda touch: asks(named("builtins", "getattr"), named("os", "path"), plain("os"), b"\x86R"),
    "in a tensor": lambda touch: asks(
        named("torch._tensor", "_rebuild_from_type_v2"), b"(", named("os", "system"), named("torch", "Tensor"),
        touch, b"\x85Nt", b"R"
    ),
    "storage": lambda touch: asks(reference(named("os", "system"), "0", 2)),
}  # fmt: skip


@pytest.mark.parametrize("way", CODE)
def test_code_is_never_run(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "was here"
    ran: list[object] = []
    for function in ("system", "popen"):
        monkeypatch.setattr(os, function, ran.append)
    for content in wrappings(CODE[way](plain(f"touch {trace}"))):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"asks to import and run \w+\.\w+|is damaged"):
            read(path)
    assert not ran
    assert not trace.exists()


@pytest.mark.parametrize("opcodes", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"\x97", b"N\x98", b"P1\n"])
def test_opcodes_that_no_checkpoint_has_are_refused(tmp_path: Path, opcodes: bytes) -> None:
    path = tmp_path / "weights.pth"
    for content in wrappings(asks(opcodes)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged.*(which no checkpoint has|a reference to no storage)"):
            read(path)


def test_attributes_are_set_on_nothing() -> None:
    """BUILD on a name, on the result of a call, on a dictionary; no class of ours changes."""
    for target in (named("collections", "OrderedDict") + NO_ARGUMENTS, named("argparse", "Namespace") + NO_ARGUMENTS):
        result = Unpickler().load(io.BytesIO(pickled(target, b"}(", plain("__class__"), plain(3), b"ub")))
        assert not getattr(result, "__dict__", {})
    for target in (named("argparse", "Namespace"), WEIGHT, plain("text"), b"]"):
        with pytest.raises(pickle.UnpicklingError):
            Unpickler().load(io.BytesIO(pickled(target, b"}(", plain("__class__"), plain(3), b"ub")))


BEYOND = {
    "shape": tensor(reference(FLOATS, "0", 2), (3,), (1,)),
    "stride": tensor(reference(FLOATS, "0", 2), (2,), (2,)),
    "offset": tensor(reference(FLOATS, "0", 2), (2,), (1,), offset=1),
    "negative offset": tensor(reference(FLOATS, "0", 2), (2,), (1,), offset=-1),
    "negative stride": tensor(reference(FLOATS, "0", 2), (2,), (-1,), offset=1),
    "negative size": tensor(reference(FLOATS, "0", 2), (-1,), (1,)),
    "overflow": tensor(reference(FLOATS, "0", 2), (2**62, 8), (8, 2**62)),
    "more than 64 bits": tensor(reference(FLOATS, "0", 2), (2**64,), (0,)),
    "too many axes": tensor(reference(FLOATS, "0", 2), (1,) * 65, (0,) * 65),
    "huge and empty": tensor(reference(FLOATS, "0", 2), (0, 2**62, 2**62), (1, 1, 1)),
    "huge and expanded": tensor(reference(FLOATS, "0", 2), (2**62, 2**62), (0, 0)),
    "other axes": tensor(reference(FLOATS, "0", 2), (2,), (1, 1)),
    "no numbers": tensor(reference(FLOATS, "0", 2), (2,), ("a",)),  # type: ignore[arg-type]
    "longer storage": tensor(reference(FLOATS, "0", 3), (3,), (1,)),
    "other dtype": tensor(reference(named("torch", "DoubleStorage"), "0", 2), (2,), (1,)),
    "no storage": tensor(reference(FLOATS, "1", 2), (2,), (1,)),
    "elsewhere": tensor(reference(FLOATS, "../data.pkl", 2), (2,), (1,)),
    "negative storage": tensor(reference(FLOATS, "0", -2), (2,), (1,)),
    "part beyond": tensor(reference(FLOATS, "0", 2, b"(" + plain("9") + plain(1) + plain(2) + b"t"), (2,), (1,)),
    "part before": tensor(reference(FLOATS, "0", 2, b"(" + plain("9") + plain(-1) + plain(2) + b"t"), (2,), (1,)),
    "beyond a part": tensor(reference(FLOATS, "0", 2, b"(" + plain("9") + plain(1) + plain(1) + b"t"), (2,), (1,)),
    "two kinds": tensor(reference(FLOATS, "0", 2), (2,), (1,)) + b"0"
    + tensor(reference(named("torch", "IntStorage"), "0", 2), (2,), (1,)),
}  # fmt: skip


@pytest.mark.parametrize("attack", BEYOND)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "weights.pth"
    for content in wrappings(asks(WEIGHT)):
        path.write_bytes(content)
        assert read(path)["w"].tolist() == [1, 2]
    reaches = attack in ("shape", "stride", "offset", "overflow", "beyond a part")
    for content in wrappings(asks(BEYOND[attack])):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"weights\.pth is damaged.*{'beyond the storage 0' if reaches else ''}"):
            read(path)


def patched(content: bytes, name: str, change: Callable[[bytearray, int, int], None]) -> bytes:
    """An archive with a record's entry in the list changed; `change` gets the file and where both headers begin."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start, listed = archive.getinfo(name).header_offset, archive.start_dir
    file = bytearray(content)
    change(file, start, file.index(name.encode(), listed) - 46)
    return bytes(file)


def far(file: bytearray, _: int, entry: int) -> None:
    struct.pack_into("<I", file, entry + 42, 2**31)


def misplaced(file: bytearray, _: int, entry: int) -> None:
    struct.pack_into("<I", file, entry + 42, 1)


def encrypted(file: bytearray, _: int, entry: int) -> None:
    file[entry + 8] |= 1


def two_sizes(file: bytearray, _: int, entry: int) -> None:
    struct.pack_into("<I", file, entry + 20, 1)


def long_header(file: bytearray, start: int, _: int) -> None:
    struct.pack_into("<H", file, start + 28, 2**16 - 1)


def same_name(file: bytearray, _: int, entry: int) -> None:
    file[entry + 46 : entry + 46 + len("archive/data/0")] = b"archive/data/1"


@pytest.mark.parametrize("change", [far, misplaced, encrypted, two_sizes, long_header, same_name])
def test_an_archive_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[bytearray, int, int], None]
) -> None:
    path = tmp_path / "weights.pth"
    content = saved({"w": torch.ones(2), "v": torch.ones(2)})
    path.write_bytes(content)
    assert read(path).keys() == {"w", "v"}
    path.write_bytes(patched(content, "archive/data/0", change))
    with pytest.raises(UserError, match=r"weights\.pth is damaged"):
        read(path)


def test_compressed_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", asks(WEIGHT))
        archive.writestr("archive/data/0", os.urandom(8))
    with pytest.raises(UserError, match=r"compressed records; torch\.save stores them as they are"):
        read(path)
