"""Attention of a ViT-B/16 in two forms against PyTorch: `jax.nn.dot_product_attention`, and plain products and softmax.

    python -m benchmarks.attention --batch 16

Forward and backward; a ratio is PyTorch's seconds over ours.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from benchmarks.report import Output, Report, fastest, waiting
from benchmarks.sides import interleaved, ours, theirs

FORMS = {"products and softmax": "plain", "jax.nn.dot_product_attention": "library"}


@dataclass(frozen=True, kw_only=True)
class Size:
    """By default, the tokens of images of 224 pixels in patches of 16."""

    batch: int = 16
    """Images."""
    tokens: int = 197
    """Patches and the class token."""
    heads: int = 12
    """Heads."""
    width: int = 64
    """Channels of a head."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times attention."""

    size: Annotated[Size, tyro.conf.arg(name="")] = Size()
    rounds: int = 7
    """Timed runs of each program, in turn."""
    output: Annotated[Output, tyro.conf.arg(name="")] = field(default_factory=Output)


def main() -> int:
    """Prints the table; 1 where something could not be measured."""
    options = tyro.cli(Options)
    size = asdict(options.size)
    report = Report("attention", options, options.output)
    report.head(f"{size}, {options.rounds} rounds")
    reference = theirs("benchmarks.their_attention:attention", options.output.torch, **size)
    forms = {name: ours(f"benchmarks.our_attention:{function}", **size) for name, function in FORMS.items()}
    outcomes = interleaved({**reference, **forms}, options.rounds, told=waiting)
    for name in forms:
        report.beside(name, "with gradient", outcomes, name, fastest(outcomes, reference))
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
