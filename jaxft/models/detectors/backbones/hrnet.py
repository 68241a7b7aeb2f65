"""HRNet under MMDetection's names: branches of several resolutions that exchange what they see.

Wang et al. 2019, https://arxiv.org/abs/1908.07919; Sun et al. 2019, https://arxiv.org/abs/1904.04514.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from flax import nnx
from jax import Array

from jaxft.models.detectors.backbones.resnet import BATCH_NORM, BasicBlock, Bottleneck, convolution, shortcut
from jaxft.models.detectors.conv_module import norm_name, normalization
from jaxft.models.detectors.types import Norm
from jaxft.models.layers import Sequential
from jaxft.models.layers.resize import nearest

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"BASIC": BasicBlock, "BOTTLENECK": Bottleneck}


@dataclass(frozen=True)
class Stage:
    """`extra.stageN` of a configuration: modules, and for each branch its number of blocks and its channels."""

    num_modules: int
    block: str
    num_blocks: tuple[int, ...]
    num_channels: tuple[int, ...]

    @property
    def outputs(self) -> list[int]:
        """Channels that come out of each branch."""
        return [channels * BLOCKS[self.block].expansion for channels in self.num_channels]


def same(x: Array) -> Array:
    """Stands where the original has no layer."""
    return x


def blocks(kind: str, inputs: int, planes: int, count: int, norm: Norm, rngs: nnx.Rngs) -> Sequential:
    """`count` residual blocks of one resolution."""
    block, made = BLOCKS[kind], []
    for _ in range(count):
        outputs = planes * block.expansion
        downsample = None if inputs == outputs else shortcut(inputs, outputs, 1, False, norm, rngs)
        made.append(
            block(
                inputs,
                planes,
                stride=1,
                dilation=1,
                style="pytorch",
                width=planes,
                groups=1,
                norm=norm,
                zero_last=False,
                downsample=downsample,
                rngs=rngs,
            )
        )
        inputs = outputs
    return Sequential(made)


def strided(inputs: int, outputs: int, norm: Norm, rngs: nnx.Rngs, *, relu: bool) -> Sequential:
    """A 3x3 convolution that halves the resolution."""
    layers = [convolution(inputs, outputs, 3, stride=2, padding=1, rngs=rngs), normalization(norm, outputs)]
    return Sequential([*layers, nnx.relu] if relu else layers)


class Module(nnx.Module):
    """Blocks in every branch, then each branch is the sum of all, brought to its resolution."""

    def __init__(self, stage: Stage, channels: Sequence[int], norm: Norm, rngs: nnx.Rngs) -> None:
        self.branches = nnx.List(
            [
                blocks(stage.block, inputs, planes, count, norm, rngs)
                for inputs, planes, count in zip(channels, stage.num_channels, stage.num_blocks, strict=True)
            ]
        )
        outputs = stage.outputs
        fuse = partial(self._path, outputs, norm, rngs)
        branches = range(len(outputs))
        self.fuse_layers = nnx.List([nnx.List([fuse(here, there) for there in branches]) for here in branches])

    @staticmethod
    def _path(channels: Sequence[int], norm: Norm, rngs: nnx.Rngs, here: int, there: int) -> nnx.Module | partial:
        """What brings branch `there` to the channels of branch `here`, and down to its resolution."""
        if here == there:
            return partial(same)
        if there > here:
            layers = [convolution(channels[there], channels[here], 1, rngs=rngs), normalization(norm, channels[here])]
            return Sequential(layers)
        steps = here - there
        return Sequential(
            [
                strided(
                    channels[there],
                    channels[here if step == steps - 1 else there],
                    norm,
                    rngs,
                    relu=step < steps - 1,
                )
                for step in range(steps)
            ]
        )

    def __call__(self, maps: Sequence[Array]) -> list[Array]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for target, paths in zip(maps, self.fuse_layers, strict=True):
            parts = [path(x) for path, x in zip(paths, maps, strict=True)]
            parts = [part if part.shape == target.shape else nearest(part, target.shape[1:3]) for part in parts]
            fused.append(nnx.relu(sum(parts[1:], parts[0])))
        return fused


class HRNet(nnx.Module):
    """Images `[N, H, W, 3]` -> maps `[N, H / s, W / s, C]`, s = 4, 8, 16, 32.

    Args:
        stages: the four of `extra`.
        norm_cfg: of every convolution.
    """

    def __init__(
        self, stages: Sequence[Stage], *, in_channels: int = 3, norm_cfg: Norm = BATCH_NORM, rngs: nnx.Rngs
    ) -> None:
        self.name = norm_name(norm_cfg)
        self.conv1 = convolution(in_channels, 64, 3, stride=2, padding=1, rngs=rngs)
        self.conv2 = convolution(64, 64, 3, stride=2, padding=1, rngs=rngs)
        for number in (1, 2):
            setattr(self, f"{self.name}{number}", normalization(norm_cfg, 64))
        first = stages[0]
        self.layer1 = blocks(first.block, 64, first.num_channels[0], first.num_blocks[0], norm_cfg, rngs)
        channels = first.outputs
        for number, stage in enumerate(stages[1:], start=1):
            setattr(self, f"transition{number}", transition(channels, stage.outputs, norm_cfg, rngs))
            channels = stage.outputs
            modules = [Module(stage, channels, norm_cfg, rngs) for _ in range(stage.num_modules)]
            setattr(self, f"stage{number + 1}", nnx.List(modules))

    def __call__(self, x: Array) -> tuple[Array, ...]:
        """The maps of all branches, finest first."""
        x = nnx.relu(getattr(self, f"{self.name}1")(self.conv1(x)))
        x = nnx.relu(getattr(self, f"{self.name}2")(self.conv2(x)))
        maps = [self.layer1(x)]
        for number in (1, 2, 3):
            layers = getattr(self, f"transition{number}")
            # A branch that is new, or of other channels, is made from the coarsest map.
            maps = [
                maps[index] if isinstance(layer, partial) else layer(maps[-1]) for index, layer in enumerate(layers)
            ]
            for module in getattr(self, f"stage{number + 1}"):
                maps = module(maps)
        return tuple(maps)


def transition(before: Sequence[int], after: Sequence[int], norm: Norm, rngs: nnx.Rngs) -> nnx.List:
    """The layers that make the branches of the next stage."""
    layers: list[Sequential | partial] = []
    for index, outputs in enumerate(after):
        if index < len(before) and before[index] == outputs:
            layers.append(partial(same))
        elif index < len(before):
            conv = convolution(before[index], outputs, 3, padding=1, rngs=rngs)
            layers.append(Sequential([conv, normalization(norm, outputs), nnx.relu]))
        else:
            steps = index + 1 - len(before)
            widths = [before[-1]] * steps + [outputs]
            layers.append(
                Sequential([strided(inputs, width, norm, rngs, relu=True) for inputs, width in pairwise(widths)])
            )
    return nnx.List(layers)
