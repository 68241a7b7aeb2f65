"""The batch that a configuration means on the devices there are, and the learning rate that goes with it."""

from jaxft.config import Config, replace
from jaxft.errors import UserError


def resolved(config: Config, devices: int, begun: Config | None = None) -> tuple[Config, str]:
    """A configuration in the numbers that will run, and what a person should know of its rate, in a line or none.

    The batch counts all examples of a step, and the rate is scaled in proportion to it where that is asked for
    (https://arxiv.org/abs/1706.02677). To resolve the result once more changes nothing.

    Args:
        devices: of all processes of the run.
        begun: the configuration of a run that goes on: if its batch is so much for each of some devices it stays, also
            on more or fewer of them.

    Raises:
        UserError: the rate is to be scaled, but it is not said what it is meant for.
    """
    batch, optimizer = config.data.batch_size, config.optimizer
    if config.data.batch_per_device:
        batch *= optimizer.accumulate
        stays = begun is not None and begun.data.batch_size % batch == 0
        batch = begun.data.batch_size if begun is not None and stays else batch * devices
    base, rate = optimizer.base_batch_size, optimizer.learning_rate
    numbers = {"data.batch_per_device": False, "data.batch_size": batch, "auto_scale_lr": False}
    if base is None:
        if config.auto_scale_lr:
            raise UserError(
                "auto_scale_lr scales the learning rate from the batch that it is meant for, but "
                "optimizer.base_batch_size does not say which; give it, or leave auto_scale_lr out."
            )
        return replace(config, numbers), ""
    scaled = rate * (batch / base)
    if config.auto_scale_lr:
        scaling = {"optimizer.learning_rate": scaled, "optimizer.base_batch_size": batch}
        return replace(config, numbers | scaling), (
            f"The learning rate is {scaled:g} for {batch} examples a step, scaled from {rate:g} for {base}."
        )
    if base == batch:
        return replace(config, numbers), ""
    return replace(config, numbers), (
        f"A step takes {batch} examples, but the learning rate {rate:g} is meant for {base} "
        f"(optimizer.base_batch_size); --auto-scale-lr makes it {scaled:g}."
    )
