"""Reading and writing checkpoint files: `.pth`, and `.safetensors`, sharded or not.

A checkpoint from a stranger is data. Nothing in it is ever executed: `pth_reader` knows the names of tensors and plain
containers and refuses the others, and safetensors holds nothing else.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from converters import pth_reader, pth_writer, safetensors_reader
from converters.pth_names import Tensor, Unreadable
from jaxft.errors import UserError

State = dict[str, np.ndarray]
WRAPPERS = ("state_dict", "model", "model_state_dict", "ema", "model_ema", "ema_state_dict", "state_dict_ema")
# Of DataParallel and AveragedModel, torch.compile, and a Lightning module that holds its network as `model`.
PREFIXES = ("module.", "_orig_mod.", "model.")
MOST_PREFIXES = 10  # on one key, so that a hostile name is not looked at forever
# How many updates an averaged model has seen: torch.optim.swa_utils.AveragedModel and MMEngine's.
AVERAGED = {"n_averaged", "steps"}
INDEX = ".safetensors.index.json"
# What safetensors for NumPy writes.
SAFETENSORS = {"bool", "float64", "float32", "float16", "bfloat16", "complex64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def read(path: Path, entry: str | None = None) -> State:
    """The tensors of a checkpoint file by name, as NumPy arrays (memory-mapped where the format allows it).

    Wrappings such as `{"state_dict": ..., "epoch": ...}` are opened, and the prefixes of `DataParallel`,
    `torch.compile` and Lightning are taken off.

    Args:
        path: a `.pth`, a `.safetensors`, or the `.safetensors.index.json` of a sharded one.
        entry: which state dict of a `.pth` with several, such as `model_ema`; the plain weights where it is None.

    Raises:
        UserError: the file is missing, empty, damaged, not a checkpoint, or holds code; or it has no such entry.
    """
    if holds_tensors_alone(path):
        if entry is not None:
            raise UserError(f"{path} holds tensors alone and no entry {entry}; leave out #{entry}.")
        tensors = _read_shards(path) if path.name.endswith(INDEX) else safetensors_reader.read(path)
    else:
        tensors = _read_torch(path, entry)
    return _without_prefixes(tensors)


def holds_tensors_alone(path: Path) -> bool:
    """Whether a file is of safetensors, by its name or, whatever that is, by how it begins.

    Raises:
        UserError: it is missing, empty, or no checkpoint at all.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'a directory' if path.is_dir() else 'missing'}; a checkpoint file was expected.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; a checkpoint file was expected. Copy or download it again.")
    try:
        begins_so = safetensors_reader.is_safetensors(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); a checkpoint file was expected.") from error
    if begins_so or path.name.endswith(INDEX):
        return True
    pth_reader.refuse_other_files(path)
    return path.name.endswith(".safetensors")


def _read_shards(index: Path) -> State:
    """The tensors that `{"weight_map": {name: file beside the index}}` lists."""
    try:
        places = json.loads(index.read_text())["weight_map"]
        files = {name: {key for key, file in places.items() if file == name} for name in sorted(set(places.values()))}
        if not all(Path(name).name == name for name in files):
            raise ValueError("it names files of other folders")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of sharded safetensors ({error}). Copy or download it again.") from error
    tensors: State = {}
    for name, keys in files.items():
        shard = safetensors_reader.read(index.parent / name)
        if odd := sorted(shard.keys() ^ keys):
            raise UserError(f"{name} does not hold the tensors that {index} says; the first that differs is {odd[0]}.")
        tensors |= shard
    return tensors


def read_metadata(path: Path) -> dict[Any, Any]:
    """What a checkpoint says beside its weights: `meta` of a `.pth`, or what `write` put into a `.safetensors`.

    Where there is nothing, what the file `beside` it says. It may be empty; what is no plain value in it is an `Inert`.

    Raises:
        UserError: the file is damaged or no checkpoint.
    """
    if holds_tensors_alone(path):
        meta: Any = {} if path.name.endswith(INDEX) else safetensors_reader.read_metadata(path)
    else:
        content = pth_reader.load(path).content
        meta = content.get("meta") if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) and meta else _read_beside(path)


def beside(path: Path) -> Path:
    """Where the metadata of a checkpoint lie whose format has no room for them: `model.pth.json`."""
    return path.with_name(f"{path.name}.json")


