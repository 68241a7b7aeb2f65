"""`model.neck` of an MMDetection configuration: FPN and HRFPN."""

from functools import partial

from converters.mmdet import values
from converters.mmdet.section import ConfigError, Part, Section, flag, standardized, whole, wholes
from jaxft.models.detectors.necks.fpn import FPN
from jaxft.models.detectors.necks.hrfpn import HRFPN


def hrfpn(section: Section) -> Part:
    """HRFPN."""
    section.only(conv_cfg=None, pooling_type="AVG")
    section.ignore("norm_cfg", because="MMDetection's HRFPN takes it and does not use it")
    made = partial(
        HRFPN,
        in_channels=section.take("in_channels", wholes),
        out_channels=section.take("out_channels", whole),
        num_outs=section.take("num_outs", whole, 5),
        stride=section.take("stride", whole, 1),
    )
    section.done()
    return made


def neck(parent: Section) -> Part | None:
    """The constructor of the neck that `parent.neck` describes; None where there is none."""
    if not parent.has("neck"):
        parent.elsewhere("neck")
        return None
    if isinstance(parent.values["neck"], list | tuple):
        key = parent.key("neck")
        raise ConfigError(key, f"{key} of several parts", f"{key} has several parts; jaxft builds one FPN.")
    section = parent.section("neck")
    kind = section.type(["FPN", "HRFPN"])
    section.elsewhere("init_cfg")  # `initial` reads it
    section.ignore("with_cp", because=values.RECOMPUTED)
    if kind == "HRFPN":
        return hrfpn(section)
    section.only(act_cfg=None, upsample_cfg={"mode": "nearest"})
    even = section.standardizes()
    extra = section.values.pop("add_extra_convs", False)
    channels, outs = section.take("in_channels", wholes), section.take("num_outs", whole)
    start, end = section.take("start_level", whole, 0), section.take("end_level", whole, -1)
    _check_outs(section, outs, len(channels), start, end)
    made = partial(
        FPN,
        in_channels=channels,
        out_channels=section.take("out_channels", whole),
        num_outs=outs,
        start_level=start,
        end_level=end,
        add_extra_convs=extra if isinstance(extra, str) else bool(extra),
        relu_before_extra_convs=section.take("relu_before_extra_convs", flag, False),
        no_norm_on_lateral=section.take("no_norm_on_lateral", flag, False),
        norm_cfg=values.norm(section),
    )
    section.done()
    return standardized(made) if even else made


def _check_outs(section: Section, num_outs: int, maps: int, start: int, end: int) -> None:
    """MMDetection's own conditions: levels beyond the backbone's are made only where its last map is used."""
    last = maps - 1 if end == -1 else end
    used = last - start + 1
    if not 0 <= start <= last < maps or num_outs < used or (last < maps - 1 and num_outs != used):
        key = section.key("num_outs")
        raise ConfigError(
            key,
            f"{key} does not fit the levels",
            f"{key} is {num_outs}, but of {maps} maps those from {start} to {last} are used (start_level, end_level); "
            "give as many, or more where the last map is used.",
        )
