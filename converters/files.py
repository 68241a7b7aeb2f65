"""Reading and writing checkpoint files: `.pth` through PyTorch's data-only loader, and `.safetensors`, sharded or not.

A checkpoint from a stranger is data. Nothing in it is ever executed: PyTorch's `weights_only` unpickler refuses
everything that is not a tensor or a plain container, and safetensors holds nothing else. What MMEngine writes beside
the weights (the history of its log, times, NumPy's numbers) is read as objects that do nothing.
"""

import argparse
import json
import os
import pickle
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jaxft.errors import UserError

if TYPE_CHECKING:
    import torch

State = dict[str, np.ndarray]
WRAPPERS = ("state_dict", "model", "model_state_dict", "ema", "model_ema", "ema_state_dict", "state_dict_ema")
# Of DataParallel and AveragedModel, torch.compile, and a Lightning module that holds its network as `model`.
PREFIXES = ("module.", "_orig_mod.", "model.")
# How many updates an averaged model has seen: torch.optim.swa_utils.AveragedModel and MMEngine's.
AVERAGED = {"n_averaged", "steps"}
INDEX = ".safetensors.index.json"
# What MMEngine's runner pickles beside the weights, by the names it has under NumPy 1 and 2.
BESIDE_WEIGHTS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.logging.message_hub.MessageHub",
    "builtins.getattr",
    "datetime.datetime",
    "datetime.timedelta",
    "pathlib.PosixPath",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)


class Inert:
    """Stands for an object, or for the result of a call, that a checkpoint holds beside its weights. It does nothing.

    So `getattr(HistoryBuffer, "min")`, which MMEngine pickles, looks nothing up.
    """

    def __new__(cls, *_: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


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
    if not path.is_file():
        raise UserError(f"{path} is {'a directory' if path.is_dir() else 'missing'}; a checkpoint file was expected.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; a checkpoint file was expected. Copy or download it again.")
    if path.name.endswith((".safetensors", INDEX)):
        if entry is not None:
            raise UserError(f"{path} holds tensors alone and no entry {entry}; leave out #{entry}.")
        tensors = _read_shards(path) if path.name.endswith(INDEX) else _read_safetensors(path)
    else:
        tensors = _read_torch(path, entry)
    return _without_prefixes(tensors)


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}). Copy or download it again.") from error


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
        shard = _read_safetensors(index.parent / name)
        if odd := sorted(shard.keys() ^ keys):
            raise UserError(f"{name} does not hold the tensors that {index} says; the first that differs is {odd[0]}.")
        tensors |= shard
    return tensors


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes that a checkpoint of MMDetection was trained on, in order; empty where it has none.

    Raises:
        UserError: the file is damaged or no PyTorch checkpoint.
    """
    if path.name.endswith((".safetensors", INDEX)):
        return ()
    content = _load(path)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return ()
    places = [data for data in (meta.get("dataset_meta"), meta) if isinstance(data, Mapping)]
    found = next((data[key] for data in places for key in ("classes", "CLASSES") if data.get(key)), ())
    if isinstance(found, str):
        return (found,)
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


def _read_torch(path: Path, entry: str | None) -> State:
    content = _load(path)
    if entry is not None:
        content = _entry(content, entry, path)
    tensors = _unwrap(content)
    if not tensors:
        raise UserError(
            f"{path} holds no state dict: tensors by name were expected, a {type(content).__name__} was found."
        )
    return {key: _to_numpy(value) for key, value in tensors.items()}


def _load(path: Path) -> Any:
    """What `torch.save` put into a file, as tensors, plain containers and `Inert`s."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"Reading {path} needs PyTorch, which is not installed: pip install 'jaxft[torch]', or save the checkpoint "
            "as .safetensors."
        ) from error
    _refuse_a_bomb(path)
    allowed: list[Any] = [argparse.Namespace, (dict, "mmengine.config.config.ConfigDict")]
    allowed += [(Inert, name) for name in BESIDE_WEIGHTS]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            # PyTorch warns about its own storage classes when it reads files of before 2018.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, OSError, IndexError) as error:
        raise UserError(
            f"{path} is damaged, truncated or no PyTorch checkpoint ({_first_line(error)}). Copy or download it again."
        ) from error


