"""Keys of older MMDetection checkpoints that MMDetection 3 still accepts, under their names of today."""

from collections.abc import Collection

HEADS = ("bbox_head", "rpn_head")
# How the last layers of heads without anchors ended (`fcos_cls`), and what they are called since.
PREDICTORS = {"cls": "conv_cls", "reg": "conv_reg", "centerness": "conv_centerness"}


def modern_keys(keys: Collection[str], targets: Collection[str]) -> dict[str, str]:
    """The name of today of each key that needs another, given the keys that the model wants.

    An RPN alone was `rpn_head` before MMDetection 3 and is `bbox_head` there; in either direction the one head of a
    file serves as the one that the model lacks, as MMDetection's own detectors do it.
    """
    heads = {head: {key for key in keys if key.startswith(f"{head}.")} for head in HEADS}
    wanted = {head for head in HEADS if any(key.startswith(f"{head}.") for key in targets)}
    renamed: dict[str, str] = {}
    for head, other in (HEADS, HEADS[::-1]):
        if head in wanted and not heads[head]:
            renamed |= {key: head + key.removeprefix(other) for key in heads[other]}
    for key in keys:
        name = renamed.get(key, key)
        if (modern := _predictor(name, targets)) != key:
            renamed[key] = modern
    return renamed


def _predictor(key: str, targets: Collection[str]) -> str:
    head, _, rest = key.partition(".")
    layer, _, leaf = rest.partition(".")
    if head in HEADS and key not in targets:
        for ending, modern in PREDICTORS.items():
            if layer.endswith(ending) and f"{head}.{modern}.{leaf}" in targets:
                return f"{head}.{modern}.{leaf}"
    return key
