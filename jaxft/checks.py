"""What is known to be wrong with a run from paths alone, before JAX is imported: within a second, whatever the data."""

from jaxft.config import Config, Pretrained
from jaxft.data.download import check_root
from jaxft.errors import UserError
from jaxft.fields import differences
from jaxft.places import check_writable
from jaxft.run import RunDirectory


def check_places(config: Config, run: RunDirectory | None, *, resume: bool = False, own_data: bool = False) -> None:
    """Looks whether a run could be written, and whether its checkpoint and its data are there.

    Args:
        run: where it would be written; None for a dry run, which writes nothing.
        resume: go on with the run, where there is one; it needs its first weights no more.
        own_data: the datasets are a user's own.

    Raises:
        UserError: something is in the way, or missing.
    """
    if run is not None and resume and run.exists():
        own_data = own_data or "datasets" in run.own()
    else:
        if run is not None:
            run.refuse_existing()
            check_writable(run.path)
        if config.pretrained.source is not None:
            from converters.sources import check

            check(config.pretrained.source)
        _check_used(config)
    if not own_data:
        check_root(config.data)


def _check_used(config: Config) -> None:
    """Raises a UserError where a field is given that nothing would read, by its name."""
    pretrained, optimizer = config.pretrained, config.optimizer
    if pretrained.source is None:
        for name in ("sha256", "skip", "transfer_head_rows", "rename", "new_kernels"):
            if (found := getattr(pretrained, name)) != getattr(Pretrained(), name):
                raise UserError(
                    f"pretrained.{name} is {found!r}, but there is no checkpoint that it could speak of; name one by "
                    f"pretrained.source, or leave pretrained.{name} out."
                )
    if optimizer.name != "sgd":
        for name in ("momentum", "nesterov"):
            if found := getattr(optimizer, name):
                raise UserError(
                    f"optimizer.{name} is {found!r}, which is sgd's alone, but optimizer.name is {optimizer.name!r}; "
                    f"set optimizer.{name} to {type(found)()}."
                )
    for section, switch in (("ema", "decay"), ("early_stopping", "patience")):
        fields, nothing = getattr(config, section), getattr(Config(), section)
        if getattr(fields, switch) is None and (given := differences(fields, nothing)):
            name, (found, _) = next(iter(given.items()))
            raise UserError(
                f"{section}.{name} is {found!r}, but {section}.{switch} is None, which turns it off; set "
                f"{section}.{switch}, or leave {section}.{name} out."
            )
    if optimizer.moments != "float32" and optimizer.name == "sgd" and not optimizer.momentum:
        raise UserError(
            f"optimizer.moments is {optimizer.moments!r}, but sgd without momentum keeps none; set optimizer.momentum, "
            "or leave optimizer.moments out."
        )
    if optimizer.nesterov and not optimizer.momentum:
        raise UserError("optimizer.nesterov is a form of momentum, but optimizer.momentum is 0; set that, too.")
