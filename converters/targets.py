"""The model that a checkpoint is for, from what a person writes after `--model`."""

from flax import nnx

from jaxft.models import abstract_model, builder


def check_target(model: str) -> None:
    """Raises a UserError where there is no model of a name; a configuration of MMDetection is not opened."""
    if not _is_mmdet(model):
        builder(model)


def target(model: str, num_classes: int | None) -> nnx.Module:
    """The abstract model of a name, or of an MMDetection configuration (a `.py` file or `mmdet::NAME`).

    Raises:
        UserError: there is no such model, or it is not built.
    """
    if _is_mmdet(model):
        from converters.mmdet import coverage

        return coverage.abstract(model, num_classes)
    return abstract_model(model, num_classes)


def _is_mmdet(model: str) -> bool:
    return model.endswith(".py") or "::" in model
