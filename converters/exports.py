"""A model as a file for PyTorch: its weights, and what must travel with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from converters.files import beside, write, write_beside
from converters.ledger import to_torch
from jaxft.data.preprocessing import Preprocessing
from jaxft.edits import plain
from jaxft.errors import UserError
from jaxft.models import made
from jaxft.models.edited import edited

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")


def export(
    model: nnx.Module,
    path: Path,
    *,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    wrapped: bool = False,
    rename: Mapping[str, str] | None = None,
    mmdet: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model's state dict under PyTorch's names, and the metadata that `converters.files.read_metadata` reads.

    A `.safetensors` holds both. A `.pth` holds the state dict alone, so that `load_state_dict(torch.load(path))` takes
    it, and `NAME.pth.json` beside it the metadata; or, `wrapped`, it is `{"state_dict": ..., "meta": ...}`, which
    MMDetection's own loader takes, the names of the classes included.

    Args:
        path: where to; its suffix says the format. A file that is there is replaced.
        classes: names of the classes, in the order of the model's outputs.
        preprocessing: how photos become what the model sees.
        rename: as of `to_torch`.
        mmdet: the `model` dict of the MMDetection configuration that the model was made from.

    Raises:
        UserError: the suffix is another one, the disk cannot be written, or a leaf has no name in PyTorch.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path.name} ends in none of {', '.join(SUFFIXES)}, so that its format is not known.")
    state, facts = to_torch(model, rename=rename), metadata(model, classes, preprocessing, mmdet)
    inside = path.suffix == ".safetensors" or wrapped
    beside(path).unlink(missing_ok=True)  # of weights that were here before, and never beside the new ones
    write(state, path, facts if inside else None)
    if facts and not inside:
        write_beside(path, facts)


def metadata(
    model: nnx.Module,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    mmdet: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is known of a model beside its weights, as JSON has it; the names of classes where MMDetection looks."""
    facts: dict[str, Any] = {}
    if classes:
        facts["dataset_meta"] = {"classes": list(classes)}
    if preprocessing is not None:
        facts["preprocessing"] = preprocessing.plain()
    record = edited(model)
    if record is not None and record.own:  # what came as it is cannot be described, so that the whole cannot
        return facts
    edits = {} if record is None else {"edits": [plain(group) for group in record.groups]}
    if mmdet is not None:
        facts["model"] = {"mmdet": dict(mmdet), **edits}
    elif (how := made(model)) is not None:
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in how.options}
        facts["model"] = {
            "name": how.name,
            "options": {name: v for name, v in options.items() if _is_plain(v)},
            **edits,
        }
    return facts


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | list | None)
