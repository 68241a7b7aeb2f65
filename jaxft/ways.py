"""Ways to fine-tune one network on one data set under one budget, as changes of a configuration: `jaxft compare`."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Literal, get_args

from jaxft.adapters import Lora
from jaxft.config import Config, Phase, Pretrained, Rule, replace
from jaxft.errors import UserError

Way = Literal["scratch", "features", "partial", "full", "progressive", "lora", "given"]
WAYS: tuple[Way, ...] = tuple(way for way in get_args(Way) if way != "given")
MEANING: dict[Way, str] = {
    "scratch": "random first values, everything trained",
    "features": "the head alone",
    "partial": "the head and the upper half of the blocks",
    "full": "everything",
    "progressive": "the head, then the upper half with it, then everything",
    "lora": "the head and low-rank additions",
    "given": "the configuration as it is",
}
LORA = Lora(rank=8)  # where the configuration has none
HEAD_SCALE = 10.0  # of the rate, where the configuration says nothing of the head


def changed(config: Config, way: Way, upper: Sequence[str]) -> Config:
    """The configuration for a way, with as many epochs in all, and the rate, schedule and BatchNorm of the last phase.

    Args:
        upper: patterns of the upper half of the network; see `upper_half`.

    Raises:
        UserError: the network has no upper half, or the budget is less than an epoch a phase, or in steps.
    """
    if way == "given":
        return config
    if any(phase.steps is not None for phase in config.phases):
        raise UserError("compare shares out epochs; give the phases epochs and no steps.")
    budget, last = sum(phase.epochs for phase in config.phases), config.phases[-1]
    head, given = head_rule(config), config
    # What is of one way alone.
    config = replace(config, {"model.lora": Lora(), "stored_features": given.stored_features and way == "features"})

    def phase(epochs: int, *rules: Rule, **changes: object) -> Phase:
        return replace(last, {"epochs": epochs, "rules": rules, **changes})

    if way == "scratch":
        if "pretrained.source" in config.task.implied():
            raise UserError(
                "The task starts from an old model, so that nothing is from scratch; leave it out of --ways."
            )
        fresh = phase(budget, Rule(pattern="*"), batch_norm="batch")
        return replace(config, {"pretrained": Pretrained(), "phases": (fresh,)})
    frozen, all_of_it = Rule(pattern="*", frozen=True), Rule(pattern="*")
    if way == "features":
        return replace(config, {"phases": (phase(budget, head, frozen),)})
    if way == "full":
        return replace(config, {"phases": (phase(budget, head, all_of_it),)})
    if way == "lora":
        additions = Rule(pattern="*.lora", lr_scale=head.lr_scale)
        lora = given.model.lora if given.model.lora.rank else LORA
        return replace(config, {"model.lora": lora, "phases": (phase(budget, head, additions, frozen),)})
    if not upper:
        raise UserError(f"The network has no blocks to freeze the lower half of; leave {way} out of --ways.")
    rest = [Rule(pattern=pattern) for pattern in upper]
    if way == "partial":
        return replace(config, {"phases": (phase(budget, head, *rest, frozen),)})
    if budget < 3:
        raise UserError(f"progressive has three phases, but there are {budget} epochs in all; give it at least 3.")
    first = budget // 3
    second = (budget - first) // 2
    lengths = (first, second, budget - first - second)
    rules = ((head, frozen), (head, *rest, frozen), (head, all_of_it))
    phases = tuple(phase(epochs, *each) for epochs, each in zip(lengths, rules, strict=True))
    return replace(config, {"phases": phases})


def head_rule(config: Config) -> Rule:
    """What the head gets: the configuration's first rule for `@head`, not frozen, or ten times the rate."""
    rules = (rule for phase in config.phases for rule in phase.rules)
    return next(
        (rule for rule in rules if rule.pattern == "@head" and not rule.frozen),
        Rule(pattern="@head", lr_scale=HEAD_SCALE),
    )


def upper_half(depths: Mapping[str, int], head: Sequence[str]) -> list[str]:
    """Patterns of the upper half of the blocks and of what comes after them but for the head, as few as name them and
    nothing else; none where there are less than two blocks.

    Args:
        depths: of every parameter; see `jaxft.models.depth`.
        head: the paths of the head's parts.
    """
    from jaxft.models.paths import matches  # with Flax, which takes a second

    blocks = max(depths.values(), default=0) - 1
    wanted = {
        path
        for path, depth in depths.items()
        if blocks >= 2 and depth > blocks - blocks // 2 and not any(matches(part, path) for part in head)
    }
    return sorted({_shortest(path, wanted, depths) for path in wanted})


def _shortest(path: str, wanted: set[str], depths: Mapping[str, int]) -> str:
    """The shortest beginning of a path that names wanted parameters alone."""
    from jaxft.models.paths import matches

    parts = path.split(".")
    beginnings = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    mixed = list(takewhile(lambda start: any(matches(start, other) for other in depths.keys() - wanted), beginnings))
    return beginnings[len(mixed)]
