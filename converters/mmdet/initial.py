"""`init_cfg` of a model and its parts in an MMDetection configuration: what the first values are drawn from.

MMEngine initialises from the outside to the inside: a model's own rules, then those of its parts, which win, and then
the checkpoints. A part without an `init_cfg` has that of its class; one that has its own starts from what PyTorch's and
mmcv's layers draw when they are made. Where a file says nothing, the builders of `jaxft.models` draw it right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pydantic
from flax import nnx

from converters.mmdet.section import ConfigError, Ignored, Section
from jaxft.fields import explain
from jaxft.initialization import Checkpoint, Initialize, Kaiming
from jaxft.initialization.drawing import Draw, draws, layer_leaves
from jaxft.models.detectors.backbones.context_block import ContextBlock
from jaxft.models.detectors.conv_module import ConvModule
from jaxft.models.paths import Place, matches, modules

KAIMING = ({"type": "Kaiming", "layer": "Conv2d"}, {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]})
LINEAR = {"type": "Xavier", "distribution": "uniform"}
BOXES = (
    {"type": "Normal", "std": 0.01, "override": {"name": "fc_cls"}},
    {"type": "Normal", "std": 0.001, "override": {"name": "fc_reg"}},
    LINEAR | {"override": [{"name": name} for name in ("shared_fcs", "cls_fcs", "reg_fcs")]},
)


def _dense(output: str) -> tuple[dict[str, Any], ...]:
    rule: dict[str, Any] = {"type": "Normal", "layer": "Conv2d", "std": 0.01}
    return (rule | {"override": {"type": "Normal", "name": output, "std": 0.01, "bias_prob": 0.01}},)


DEFAULTS: dict[str, tuple[Mapping[str, Any], ...]] = {
    **dict.fromkeys(("ResNet", "ResNetV1d", "ResNeXt", "RegNet", "HRNet"), KAIMING),
    "FPN": ({"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"},),
    "HRFPN": ({"type": "Caffe2Xavier", "layer": "Conv2d"},),
    "RPNHead": ({"type": "Normal", "layer": "Conv2d", "std": 0.01},),
    "RetinaHead": _dense("retina_cls"),
    "FCOSHead": _dense("conv_cls"),
    "ATSSHead": _dense("atss_cls"),
    "GFLHead": _dense("gfl_cls"),
    **dict.fromkeys(("Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead", "ConvFCBBoxHead"), BOXES),
    "FCNMaskHead": (),
}
"""The `init_cfg` of MMDetection's classes, which a test compares with the live ones."""
# Where None, too, means that of the class, since the class looks for it itself.
NONE_IS_DEFAULT = {"ResNet", "ResNetV1d", "ResNeXt", "RegNet", "HRNet"}
NONE_IS_DEFAULT |= {"Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead", "ConvFCBBoxHead", "FCNMaskHead"}
# What classes draw after all rules: mmcv's ConvModule where MMEngine reaches it, and the mask head.
AFTERWARDS = {"HRFPN": ("reduction_conv",), "FCNMaskHead": ("*",)}
RULE = pydantic.TypeAdapter(Initialize)


@dataclass(frozen=True)
class Part:
    """What a configuration says of one part of a detector.

    Attributes:
        path: of the part in our model; empty for the whole model.
        kind: the name of MMDetection's class; empty of what only holds other parts.
        rules: None for those of the class.
        loaded: whether a checkpoint fills it.
        reached: whether MMEngine asks the part for its rules: a plain list of PyTorch's hides those in it.
    """

    path: str
    kind: str
    rules: tuple[Initialize, ...] | None
    loaded: bool = False
    reached: bool = True


def read_initial(model: Mapping[str, Any], ignored: list[Ignored]) -> tuple[Part, ...]:
    """The parts of a `model` dict from the outside to the inside, with their rules.

    Raises:
        UserError: an initialiser is not known, or has an argument that it does not take; the message names its key.
    """
    top = Section(model, "model", ignored)
    found = [_part(top, "", "")]
    outer: list[tuple[str, Section]] = [(name, top.optional(name)) for name in ("backbone", "neck", "rpn_head")]
    heads = top.optional("roi_head")
    if heads.values:
        found.append(_part(heads, "roi_head", ""))
    else:
        outer.append(("bbox_head", top.optional("bbox_head")))
    for name, section in outer:
        path = "bbox_head" if name == "rpn_head" and _kind(model) == "RPN" else name
        if section.values:
            found.append(_part(section, path, _kind(section.values)))
    for name in ("bbox_head", "mask_head"):
        if not heads.has(name):
            continue
        several, stages = isinstance(heads.values[name], list | tuple), heads.values.get("num_stages", 1)
        cascade = _kind(heads.values) == "CascadeRoIHead"
        for index, section in enumerate(heads.listed(name)):
            numbers = [index] if several else range(stages)
            paths = [f"roi_head.{name}.{number}" for number in numbers] if cascade else [f"roi_head.{name}"]
            part = _part(section, paths[0], _kind(section.values))
            found += [replace(part, path=path, reached=name != "mask_head" or not cascade) for path in paths]
    return tuple(found)


def _kind(values: Mapping[str, Any]) -> str:
    kind = values.get("type")
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]


