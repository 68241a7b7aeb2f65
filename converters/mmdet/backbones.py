"""`model.backbone` of an MMDetection configuration: ResNet, ResNeXt, RegNet and HRNet."""

from functools import partial
from typing import Any

from converters.mmdet import values
from converters.mmdet.section import ConfigError, Part, Section, flag, number, standardized, text, whole, wholes
from jaxft.models.detectors.backbones.hrnet import BLOCKS, HRNet, Stage
from jaxft.models.detectors.backbones.regnet import ARCHITECTURES, RegNet
from jaxft.models.detectors.backbones.resnet import DEPTHS, ResNet
from jaxft.models.detectors.types import Norm


def regnet(section: Section) -> Part:
    """RegNetX by the name of its architecture."""
    arch = section.take("arch", text)
    if arch not in ARCHITECTURES:
        key = section.key("arch")
        raise ConfigError(key, key, f"{key} is {arch!r}; known are {', '.join(ARCHITECTURES)}.")
    section.ignore("base_channels", because="RegNet's widths follow from its arch")
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
    section.ignore("zero_init_residual", because="MMDetection's HRNet takes it and never acts on it")
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


def backbone(parent: Section) -> Part:
    """The constructor of the backbone that `parent.backbone` describes."""
    section = parent.section("backbone")
    kind = section.type(["ResNet", "ResNetV1d", "ResNeXt", "RegNet", "HRNet"])
    section.elsewhere("frozen_stages", "norm_eval", "init_cfg")  # `rules` and `initial` read them
    section.only(dcn=None, pretrained=None)
    section.ignore("with_cp", because=values.RECOMPUTED)
    section.ignore("stage_with_dcn", because="there are no deformable convolutions")
    even = section.standardizes()
    if kind in ("RegNet", "HRNet"):
        section.only(plugins=None)
        other = regnet(section) if kind == "RegNet" else hrnet(section)
        return standardized(other) if even else other
    depth, stages = section.take("depth", whole), section.take("num_stages", whole, 4)
    if depth not in DEPTHS or (kind == "ResNeXt" and depth < 50):
        raise section.refused("depth", depth, f"known are {', '.join(map(str, DEPTHS))}, for a ResNeXt from 50 on")
    options: dict[str, Any] = {
        "depth": depth,
        "contexts": _contexts(section, depth, stages),
        "in_channels": section.take("in_channels", whole, 3),
        "stem_channels": section.take("stem_channels", whole) if section.has("stem_channels") else None,
        "base_channels": section.take("base_channels", whole, 64),
        "num_stages": stages,
        "strides": _for_stages(section, "strides", (1, 2, 2, 2), stages),
        "dilations": _for_stages(section, "dilations", (1, 1, 1, 1), stages),
        "out_indices": section.take("out_indices", wholes, (0, 1, 2, 3)),
        "style": section.take("style", _style, "pytorch"),
        "deep_stem": section.take("deep_stem", flag, kind == "ResNetV1d"),
        "avg_down": section.take("avg_down", flag, kind == "ResNetV1d"),
        "norm_cfg": values.norm(section, {"type": "BN"}) or Norm(),
        "zero_init_residual": section.take("zero_init_residual", flag, True),
    }
    if kind == "ResNeXt":
        options |= {"groups": section.take("groups", whole, 1), "base_width": section.take("base_width", whole, 4)}
    section.done()
    made = partial(ResNet, **options)
    return standardized(made) if even else made


def _style(value: Any) -> str:
    """Pytorch or caffe."""
    if value not in ("pytorch", "caffe"):
        raise ValueError(value)
    return str(value)


def _for_stages(section: Section, name: str, default: tuple[int, ...], stages: int) -> tuple[int, ...]:
    found = section.take(name, wholes, default)
    if len(found) != stages:
        raise section.refused(name, found, f"one for each of num_stages = {stages} was expected")
    return found


def _contexts(section: Section, depth: int, stages: int) -> tuple[float | None, ...]:
    """`plugins`: at most one `ContextBlock` after the third convolution of a block; its ratio in each stage."""
    plugins = section.listed("plugins")
    if not plugins:
        return ()
    plugin, *others = plugins
    block = plugin.section("cfg")
    block.type(["ContextBlock"])
    if others or depth < 50:
        key = section.key("plugins")
        raise ConfigError(key, key, f"{key}: jaxft knows one, in a ResNet of at least 50 layers.")
    block.only(pooling_type="att", fusion_types=("channel_add",))
    plugin.only(position="after_conv3")
    ratio = block.take("ratio", number)
    places = plugin.take("stages", _flags, (True,) * stages)
    if len(places) != stages:
        raise plugin.refused("stages", places, f"one for each of num_stages = {stages} was expected")
    block.done()
    plugin.done()
    return tuple(ratio if there else None for there in places)


def _flags(value: Any) -> tuple[bool, ...]:
    """A list of True and False."""
    return tuple(flag(item) for item in value)
