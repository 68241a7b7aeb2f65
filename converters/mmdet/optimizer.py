"""`optim_wrapper` of an MMDetection configuration, and what its learning rate is meant for."""

from dataclasses import dataclass
from typing import Any

from converters.mmdet.section import Section, flag, number, pair, text, whole
from jaxft.config import Optimizer

NAMES = {"SGD": "sgd", "Adam": "adam", "AdamW": "adamw"}


@dataclass(frozen=True)
class Wrapper:
    """The optimizer, how it computes, and `paramwise_cfg`, which `rules` reads."""

    optimizer: Optimizer
    precision: str
    paramwise: Section


def read_wrapper(section: Section, scaling: Section) -> Wrapper:
    """`optim_wrapper`, and `auto_scale_lr`, whose `enable` the caller takes."""
    amp = False
    if "type" in section.values:
        amp = section.type(["OptimWrapper", "AmpOptimWrapper"]) == "AmpOptimWrapper"
    parts = section.take("accumulative_counts", whole, 1)
    options: dict[str, Any] = {"accumulate": parts} | _optimizer(section.section("optimizer"))
    if section.has("clip_grad"):
        clip = section.section("clip_grad")
        clip.only(type="norm", norm_type=2, error_if_nonfinite=False)
        clip.ignore("foreach", because="it says how PyTorch computes the same")
        options["clip_norm"] = clip.take("max_norm", number)
        clip.done()
    section.elsewhere("clip_grad")
    if amp:
        section.only(use_fsdp=False)
        section.ignore("loss_scale", because="bfloat16 has the range of float32, so that losses need no scale")
        if not section.has("dtype"):  # which MMEngine's autocast takes for float16 on a GPU
            section.values["dtype"] = "float16"
            section.ignore("dtype", because="where none is given jaxft computes in bfloat16, and MMEngine in float16")
        elif (dtype := section.take("dtype", text)) != "bfloat16":
            raise section.refused(
                "dtype", dtype, "jaxft computes in bfloat16 in its place; leave it out, or write 'bfloat16'"
            )
    paramwise = section.optional("paramwise_cfg")
    section.only(constructor="DefaultOptimWrapperConstructor")
    section.done()
    if scaling.has("base_batch_size"):
        options["base_batch_size"] = scaling.take("base_batch_size", whole) * parts
    return Wrapper(Optimizer(**options), "bfloat16" if amp else "float32", paramwise)


def _optimizer(section: Section) -> dict[str, Any]:
    kind = section.type(list(NAMES))
    options: dict[str, Any] = {"name": NAMES[kind], "learning_rate": section.take("lr", number)}
    if kind == "SGD":
        options |= {
            "momentum": section.take("momentum", number, 0.0),
            "nesterov": section.take("nesterov", flag, False),
        }
        section.only(dampening=0)
    else:
        options |= {"betas": section.take("betas", pair, (0.9, 0.999)), "eps": section.take("eps", number, 1e-8)}
        section.only(amsgrad=False)
    options["weight_decay"] = section.take("weight_decay", number, 0.01 if kind == "AdamW" else 0.0)
    section.only(maximize=False, differentiable=False)
    section.ignore("foreach", "fused", "capturable", because="it says how PyTorch computes the same")
    section.done()
    return options
