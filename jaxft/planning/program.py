"""The training step of a configuration, compiled for a slice that is not here, and what it takes on each chip."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxft.activity import doing
from jaxft.config import Config
from jaxft.config import replace as changed
from jaxft.data.dataset import Dataset
from jaxft.errors import UserError
from jaxft.planning.chips import Topology, unknown_shape
from jaxft.planning.collectives import Collective, collectives
from jaxft.tasks.task import Task
from jaxft.training.batch import resolved
from jaxft.training.layout import FSDP
from jaxft.training.setup import Setup, set_up
from jaxft.training.stages import Stage
from jaxft.training.step import Compiled

ASSUMED = 1000  # classes, where nothing says how many


@dataclass(frozen=True)
class Planned:
    """A compiled step, and what it takes on each chip.

    Attributes:
        topology: where it runs.
        batch: examples a step, on all chips.
        parts: in which they go through the model one after the other.
        precision: see `jaxft.precision`.
        state: bytes of `parameters`, `statistics`, `optimizer state` and `moving average`.
        inputs: bytes of the batch.
        temporaries: bytes of activations, gradients and whatever else lives within a step.
        code: bytes of the program.
        group: chips that hold the state together.
        flops, bytes: that a step computes, and moves between memory and chip, as XLA counts them; it counts one turn of
            a loop, and that over the parts makes up nearly all.
        travels: what travels between the chips.
        seconds: that tracing and compiling took.
    """

    topology: Topology
    batch: int
    parts: int
    group: int
    precision: str
    state: dict[str, int]
    inputs: int
    temporaries: int
    code: int
    flops: float
    bytes: float
    travels: Sequence[Collective]
    seconds: tuple[float, float]

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return sum(self.state.values()) + self.inputs + self.temporaries + self.code

    @property
    def fits(self) -> bool:
        """Whether a chip has as many."""
        return self.memory <= self.topology.chip.memory

    @property
    def computing(self) -> float:
        """Seconds a step by the roofline (Williams, Waterman and Patterson, 2009): all products at the published peak,
        or all bytes at the published bandwidth, whichever takes longer."""
        chip = self.topology.chip
        return max(self.flops / chip.flops[self.precision], self.bytes / chip.bandwidth)

    @property
    def bound(self) -> str:
        """Which of the two it is."""
        chip = self.topology.chip
        by_flops = self.flops / chip.flops[self.precision] >= self.bytes / chip.bandwidth
        return "arithmetic" if by_flops else "memory"

    @property
    def travelling(self) -> float:
        """Seconds a step of all that travels, by the published speed of the links, one after the other."""
        return sum(self.seconds_of(one) for one in self.travels)

    def seconds_of(self, one: Collective) -> float:
        """Seconds of one operation."""
        return one.seconds(one.devices or self.topology.count, self.topology.link)

    @property
    def images_per_second(self) -> float:
        """At most, with nothing hidden behind anything else."""
        return self.batch / (self.computing + self.travelling)

    @property
    def largest_batch(self) -> int:
        """Examples a step that fit, as far as inputs and temporaries grow in proportion to them; 0 where none do."""
        chips = self.topology.count * self.parts
        left = self.topology.chip.memory - sum(self.state.values()) - self.code
        return max(int(left / ((self.inputs + self.temporaries) / (self.batch / chips))), 0) * chips

    def elsewhere(self, topology: Topology) -> "Planned":
        """The same program for each chip, on other chips, or another number of them: by arithmetic alone.

        Raises:
            UserError: each chip would hold another part of the state there.
        """
        before, after = self.topology.count, topology.count
        if before == after:
            return replace(self, topology=topology)
        if self.group == before > 1 or after % self.group:
            raise UserError(
                f"{topology.name} cannot be had from {self.topology.name} by arithmetic, because {self.group} chips "
                "hold the state together; plan it by itself."
            )
        sizes = {self.group: self.group, before // self.group: after // self.group, before: after, 0: after}
        travels = [one._replace(devices=sizes.get(one.devices, one.devices)) for one in self.travels]
        return replace(self, topology=topology, batch=self.batch // before * after, travels=travels)


def abstract_devices(topology: Topology) -> list[jax.Device]:
    """The devices of a slice that is not here, as libtpu describes them.

    Raises:
        UserError: libtpu is missing, or there is no such slice.
    """
    if not topology.chip.tpu:
        raise UserError(
            f"A step can be compiled for TPUs alone; name a TPU slice first, and {topology.name} after it, which is "
            "added by arithmetic."
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        from jax.experimental import topologies

        with _silence():
            described = topologies.get_topology_desc(
                platform="tpu", topology_name=topology.name, chip_config_name=topology.chip.cores
            )
    except Exception as error:  # jaxlib has no kind of its own for what libtpu refuses
        why = str(error).splitlines()[0][:200]
        if "libtpu" in why.lower() or "not installed" in why:
            raise UserError(
                f"libtpu, which compiles for TPUs, is missing ({why}); pip install 'jaxft[tpu]'."
            ) from error
        raise unknown_shape(topology, why) from error
    return list(described.devices)


@contextmanager
def _silence() -> Iterator[None]:
    """Within, nothing comes on standard error: libtpu says at length that there is no TPU."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def set_up_for(
    config: Config, devices: Sequence[jax.Device], *, batch_per_device: int | None, classes: int | None
) -> tuple[Setup, str]:
    """A run on devices before its first array, without its data; and what was assumed, in a line or none.

    Args:
        batch_per_device: examples of a device in one part, in the place of what the configuration says.
        classes: of the data, where the configuration does not say how many.
    """
    if config.stored_features:
        raise UserError(
            "stored_features computes what lies in front of what trains once, but a plan is of the step on images; "
            "leave it out, --no-stored-features."
        )
    if batch_per_device is not None:
        config = changed(config, {"data.batch_size": batch_per_device, "data.batch_per_device": True})
    config, _ = resolved(config, len(devices))
    told = known_classes(config)
    remark = "" if told or classes else f"{ASSUMED} classes are assumed; --classes says otherwise."
    names = tuple(f"class {number}" for number in range(classes or told or ASSUMED))
    task: Task = config.task.task(config.dtype)
    blank: Dataset = task.blank(config.data, names, config.data.batch_size)
    evaluated = config.data.validation is not None or config.data.holds_out
    datasets = (blank, blank if evaluated else None)
    return set_up(config, task=task, datasets=datasets, devices=devices, own_names=False), remark


