"""Which parameters an MMDetection configuration freezes, and what rate and decay it gives the others.

MMEngine decides for each parameter by its layer and name; here it becomes a short list of patterns, and every parameter
is checked to get from them what MMEngine would give it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flax import nnx

from converters.mmdet.model import parse, structure
from converters.mmdet.section import ConfigError, Ignored, Section, flag, number, whole
from jaxft.config import Rule
from jaxft.models.detectors.backbones.context_block import MapNorm
from jaxft.models.layers import BatchNorm, GroupNorm, LayerNorm
from jaxft.models.paths import matches, walk
from jaxft.models.streams import initial_rngs

NORM_LAYERS = (BatchNorm, GroupNorm, LayerNorm, MapNorm)
# What normalization is called in the models that are built from configurations, as a layer or, in HRNet, by its leaves.
NORM_NAMES = (".bn", ".bn[0-9]", ".gn", ".gn[0-9]", ".downsample.[12]", ".stem.[147]")
NORM_BIASES = (*(f"{name}.bias" for name in NORM_NAMES), ".fuse_layers.*.1.bias", ".transition*.1.bias")
NORMS = (*NORM_NAMES, *NORM_BIASES[-2:], ".fuse_layers.*.1.scale", ".transition*.1.scale")
STAGES = 4
CONTEXT = ".context_block.channel_add_conv.1"  # which no `norm_cfg` speaks of
# The parts whose `norm_cfg` can freeze their normalization.
REGIONS = ("backbone", "neck", "bbox_head", "roi_head.bbox_head", "roi_head.mask_head")


@dataclass(frozen=True)
class Wish:
    """What one parameter should get."""

    frozen: bool = False
    rate: float = 1.0
    decay: float = 1.0
    batch_norm: str = "inherit"


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model: its path here, and what kind it is."""

    path: str
    norm: bool
    bias: bool

    @property
    def name(self) -> str:
        """Its name in PyTorch, in which MMEngine looks for the keys of `custom_keys`."""
        layer, _, leaf = self.path.rpartition(".")
        return f"{layer}.weight" if leaf == "kernel" or (self.norm and leaf == "scale") else self.path


_KNOWN: dict[str, list[Parameter]] = {}  # by the structure of the model, which takes a quarter of a second to build


class Paramwise:
    """`paramwise_cfg`, and what of the backbone is frozen."""

    def __init__(self, model: Mapping[str, Any], section: Section) -> None:
        self.bias_rate = section.take("bias_lr_mult", number, 1.0)
        self.bias_decay = section.take("bias_decay_mult", number, 1.0)
        # Where normalization has no factor of its own, its bias decays as others do.
        given = section.has("norm_decay_mult")
        self.norm_decay = section.take("norm_decay_mult", number, 1.0) if given else 1.0
        self.norm_bias_decay = self.norm_decay if given else self.bias_decay
        section.only(dwconv_decay_mult=1.0, dcn_offset_lr_mult=1.0, flat_decay_mult=1.0)
        section.ignore("bypass_duplicate", because="no parameter stands in a model twice")
        keys = section.take("custom_keys", dict, {})
        # MMEngine tries longer keys first.
        self.keys = {key: _factors(section, key, keys[key]) for key in sorted(sorted(keys), key=len, reverse=True)}
        section.done()
        backbone = Section(model["backbone"], "model.backbone")
        self.stages = backbone.take("frozen_stages", whole, -1)
        if self.stages > STAGES:
            raise backbone.refused("frozen_stages", self.stages, f"a backbone has {STAGES} stages")
        self.norm_eval = backbone.take("norm_eval", flag, True)
        self.norms = dict(_norms(model))
        self.frozen_norms = tuple(region for region, trained in self.norms.items() if not trained)

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Patterns over the parts of the backbone that are frozen as a whole."""
        stem = ("backbone.conv1", "backbone.bn1", "backbone.gn1", "backbone.stem") if self.stages >= 0 else ()
        return stem + tuple(f"backbone.layer{stage}" for stage in range(1, self.stages + 1))

    def wish(self, parameter: Parameter) -> Wish:
        """What MMEngine and MMDetection do with a parameter."""
        path, inside = parameter.path, parameter.path.startswith("backbone.")
        mode = "running" if inside and self.norm_eval else "inherit"
        if any(matches(part, path) for part in self.frozen_parts):
            return Wish(frozen=True)
        if parameter.norm and CONTEXT not in path and any(path.startswith(f"{part}.") for part in self.frozen_norms):
            return self._held(path)
        for key, (rate, decay) in self.keys.items():
            if key in parameter.name:
                return Wish(rate=rate, decay=decay, batch_norm=mode)
        if parameter.norm:
            return Wish(decay=self.norm_bias_decay if parameter.bias else self.norm_decay, batch_norm=mode)
        if parameter.bias:
            return Wish(rate=self.bias_rate, decay=self.bias_decay, batch_norm=mode)
        return Wish(batch_norm=mode)

    def _held(self, path: str) -> Wish:
        return Wish(frozen=True, batch_norm="running" if path.startswith("backbone") and self.norm_eval else "batch")

    def candidates(self) -> list[tuple[str, Wish]]:
        """Patterns in the order in which they count, and what they give; some may match nothing."""
        rules = [(part, Wish(frozen=True)) for part in self.frozen_parts]
        rules += [(f"{region}*{name}", self._held(region)) for region in self.frozen_norms for name in NORMS]
        for region in ("backbone", ""):
            mode = "running" if region and self.norm_eval else "inherit"
            norms = [f"{region}*{name}" for name in (*NORMS, CONTEXT)]
            biases = [f"{region}*{name}" for name in (*NORM_BIASES, f"{CONTEXT}.bias")]
            for key, (rate, decay) in self.keys.items():
                for leaf in dict.fromkeys((key, key.replace("weight", "kernel"), key.replace("weight", "scale"))):
                    pattern = f"{leaf}*" if leaf.startswith("backbone") else f"{region}*{leaf}*"
                    rules.append((pattern, Wish(rate=rate, decay=decay, batch_norm=mode)))
            if self.norm_decay != 1 or self.bias_rate != 1 or self.bias_decay != 1:
                if self.norm_bias_decay != self.norm_decay:
                    rules += [(name, Wish(decay=self.norm_bias_decay, batch_norm=mode)) for name in biases]
                rules += [(name, Wish(decay=self.norm_decay, batch_norm=mode)) for name in norms]
                pattern = f"{region}*.bias"
                rules.append((pattern, Wish(rate=self.bias_rate, decay=self.bias_decay, batch_norm=mode)))
            rules.append((region or "*", Wish(batch_norm=mode)))
        return rules


def _norms(model: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The paths of the parts of a model that say whether their normalization is trained, and what they say."""
    for region in REGIONS:
        part: Any = model
        for name in region.split("."):
            part = part.get(name) if isinstance(part, Mapping) else None
        stages = part if isinstance(part, list | tuple) else [part]
        for index, stage in enumerate(stages):
            norm = stage.get("norm_cfg") if isinstance(stage, Mapping) else None
            if norm and "requires_grad" in norm:
                yield f"{region}.{index}" if len(stages) > 1 else region, bool(norm["requires_grad"])


