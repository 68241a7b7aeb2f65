"""Which configurations of a tree are built and can be trained, and why the others are not."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from converters.mmdet.file import read
from converters.mmdet.model import model_dict, parse, structure
from converters.mmdet.section import ConfigError
from converters.mmdet.training import understood
from converters.rules import leaves
from jaxft.errors import UserError
from jaxft.models.streams import initial_rngs


@dataclass(frozen=True)
class Verdict:
    """One configuration: how many keys its state dict has, and why it is not built or not trained, in short and in a
    sentence; one without a reason can be trained."""

    path: Path
    keys: int = 0
    reason: str = ""
    message: str = ""

    @property
    def trainable(self) -> bool:
        """Whether all of it is understood: data, schedule, batch, hooks and evaluation beside the model."""
        return not self.reason


def abstract(config: str | Path | Mapping[str, Any], num_classes: int | None = None) -> nnx.Module:
    """The detector of a configuration as shapes and types alone; the arguments are those of `create_model`."""
    part = parse(config, num_classes)
    return nnx.eval_shape(lambda: part(rngs=initial_rngs(0)))


def survey(folder: Path) -> Iterator[Verdict]:
    """A verdict on every configuration below a folder, in order of their paths; `_base_` folders hold only parts.

    Raises:
        UserError: there is no such folder, or nothing in it.
    """
    paths = sorted(path for path in folder.rglob("*.py") if "_base_" not in path.parts)
    if not paths:
        raise UserError(f"{folder} holds no configurations; a folder with .py files in it was expected.")
    known: dict[str, int] = {}
    for path in paths:
        try:
            config = read(path)
            model = model_dict(config)
        except UserError as error:
            reason = "no `model` dict" if "no `model` dict" in str(error) else "cannot be read"
            yield Verdict(path, 0, reason, str(error))
            continue
        try:
            parse(model)
        except ConfigError as error:
            yield Verdict(path, 0, error.reason, str(error))
            continue
        key = structure(model)
        if key not in known:
            known[key] = sum(1 for _ in leaves(abstract(model)))
        try:
            understood(config)
        except ConfigError as error:
            yield Verdict(path, known[key], error.reason, str(error))
        else:
            yield Verdict(path, known[key])


def reasons(verdicts: Iterable[Verdict]) -> list[tuple[str, int]]:
    """Why configurations are refused, the most frequent reason first."""
    return Counter(verdict.reason for verdict in verdicts if verdict.reason).most_common()
