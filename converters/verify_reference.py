"""PyTorch's own models to compare with, changed so that rounding decides nothing."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.errors import UserError

if TYPE_CHECKING:
    import torch


def reference(name: str, num_classes: int, image_size: int | None = None) -> "torch.nn.Module":
    """PyTorch's own model of that name, freshly initialized; some must know the size of their images.

    Raises:
        UserError: the package that has it is not installed.
    """
    try:
        if name.startswith("efficientnet_lite"):
            from efficientnet_lite_pytorch import EfficientNet

            # Without an image size the padding follows the images, as in TensorFlow.
            changes = {"drop_connect_rate": 0.0, "image_size": None}
            return EfficientNet.from_name(name.replace("_", "-"), num_classes=num_classes, **changes)
        import torchvision

        options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        if image_size is not None:
            options["image_size"] = image_size
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    except ImportError as error:
        raise UserError(f"verify needs PyTorch's {name} ({error}): pip install 'jaxft[test]'.") from error


def perturb(model: "torch.nn.Module", seed: int) -> None:
    """Draws running statistics and affine parameters of every BatchNorm anew, so that none is the neutral 0 or 1.

    Biases are about +2.4 in even channels and -2.4 in odd ones, at a scale of about 0.5: half of the channels pass a
    ReLU, the others do not, also after a shortcut is added, and hardly a value lies so near the kink that the rounding
    of float32 decides whether it has a gradient. (With biases about 0, PyTorch's own float32 gradients of a ResNet-50
    differ from its float64 ones by 20 % in the worst tensor; at 1.6 one flip in a RegNetY-8GF makes 1.4 %.)

    Where convolutions are depthwise, a channel that is always 0 would stay so, and some of these networks have a kink
    at 3, too (hard swish): there all biases are about +1.6.

    Other parameters of one value throughout, such as biases of 0, get noise: behind a head of zeros no gradient tells
    anything, and a bias of 0 before a BatchNorm stays 0 but for rounding.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    depthwise = any(1 < module.groups == module.in_channels for module in convolutions)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            shape = module.running_mean.shape
            center = 1.5 * torch.ones(shape) if depthwise else 2.3 * (1 - 2 * (torch.arange(*shape) % 2))
            module.running_mean.copy_(0.1 * torch.randn(shape, generator=random))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=random))
            module.weight.data.copy_(0.4 + 0.2 * torch.rand(shape, generator=random))
            module.bias.data.copy_(center + 0.25 * center.sign() * torch.rand(shape, generator=random))
    for parameter in model.parameters():
        if parameter.min() == parameter.max():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))


def away_from_kinks(model: "torch.nn.Module", images: np.ndarray) -> None:
    """What the biases of BatchNorm are for in `perturb`, in networks of ReLUs that have no BatchNorm (VGG, SqueezeNet).

    `standardize` on these images, `[N, H, W, 3]`. (With PyTorch's first values some ReLU of a VGG-19 sits so near its
    kink that its gradients differ by 6 %.)
    """
    import torch

    kinds = [type(module) for module in model.modules()]
    if torch.nn.BatchNorm2d in kinds or torch.nn.ReLU not in kinds:
        return

    layers = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    model.eval()
    standardize(layers, lambda: model(torch.from_numpy(images).permute(0, 3, 1, 2)))


def standardize(layers: Iterable["torch.nn.Module"], run: Callable[[], object]) -> None:
    """Scales and shifts linear layers and convolutions so that each puts out +-1/4 in even and odd channels.

    Their deviation is 1/16. Both hold for the first time that a layer is called in `run()`.
    """
    import torch

    done = set()

    def change(layer: Any, _: Any, output: torch.Tensor) -> torch.Tensor | None:
        if layer in done:
            return None
        done.add(layer)
        others = [axis for axis in range(output.ndim) if axis != 1]
        factor, mean = 1 / (16 * output.std(others)), output.mean(others)
        shift = (1 - 2.0 * (torch.arange(output.shape[1]) % 2)) / 4 - factor * mean
        axis = 1 if isinstance(layer, torch.nn.ConvTranspose2d) else 0
        layer.weight *= factor.reshape([-1 if i == axis else 1 for i in range(layer.weight.ndim)])
        layer.bias.copy_(factor * layer.bias + shift)
        shape = [1, -1] + [1] * (output.ndim - 2)
        return output * factor.reshape(shape) + shift.reshape(shape)

    hooks = [layer.register_forward_hook(change) for layer in layers]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
