"""What torchvision publishes: the weights of its models by name.

File names end in the first eight digits of the file's SHA-256. Read from `torchvision.models.get_model_weights` of
torchvision 0.29.1; a test compares the two.
"""

import difflib

from jaxft.errors import UserError

BASE = "https://download.pytorch.org/models/"
# Name -> weights -> file; the last entry of each is torchvision's default.
WEIGHTS = {
    "resnet18": {"IMAGENET1K_V1": "resnet18-f37072fd.pth"},
    "resnet34": {"IMAGENET1K_V1": "resnet34-b627a593.pth"},
    "resnet50": {"IMAGENET1K_V1": "resnet50-0676ba61.pth", "IMAGENET1K_V2": "resnet50-11ad3fa6.pth"},
    "resnet101": {"IMAGENET1K_V1": "resnet101-63fe2227.pth", "IMAGENET1K_V2": "resnet101-cd907fc2.pth"},
    "resnet152": {"IMAGENET1K_V1": "resnet152-394f9c45.pth", "IMAGENET1K_V2": "resnet152-f82ba261.pth"},
    "resnext50_32x4d": {
        "IMAGENET1K_V1": "resnext50_32x4d-7cdf4587.pth",
        "IMAGENET1K_V2": "resnext50_32x4d-1a0047aa.pth",
    },
    "resnext101_32x8d": {
        "IMAGENET1K_V1": "resnext101_32x8d-8ba56ff5.pth",
        "IMAGENET1K_V2": "resnext101_32x8d-110c445d.pth",
    },
    "resnext101_64x4d": {"IMAGENET1K_V1": "resnext101_64x4d-173b62eb.pth"},
    "wide_resnet50_2": {
        "IMAGENET1K_V1": "wide_resnet50_2-95faca4d.pth",
        "IMAGENET1K_V2": "wide_resnet50_2-9ba9bcbe.pth",
    },
    "wide_resnet101_2": {
        "IMAGENET1K_V1": "wide_resnet101_2-32ee1156.pth",
        "IMAGENET1K_V2": "wide_resnet101_2-d733dc28.pth",
    },
}


def weights_url(name: str) -> str:
    """`resnet18` or `resnet50/IMAGENET1K_V1` -> the address of the file.

    Raises:
        UserError: torchvision publishes no such weights.
    """
    model, _, weights = name.partition("/")
    if model not in WEIGHTS:
        near = difflib.get_close_matches(model, WEIGHTS, n=3) or sorted(WEIGHTS)
        raise UserError(f"torchvision://{name}: no weights of {model!r} are known; the nearest are {', '.join(near)}.")
    weights = weights or list(WEIGHTS[model])[-1]
    if weights not in WEIGHTS[model]:
        raise UserError(f"torchvision://{name}: {model} has the weights {', '.join(WEIGHTS[model])}.")
    return BASE + WEIGHTS[model][weights]