def _read_beside(path: Path) -> dict[Any, Any]:
    place = beside(path)
    if not place.is_file():
        return {}
    try:
        meta = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{place} cannot be read as JSON ({error}); correct or remove it.") from error
    return meta if isinstance(meta, dict) else {}


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes that a checkpoint was trained on, in order; empty where it has none.

    They are where MMDetection writes them: in `dataset_meta` of the metadata, or in that itself.

    Raises:
        UserError: the file is damaged or no checkpoint.
    """
    meta = read_metadata(path)
    places = [data for data in (meta.get("dataset_meta"), meta) if isinstance(data, dict)]
    found = next((data[key] for data in places for key in ("classes", "CLASSES") if data.get(key)), ())
    if isinstance(found, str):
        return (found,)
    if not isinstance(found, list | tuple) or not all(isinstance(name, str | int) for name in found):
        return ()
    return tuple(map(str, found))


def _read_torch(path: Path, entry: str | None) -> State:
    checkpoint = pth_reader.load(path)
    content = checkpoint.content if entry is None else _entry(checkpoint.content, entry, path)
    tensors = _unwrapped(content)
    if not tensors:
        inside = [] if entry else [key for key, value in _entries(content).items() if _unwrapped(value)]
        raise UserError(_nothing_found(path, content, inside))
    return checkpoint.arrays(tensors)


def _entries(content: Any) -> dict[str, Any]:
    """The dictionaries directly inside what a training script saved."""
    items = content.items() if isinstance(content, dict) else ()
    return {str(key): value for key, value in items if isinstance(value, dict)}


def _entry(content: Any, entry: str, path: Path) -> Any:
    entries = _entries(content)
    if entry not in entries:
        raise UserError(f"{path} has no entry {entry}; its entries are {', '.join(sorted(entries)) or 'none'}.")
    return entries[entry]


def _nothing_found(path: Path, content: Any, inside: Sequence[str]) -> str:
    if inside:
        return (
            f"{path} holds no state dict under a name that jaxft knows, but tensors in {_listed(inside)}; say which: "
            f"{path}#{inside[0]}."
        )
    kind = type(content).__name__
    there = f", with {_listed(content)}" if isinstance(content, dict) and content else ""
    return f"{path} holds no state dict: tensors by name were expected, a {kind} was found{there}."


def _listed(names: Iterable[Any]) -> str:
    """The first of the names, which may be of any kind, so that a sentence stays one."""
    texts = [str(name)[:100] for name in islice(names, 9) if isinstance(name, str | int)]
    return f"{', '.join(texts[:8])}{', ...' * (len(texts) > 8)}"


def _unwrapped(content: Any) -> dict[str, Tensor | Unreadable]:
    """The tensors by name inside what a training script saved; empty where there are none."""
    seen = set()  # a hostile one may be inside itself
    while isinstance(content, dict) and id(content) not in seen:
        seen.add(id(content))
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            return {str(key): value for key, value in content.items() if isinstance(value, Tensor | Unreadable)}
        content = inner
    return {}


def _without_prefixes(tensors: State) -> State:
    for _ in range(MOST_PREFIXES):
        named = [key for key in tensors if key not in AVERAGED]
        prefix = next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in named)), "")
        if not named or not prefix:
            break
        tensors = {key.removeprefix(prefix): tensors[key] for key in named}
    return tensors


def write(state: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes tensors by name to `path`: safetensors where it ends so, a PyTorch state dict otherwise. Atomic.

    `torch.load(path, weights_only=True)` reads that, mapped into memory or not.

    Args:
        state: arrays by name, of any layout in memory.
        path: where to; folders that are missing are made.
        metadata: values that JSON has, which `read_metadata` gives back, tuples as lists. A `.pth` with some is
            `{"meta": metadata, "state_dict": state}`, as MMDetection's; see `write_beside` for one without.

    Raises:
        UserError: the disk cannot be written, or the format has no such dtype.
    """
    if path.suffix == ".safetensors":
        _atomically(path, lambda temporary: _save_safetensors(state, temporary, metadata))
    else:
        _atomically(path, lambda temporary: pth_writer.save(state, temporary, metadata))


def write_beside(path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes the metadata of a checkpoint that holds tensors alone into the file `beside` it. Atomic.

    Raises:
        UserError: the disk cannot be written.
    """
    text = json.dumps(metadata, ensure_ascii=False, indent=2) + "\n"
    _atomically(beside(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _save_safetensors(state: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, Any] | None) -> None:
    for key, array in state.items():
        if array.dtype.name not in SAFETENSORS:
            raise UserError(f"{key} is {array.dtype.name}, which safetensors cannot hold; convert it, or write a .pth.")
    # safetensors takes the memory of an array as it lies there, whatever its strides.
    contiguous = {key: np.require(array, requirements="C") for key, array in state.items()}
    texts = None if metadata is None else {safetensors_reader.METADATA: json.dumps(metadata)}
    safetensors.numpy.save_file(contiguous, path, texts)


def _atomically(path: Path, save: Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            save(temporary)
            os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} could not be written ({error}); choose another place with --output.") from error
