"""Backbones and pyramids of MMDetection's configurations beside ResNet and FPN."""

from collections.abc import Callable
from functools import partial
from typing import Any

from converters import mmdet_values as values
from converters.mmdet_section import ConfigError, Section, text, whole, wholes
from jaxft.models.detection_types import Norm
from jaxft.models.hrnet import BLOCKS, HRFPN, HRNet, Stage
from jaxft.models.regnet_mmdet import ARCHITECTURES, RegNet

Part = Callable[..., Any]


def regnet(section: Section) -> Part:
    """RegNetX by the name of its architecture."""
    arch = section.take("arch", text)
    if arch not in ARCHITECTURES:
        key = section.key("arch")
        raise ConfigError(key, key, f"{key} is {arch!r}; known are {', '.join(ARCHITECTURES)}.")
    section.ignore("base_channels")
    section.only(style="pytorch", deep_stem=False, avg_down=False, zero_init_residual=True)
    made = partial(
        RegNet,
        arch=arch,
        in_channels=section.take("in_channels", whole, 3),
        stem_channels=section.take("stem_channels", whole, 32),
        strides=section.take("strides", wholes, (2, 2, 2, 2)),
        dilations=section.take("dilations", wholes, (1, 1, 1, 1)),
        out_indices=section.take("out_indices", wholes, (0, 1, 2, 3)),
        norm_cfg=values.norm(section, {"type": "BN"}) or Norm(),
    )
    section.done()
    return made


def hrnet(section: Section) -> Part:
    """HRNet by the four stages of its `extra`."""
    section.only(multiscale_output=True)
    section.ignore("zero_init_residual")
    extra = section.section("extra")
    made = partial(
        HRNet,
        stages=tuple(_stage(extra.section(f"stage{number}"), number) for number in (1, 2, 3, 4)),
        in_channels=section.take("in_channels", whole, 3),
        norm_cfg=values.norm(section, {"type": "BN"}) or Norm(),
    )
    extra.done()
    section.done()
    return made


def _stage(section: Section, branches: int) -> Stage:
    block = section.take("block", text)
    if block not in BLOCKS:
        key = section.key("block")
        raise ConfigError(key, key, f"{key} is {block!r}; known are {', '.join(BLOCKS)}.")
    stage = Stage(
        num_modules=section.take("num_modules", whole),
        block=block,
        num_blocks=section.take("num_blocks", wholes),
        num_channels=section.take("num_channels", wholes),
    )
    section.only(num_branches=branches)
    if not len(stage.num_blocks) == len(stage.num_channels) == branches:
        key = section.key("num_channels")
        raise ConfigError(key, key, f"{key} and num_blocks are not those of {branches} branches.")
    section.done()
    return stage


def hrfpn(section: Section) -> Part:
    """HRFPN."""
    section.only(conv_cfg=None, pooling_type="AVG")
    section.ignore("norm_cfg")  # which MMDetection's class takes and does not use
    made = partial(
        HRFPN,
        in_channels=section.take("in_channels", wholes),
        out_channels=section.take("out_channels", whole),
        num_outs=section.take("num_outs", whole, 5),
        stride=section.take("stride", whole, 1),
    )
    section.done()
    return made
