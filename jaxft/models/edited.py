"""What was edited in a model, kept at the model: `jaxft.surgery` writes it, checkpoints and exports go by it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx

EDITED = "edited"  # the attribute of a model that holds it


@dataclass(frozen=True)
class Edited:
    """What became of a model's layers.

    Attributes:
        groups: what was done, as fields of `jaxft.edits` with every size, one group after the other; the paths of a
            group are those of the model as the groups before it left it.
        moved: for each PyTorch key that a kept array has another name by now: the key now and the key before.
        deleted: the keys before of the arrays that are gone.
        new: our paths of the arrays that came.
        lines: what was done, in words.
        num_classes: what a `Linear` without `out_features` puts out; None where it is not known.
        own: kinds of the layers that came as they are, so that fields do not describe them.
        replay: does the same to another model, such as one of another number of classes.
    """

    groups: tuple[tuple[Any, ...], ...]
    moved: tuple[tuple[str, str], ...]
    deleted: tuple[str, ...]
    new: tuple[str, ...]
    lines: tuple[str, ...]
    num_classes: int | None
    own: tuple[str, ...]
    replay: Callable[["Edited", nnx.Module, int], nnx.Module]

    def again(self, model: nnx.Module, num_classes: int) -> nnx.Module:
        """Edits a model, fresh from its builder, as this one was.

        Raises:
            UserError: a layer came that fields do not describe.
        """
        return self.replay(self, model, num_classes)


def edited(model: nnx.Module) -> Edited | None:
    """What was edited in a model; None where nothing was."""
    found = getattr(model, EDITED, None)
    return found if isinstance(found, Edited) else None