def _part(section: Section, path: str, kind: str) -> Part:
    given, key = section.values.get("init_cfg"), section.key("init_cfg")
    if "init_cfg" not in section.values or (given is None and kind in NONE_IS_DEFAULT):
        return Part(path, kind, None)
    rules = tuple(_rule(entry, section) for entry in _entries(section))
    checkpoints = [rule for rule in rules if isinstance(rule.how, Checkpoint)]
    if checkpoints and path not in ("", "backbone"):
        told = (
            "jaxft loads a checkpoint into the whole model or its backbone; give the whole model one, or leave it out"
        )
        raise ConfigError(key, f"{key} = Pretrained", f"{key} is of the type Pretrained, but {told}.")
    if "*" in AFTERWARDS.get(kind, ()):
        raise ConfigError(key, key, f"{key}: MMDetection's {kind} allows none; leave it out.")
    drawn = tuple(rule for rule in rules if not isinstance(rule.how, Checkpoint))
    for rule in drawn:
        if not rule.layer and not rule.override:
            told = "a rule without layer and override initialises nothing"
            section.ignored.append(Ignored(key, {"type": rule.how.type}, told))
    # A file that only names a checkpoint has no word on what is drawn where nothing is loaded.
    return Part(path, kind, None if checkpoints and not drawn else drawn, loaded=bool(checkpoints))


def _entries(section: Section) -> list[Any]:
    given = section.values.get("init_cfg") or []
    return [given] if isinstance(given, Mapping) else list(given)


def _rule(entry: Any, section: Section) -> Initialize:
    key = section.key("init_cfg")
    if not isinstance(entry, Mapping):
        raise ConfigError(key, f"{key} of another kind", f"{key} is {entry!r}; a dict or a list of dicts was expected.")
    if "map_location" in entry:
        section.ignored.append(
            Ignored(f"{key}.map_location", entry["map_location"], "it says where PyTorch puts what it reads")
        )
    try:
        return RULE.validate_python(_named(entry))
    except pydantic.ValidationError as error:
        raise ConfigError(key, key, f"{key}: {explain(error, {})}") from error


def _named(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A rule without scopes, modules and the end of the name of a class, `mmengine.model.NormalInit`."""
    found = {name: value for name, value in entry.items() if name != "map_location"}
    if "type" in found:
        found["type"] = _kind(found).removesuffix("Init")
    override = found.get("override")
    if isinstance(override, Mapping | list | tuple):
        parts = [override] if isinstance(override, Mapping) else override
        found["override"] = [_named(part) if isinstance(part, Mapping) else part for part in parts]
    return found


def checkpoint(section: Section) -> Checkpoint | None:
    """The checkpoint that the `init_cfg` of a part names, of several the last, which wins."""
    rules = [_rule(entry, Section(section.values, section.path)) for entry in _entries(section)]
    found = [rule.how for rule in rules if isinstance(rule.how, Checkpoint)]
    return found[-1] if found else None


def planned(model: nnx.Module, parts: Sequence[Part]) -> dict[str, Draw]:
    """What a configuration draws in a detector, abstract or not, otherwise than its builders do, by dotted path.

    Raises:
        UserError: a rule names a part of the model that is not there, or does not fit its layers.
    """
    places = dict(modules(model))
    found: dict[str, Draw] = {}
    for part in parts:
        start = f"{part.path}." if part.path else ""
        outer = {path.removeprefix(start): draw for path, draw in found.items() if path.startswith(start)}
        for path in outer:
            del found[start + path]
        found |= {start + path: draw for path, draw in _inside(places[part.path], part, outer).items()}
    return found


def _inside(module: nnx.Module, part: Part, outer: dict[str, Draw]) -> dict[str, Draw]:
    """What is drawn in a part otherwise than its builder does, after what the parts around it draw there."""
    if not part.kind:
        return {**outer, **draws(module, part.rules or ())}
    if not part.reached:
        return _made(module) | outer
    contexts = not part.loaded and any(isinstance(one, ContextBlock) for _, one in modules(module))
    if part.rules is None and not outer and not contexts:
        return {}
    patterns = AFTERWARDS.get(part.kind, ())
    own = {place.path for place, _ in layer_leaves(module) if any(matches(name, place.path) for name in patterns)}
    if part.rules is not None:
        drawn = _made(module) | outer | draws(module, part.rules)
        return {path: draw for path, draw in drawn.items() if path not in own}
    standard = draws(module, [RULE.validate_python(dict(rule)) for rule in DEFAULTS[part.kind]])
    # The builders draw these as mmcv makes them, which is right beside a checkpoint alone.
    blocks = {path: draw for path, draw in standard.items() if contexts and ".context_block." in path}
    return blocks | {path: draw for path, draw in outer.items() if path not in own | standard.keys()}


def _made(module: nnx.Module) -> dict[str, Draw]:
    """What layers draw when they are made: PyTorch's by themselves, those in a ConvModule of mmcv's Kaiming-normal."""
    inner = [f"{path}.conv" for path, one in modules(module) if isinstance(one, ConvModule)]
    contexts = [path for path, one in modules(module) if isinstance(one, ContextBlock)]

    def by(place: Place, draw: Draw) -> Draw:
        return draw._replace(how=Kaiming()) if place.path.rpartition(".")[0] in inner else draw

    return {
        place.path: by(place, draw)
        for place, draw in layer_leaves(module)
        if not any(place.path.startswith(f"{path}.") for path in contexts)  # which the builder makes as mmcv does
    }
