"""All commands under one name: `jaxft COMMAND ...` is `python -m jaxft.COMMAND ...`."""

import difflib
import importlib
import sys

from jaxft.memory import keep_memory

COMMANDS = {
    "train": "fine-tune a model, or go on with a run",
    "browse": "a page about the data of a configuration: what they are, duplicates, what is odd",
    "plan": "what a run takes on a TPU slice that is not here: memory, time, traffic",
    "compare": "ways to fine-tune a network, side by side",
    "lr-find": "a learning rate to begin with",
    "report": "a page of all that a run has seen, of several runs side by side",
    "evaluate": "metrics of a run's model on a split",
    "predict": "what a run's model says of photos",
    "calibrate": "one temperature for a run's logits, so that its probabilities say how often it is right",
    "average": "the mean of a run's checkpoints, as a PyTorch state dict",
    "export": "a run's model as a PyTorch state dict, as safetensors, or as a StableHLO program",
    "inspect": "what is in a checkpoint, and where each tensor goes",
    "convert": "a checkpoint between PyTorch's names and axes and Flax's",
    "verify": "PyTorch's model and ours on the same weights and images",
    "verify-resume": "steps of a run against the same ones stopped and resumed",
    "mmdet-coverage": "which MMDetection configurations can be built",
}
VARIABLES = (
    "With JAXFT_MALLOC=0 in the environment, commands leave the C library's handling of memory as it is;",
    "with JAXFT_DISTRIBUTED=0 processes that were started together, such as by srun, do not join;",
    "with JAXFT_ONEDNN=0 programs for CPUs are slower, without oneDNN, but kept in the compile cache.",
)


def usage() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {said}" for name, said in COMMANDS.items()]
    return "\n".join(
        ["usage: jaxft COMMAND ...", "", *lines, "", "jaxft COMMAND --help shows the options of a command.", *VARIABLES]
    )


def main() -> None:
    """Runs the command that is named first; nothing else is imported."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        print(f"error: jaxft has no command {name!r}{hint}\n" if name else "", usage(), sep="", file=sys.stderr)
        sys.exit(2)
    keep_memory()
    from jaxft.cli import run_command

    sys.argv = [f"jaxft {name}", *rest]
    module = importlib.import_module(f"jaxft.{name.replace('-', '_')}")
    run_command(module.main)


if __name__ == "__main__":
    main()
