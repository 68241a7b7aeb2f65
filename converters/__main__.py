"""`python -m converters inspect|convert|verify|mmdet-coverage`: the commands of checkpoints under one name."""

from typing import Annotated

import tyro

from jaxft.cli import run_command
from jaxft.convert import Convert
from jaxft.inspect import Inspect
from jaxft.mmdet_coverage import Coverage
from jaxft.verify import Verify

Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Coverage, tyro.conf.subcommand("mmdet-coverage")]
)


def main() -> int | None:
    """The command."""
    command: Inspect | Convert | Verify | Coverage = tyro.cli(Command, prog="python -m converters")
    return command.run()


if __name__ == "__main__":
    run_command(main)
