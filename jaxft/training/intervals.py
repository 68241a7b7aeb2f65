"""When a run is evaluated."""

from jaxft.config import Config


def evaluation_due(config: Config, step: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Whether the model of a step of the whole run is evaluated: every so often, from a moment on; and in the end."""
    if step == total_steps:
        return True
    count, rest = (step, 0) if config.evaluate_unit == "step" else divmod(step, steps_per_epoch)
    return not rest and count >= config.evaluate_from and count % config.evaluate_every == 0