def _factors(section: Section, key: str, values: Any) -> tuple[float, float]:
    part = Section(values, section.key(f"custom_keys.{key}"))
    factors = part.take("lr_mult", number, 1.0), part.take("decay_mult", number, 1.0)
    part.done()
    return factors


def read_rules(model: Mapping[str, Any], paramwise: Section) -> tuple[Rule, ...]:
    """The rules of a phase; they need the model, whose parameters they are tried on.

    Raises:
        UserError: there is a setting that patterns cannot express.
    """
    wishes, parameters = Paramwise(model, paramwise), _parameters(model)
    for region, trained in wishes.norms.items():
        if not any(parameter.norm and parameter.path.startswith(f"{region}.") for parameter in parameters):
            key = f"model.{region}.norm_cfg.requires_grad"
            paramwise.ignored.append(Ignored(key, trained, "that part has no normalization"))
    for key in wishes.keys:
        if not any(key in parameter.name for parameter in parameters):
            told = "no parameter of the model has this in its name"
            paramwise.ignored.append(Ignored(paramwise.key(f"custom_keys.{key}"), None, told))
    rules = _first_matches(wishes.candidates(), [parameter.path for parameter in parameters])
    for parameter in parameters:
        given = next((wish for pattern, wish in rules if matches(pattern, parameter.path)), None)
        if given != wishes.wish(parameter):
            key = paramwise.path
            raise ConfigError(key, key, f"{key}: jaxft has no rule that gives {parameter.path} what it asks for.")
    return tuple(
        Rule(
            pattern=pattern,
            frozen=wish.frozen,
            lr_scale=wish.rate,
            weight_decay_scale=wish.decay,
            batch_norm=wish.batch_norm,  # type: ignore[arg-type]
        )
        for pattern, wish in rules
    )


def _first_matches(rules: Sequence[tuple[str, Wish]], paths: Sequence[str]) -> list[tuple[str, Wish]]:
    """The rules without those that are the first match of nothing."""
    first = {
        next((index for index, (pattern, _) in enumerate(rules) if matches(pattern, path)), None) for path in paths
    }
    return [rule for index, rule in enumerate(rules) if index in first]


def _parameters(model: Mapping[str, Any]) -> list[Parameter]:
    key = structure(model)
    if key not in _KNOWN:
        _KNOWN[key] = _abstract_parameters(model)
    return _KNOWN[key]


def _abstract_parameters(model: Mapping[str, Any]) -> list[Parameter]:
    part = parse(model)
    try:
        abstract = nnx.eval_shape(lambda: part(rngs=initial_rngs(0)))
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:  # a number that no layer can have
        reason = " ".join(str(error).split())[:200].rstrip(".")
        told = f"model cannot be built with the sizes that it gives its layers: {reason}."
        raise ConfigError("model", "model cannot be built", told) from error
    return [
        Parameter(path, isinstance(owner, NORM_LAYERS), name == "bias")
        for path, owner, name, variable in walk(abstract)
        if isinstance(variable, nnx.Param)
    ]