def known_classes(config: Config) -> int | None:
    """How many classes the data have, as far as a configuration says it."""
    if config.data.single_class is not None:
        return 1
    return config.data.class_count or config.model.num_classes


def compiled_for(setup: Setup, stage: Stage, topology: Topology) -> list[Planned]:
    """The step of a stage for each shape of its batches, compiled, and what it takes."""
    step = Compiled(setup.training_step(stage), updates_state=True)
    inputs = setup.inputs(stage, stage.first)
    state, layout = setup.abstract_state(stage), setup.layout
    kinds: dict[str, Any] = {
        "parameters": state.params,
        "statistics": state.stats,
        "optimizer state": state.opt_state,
        "moving average": state.ema,
        **({"teacher": setup.teaching.arrays} if setup.teaching else {}),
    }
    found, parts = [], setup.config.optimizer.accumulate
    firsts = np.unique(setup.train.buckets, return_index=True)[1].tolist()
    for number, first in enumerate(firsts, 1):
        with doing(f"compiling the step of phase {stage.index + 1} for {topology.name}, program {number}"):
            example = setup.train.training(first, np.random.default_rng(0))
            batch = layout.abstract_batch(example, setup.config.data.batch_size)
            began = time.perf_counter()
            compiler = step.compiler(state, batch, inputs)
            traced = time.perf_counter()
            program = compiler()
            ended = time.perf_counter()
        cost, memory = program.cost_analysis() or {}, program.memory_analysis()
        assert memory is not None, "XLA says of CPUs and TPUs what memory a program takes"
        per_device = setup.config.data.batch_size // topology.count
        found.append(
            Planned(
                topology=topology,
                batch=setup.config.data.batch_size,
                parts=parts,
                group=layout.mesh.shape.get(FSDP, 1),
                precision=setup.config.precision,
                state={name: layout.bytes_per_device(tree) for name, tree in kinds.items()},
                inputs=sum(int(leaf.size) * leaf.dtype.itemsize for leaf in batch.values())
                // setup.config.data.batch_size
                * per_device,
                temporaries=memory.temp_size_in_bytes,
                code=memory.generated_code_size_in_bytes,
                flops=parts * float(cost.get("flops", 0)),
                bytes=parts * float(cost.get("bytes accessed", 0)),
                travels=tuple(collectives(program.as_text() or "", turns=parts)),
                seconds=(traced - began, ended - traced),
            )
        )
    return found