def _refuse_a_bomb(path: Path) -> None:
    """PyTorch stores what it saves as it is: an archive that would unpack to more than it weighs is not its own."""
    if not zipfile.is_zipfile(path):
        return
    try:
        size = sum(record.file_size for record in zipfile.ZipFile(path).infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # PyTorch says what is wrong with it
    if size > path.stat().st_size:
        raise UserError(
            f"{path} would unpack to {size / 2**20:,.0f} MB, more than its own size; PyTorch never writes such a file. "
            "It is damaged or hostile, and was not opened."
        )


def _entry(content: Any, entry: str, path: Path) -> Any:
    entries = {key: value for key, value in content.items() if isinstance(value, Mapping)} if content else {}
    if entry not in entries:
        raise UserError(f"{path} has no entry {entry}; its entries are {', '.join(sorted(map(str, entries)))}.")
    return entries[entry]


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    for mark in ("GLOBAL ", "Unsupported global: "):
        if mark in text:
            name = text.split(mark, 1)[1].split()[0]
            return (
                f"{path} holds more than tensors: it asks to import and run {name}. jaxft never runs code from a "
                "checkpoint; save its state dict alone, with torch.save(model.state_dict(), ...)."
            )
    return f"{path} is damaged, hostile or not a PyTorch checkpoint; jaxft reads tensors and runs nothing from a file."


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["it ends early"])[0][:150]


def _unwrap(content: Any) -> "dict[str, torch.Tensor]":
    """The mapping of names to tensors inside what a training script saved; empty where there is none."""
    import torch

    if not isinstance(content, Mapping):
        return {}
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _unwrap(content[wrapper])
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _without_prefixes(tensors: State) -> State:
    for prefix in PREFIXES:
        named = [key for key in tensors if key not in AVERAGED]
        if named and all(key.startswith(prefix) for key in named):
            return _without_prefixes({key.removeprefix(prefix): tensors[key] for key in named})
    return tensors


def write(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes tensors by name to `path`: safetensors where it ends so, a PyTorch state dict otherwise. Atomic.

    Raises:
        UserError: PyTorch is needed and not installed, or the disk cannot be written.
    """
    if path.suffix == ".safetensors":
        _atomically(path, lambda temporary: safetensors.numpy.save_file(dict(state), temporary))
        return
    try:
        import torch
    except ImportError as error:
        raise UserError("Writing .pth needs PyTorch: pip install 'jaxft[torch]', or choose safetensors.") from error
    _atomically(path, lambda temporary: torch.save(state_dict(state), temporary))


def state_dict(state: Mapping[str, np.ndarray]) -> "OrderedDict[str, torch.Tensor]":
    """Tensors by name as PyTorch's `load_state_dict` takes them, without a copy where the arrays allow it.

    It says that it is of a network's second version, because torchvision's MNASNet accepts no state dict that says
    nothing; the first versions had other keys and shapes, so that no network mistakes it.
    """
    import torch

    tensors = OrderedDict(
        (key, torch.from_numpy(np.require(value, requirements=["C", "W"]))) for key, value in state.items()
    )
    tensors._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    return tensors


def _atomically(path: Path, save: Callable[[Path], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            save(temporary)
            os.replace(temporary, path)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} could not be written ({error}); choose another place with --output.") from error


def installed_weights(model: str) -> dict[str, str]:
    """The addresses of a model's weights, the default ones last, as an installed torchvision gives them."""
    try:
        from torchvision.models import get_model_weights

        entries = get_model_weights(model)
    except (ImportError, ValueError):
        return {}
    default_last = [*(entry for entry in entries if entry is not entries.DEFAULT), entries.DEFAULT]
    return {entry.name: entry.url for entry in default_last}
