"""Ways to fine-tune one network, side by side: `python -m jaxft.compare --config FILE`; see `jaxft.ways`."""

import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.table import Table

from jaxft.activity import doing
from jaxft.checks import check_places
from jaxft.cli import run_command, start, with_config
from jaxft.config import Config, replace, to_json
from jaxft.config_file import run_name
from jaxft.errors import UserError
from jaxft.places import write_whole
from jaxft.reporting.console import make_console
from jaxft.tasks.task import Metric
from jaxft.ways import MEANING, WAYS, Way, changed, upper_half

READING = """from pathlib import Path

from jaxft.config import from_json

config = from_json(Path({0!r}).read_text(), Path({0!r}))
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains a network in several ways, with several seeds each, one run after the other, and prints a table. A
    comparison that was broken off goes on with the run that it was at. Any field of the configuration can be given."""

    config: str
    """The configuration, as of `jaxft train`: network, data, rate, and the epochs that every run has in all."""
    ways: tuple[Way, ...] = WAYS
    """scratch (random first values), features (the head alone), partial (the upper half of the blocks, too), full
    (everything), progressive (head, upper half, everything, one after the other), lora (head and low-rank
    additions, those of the configuration or of rank 8); given (the configuration as it is)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every way is trained once with each, on each of `data.folds`, where the configuration has some."""
    workdir: Path | None = None
    """A folder for the runs; runs/compare-NAME OF THE CONFIGURATION by default."""
    json: bool = False
    """Print one JSON object on standard output, and all else on standard error."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


class Outcome(NamedTuple):
    """What a run gave: the best and the last value of the metric that chooses the best model, seconds of wall clock
    until its end (0 where it was finished before), its peak memory in words."""

    seed: int
    fold: int
    best: float
    last: float
    seconds: float
    memory: str


def main() -> None:
    """The command."""
    options = with_config(Options, sys.argv[1:], "compare")
    if not (options.ways and options.seeds):
        raise UserError("Name at least one of --ways and one of --seeds.")
    if options.settings.data.fold:
        raise UserError(f"data.fold is {options.settings.data.fold}, but compare trains on every fold; leave it out.")
    check_places(options.settings, None)
    start()
    from jaxft.reporting.screen import Screen

    console = make_console(stderr=options.json)
    folder = options.workdir or Path("runs") / f"compare-{run_name(options.config)}"
    with Screen(console) as screen, doing("comparing"):
        configs, trained, metric = planned(options)
        outcomes: dict[Way, list[Outcome]] = {}
        for way, config in configs.items():
            screen.say(f"{way}: {MEANING[way]}, {trained[way]:,} numbers trained")
            for seed, fold in product(options.seeds, range(max(config.data.folds, 1))):
                name = f"{seed}, fold {fold}" if config.data.folds else f"{seed}"
                with doing(f"training {way}, seed {name}"):
                    place = folder / f"{way}-{name.replace(', fold ', '-')}"
                    outcome = run(replace(config, {"seed": seed, "data.fold": fold}), place, metric)
                outcomes.setdefault(way, []).append(outcome)
                screen.say(f"  seed {name}: best {metric.name} {outcome.best:.4f}, last {outcome.last:.4f}")
        with doing("drawing"):
            from jaxft.reporting.pictures import spreads

            lasts: dict[str, list[float]] = {
                way: [outcome.last for outcome in found] for way, found in outcomes.items()
            }
            spreads(lasts, f"last {metric.name}", folder / "comparison.png")
    if options.json:
        content = {way: [outcome._asdict() for outcome in found] for way, found in outcomes.items()}
        print(json.dumps({"metric": metric.name, "trained": trained, "ways": content}, indent=2))
        return
    console.print(table(outcomes, trained, metric.name))
    console.print(f"Drawn in {folder / 'comparison.png'}", highlight=False, soft_wrap=True)


def planned(options: Options) -> tuple[dict[Way, Config], dict[Way, int], Metric]:
    """The configuration of each way, how many numbers it trains at most, and the metric.

    Raises:
        UserError: a way does not fit the network or the budget, or a run could not be started.
    """
    import jax

    from jaxft.training.batch import resolved
    from jaxft.training.setup import set_up
    from jaxft.training.trials import block_depths

    settings, _ = resolved(options.settings, jax.device_count())
    setup = set_up(settings)
    if setup.validation is None:
        raise UserError(
            "Nothing is evaluated, so that nothing can be compared; set --data.validation or --data.holdout."
        )
    upper = upper_half(block_depths(setup.task, setup.model, setup.train), setup.source.head())
    configs = {way: changed(settings, way, upper) for way in options.ways}
    trained = {}
    for way, config in configs.items():
        each = set_up(config)
        trained[way] = max(map(each.trained_numbers, each.stages))
    return configs, trained, setup.best_metric


def run(config: Config, folder: Path, metric: Metric) -> Outcome:
    """Trains to the end in a process of its own, or from where it was broken off, and reads its figures.

    Raises:
        UserError: the run says what is wrong.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    said, file = folder.with_suffix(".json"), folder.with_suffix(".py")
    write_whole(said, to_json(config).encode())
    write_whole(file, READING.format(str(said.resolve())).encode())
    began = time.monotonic()
    command = [sys.executable, "-m", "jaxft.train", "--config", str(file), "--workdir", str(folder), "--resume"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        message = ended.stderr.strip().rpartition("error: ")[2]
        raise UserError(f"{folder} did not come to its end (exit code {ended.returncode}): {message}")
    last = last_step(folder)
    seconds = 0.0 if f"Going on from step {last} of {last} " in ended.stdout else time.monotonic() - began
    memory = re.search(r"Peak memory: (.*)\.", ended.stdout)
    values = [line[metric.name] for line in validation(folder) if metric.name in line]
    if not values:
        raise UserError(f"No evaluation of {folder} gives {metric.name}; choose another --best-metric.")
    best = (max if metric.greater_is_better else min)(values)
    return Outcome(config.seed, config.data.fold, best, values[-1], seconds, memory[1] if memory else "")


def validation(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == "validation"]


def last_step(folder: Path) -> int:
    """The step of the last evaluation."""
    return int(validation(folder)[-1]["step"])


def table(outcomes: dict[Way, list[Outcome]], trained: dict[Way, int], metric: str) -> Table:
    """A row a way: means over its runs, with the standard deviation of one, and the lowest and highest."""
    shown = Table("way", "trained", f"last {metric}", "lowest to highest", f"best {metric}", "seconds", "memory")
    runs = max(map(len, outcomes.values()))
    shown.title = f"{runs} run(s) each; last is what an ordinary run ends with, best was chosen on the same photos"
    for way, found in outcomes.items():
        last, timed = [one.last for one in found], [one.seconds for one in found if one.seconds]
        shown.add_row(
            way,
            f"{trained[way]:,}",
            f"{statistics.fmean(last):.4f}" + (f" ± {statistics.stdev(last):.4f}" if len(last) > 1 else ""),
            f"{min(last):.4f} to {max(last):.4f}",
            f"{statistics.fmean(one.best for one in found):.4f}",
            f"{statistics.median(timed):.0f}" if timed else "",
            max((one.memory for one in found), key=len),
        )
    return shown


if __name__ == "__main__":
    run_command(main)
