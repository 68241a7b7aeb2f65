"""What is in a checkpoint, and where each tensor goes: `python -m jaxft.inspect model.pth --model resnet18`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Group
from rich.table import Table

from jaxft.cli import program, run_command
from jaxft.errors import UserError
from jaxft.reporting.console import make_console

if TYPE_CHECKING:
    from converters.files import State

NAMED = 10  # classes in a line


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Shows what is in a checkpoint and, for a model, where each tensor goes."""

    source: tyro.conf.Positional[str]
    """A path, URL, package://MODULE/FILE or torchvision://NAME; FILE#model_ema for one of several in a file."""
    model: str | None = None
    """A model's name, or an MMDetection configuration; without it the checkpoint alone is shown, and which models it
    fits."""
    config: str | None = None
    """A configuration of jaxft in the place of a model: its model, with its edits, and how it names the checkpoint."""
    num_classes: int | None = None
    """Outputs of the model's last layer: 1000, or what the configuration says."""
    skip: tuple[str, ...] = ()
    """Patterns of names to leave out; @head is the class-dependent layers."""

    def run(self) -> None:
        """Prints the table."""
        from converters.sources import check
        from jaxft.reporting.screen import Screen

        check(self.source)
        if self.model is not None and self.config is not None:
            raise UserError("--model and --config both say what the model is; leave one of them out.")
        console = make_console()
        with Screen(console):
            if self.config is not None:
                console.print(self._configured(self.config))
            else:
                console.print(self._listed() if self.model is None else self._mapped(self.model))

    def _listed(self) -> Group:
        """The checkpoint alone."""
        from converters.sources import load

        state = load(self.source)
        table = Table("key", "shape", "dtype", title=self.source)
        for key, tensor in state.items():
            table.add_row(key, "x".join(map(str, tensor.shape)) or "scalar", str(tensor.dtype))
        return Group(table, f"{len(state)} tensors; fits: {self._fits(state)}", *self._said())

    def _fits(self, state: "State") -> str:
        """The models that a state dict is of."""
        from converters.recognition import fitting_models, mmdetection_like

        if names := fitting_models(state):
            return ", ".join(names)
        if like := mmdetection_like(state):
            return (
                f"no model of jaxft by name; its keys are those of MMDetection's {like}, or of a detector built on it: "
                "give its configuration, --model FILE.py or --model mmdet::NAME"
            )
        detector = any(key.startswith("bbox_head.") for key in state)
        hint = "; if it is MMDetection's, give its configuration with --model" if detector else ""
        return f"no model of jaxft by name{hint}"

    def _said(self) -> list[str]:
        """What the checkpoint says of itself beside its weights: the export of a run of jaxft, or MMDetection's."""
        from converters.files import read_classes, read_metadata
        from converters.naming import edits_of
        from converters.sources import locate

        path = locate(self.source if Path(self.source).exists() else self.source.partition("#")[0])
        meta, classes = read_metadata(path), read_classes(path)
        model, lines = meta.get("model"), list[str]()
        if isinstance(model, dict) and isinstance(model.get("mmdet"), dict):
            lines.append(f"exported by jaxft: {model['mmdet'].get('type')} of an MMDetection configuration")
        elif isinstance(model, dict) and isinstance(model.get("name"), str):
            options = "".join(f", {name}={value!r}" for name, value in (model.get("options") or {}).items())
            lines.append(f"exported by jaxft: {model['name']}{options}")
        if isinstance(model, dict) and model.get("edits"):
            lines.append(f"its edits: {edits_of(model)}")
        for key in ("experiment_name", "exp_name"):
            if isinstance(meta.get(key), str):
                lines.append(f"experiment: {meta[key]}")
        if classes:
            lines.append(f"{len(classes)} classes: {', '.join(classes[:NAMED])}{', ...' * (len(classes) > NAMED)}")
        if isinstance(meta.get("preprocessing"), dict):
            lines.append(
                f"preprocessing: {', '.join(f'{name} {value}' for name, value in meta['preprocessing'].items())}"
            )
        return lines

    def _mapped(self, model: str) -> Table:
        """The account of a model."""
        from converters.ledger import MismatchError, load_pretrained
        from converters.targets import target
        from jaxft.models import with_head

        filled = target(model, self.num_classes)
        skip = with_head(self.skip, partial(target, model))
        try:
            return load_pretrained(filled, self.source, skip=skip).table()
        except MismatchError as error:
            raise error.complete() from error

    def _configured(self, name: str) -> Group:
        """The account of the model of a configuration."""
        from converters.ledger import MismatchError, load_pretrained
        from jaxft.cli import read
        from jaxft.models import HEAD
        from jaxft.models.edited import edited
        from jaxft.training.model import ModelSource

        settings = read(name).config
        source, pretrained = ModelSource(settings), settings.pretrained
        source.check()
        classes = self.num_classes or settings.model.num_classes or settings.data.class_count
        if not classes:
            raise UserError(f"{name} does not say how many classes there are; say it with --num-classes.")
        model, original = source.abstract(classes), None if pretrained.edited is None else not pretrained.edited
        skip = self.skip or pretrained.skip
        skip = tuple(one for pattern in skip for one in (source.head() if pattern == HEAD else (pattern,)))
        try:
            ledger = load_pretrained(
                model,
                self.source,
                skip=skip,
                rename=pretrained.rename,
                prefix=pretrained.prefix,
                original=original,
            )
        except MismatchError as error:
            raise error.complete() from error
        record = edited(model)
        return Group(*(() if record is None else record.lines), ledger.table())


def main() -> None:
    """The command."""
    tyro.cli(Inspect, prog=program("inspect")).run()


if __name__ == "__main__":
    run_command(main)
