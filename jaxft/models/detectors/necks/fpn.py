"""Feature pyramid network; Lin et al. 2016, https://arxiv.org/abs/1612.03144."""

from collections.abc import Sequence
from functools import partial

from flax import nnx
from jax import Array

from jaxft.models.detectors.conv_module import ConvModule, xavier_uniform
from jaxft.models.detectors.types import Norm
from jaxft.models.layers.resize import nearest


class FPN(nnx.Module):
    """Maps of a backbone, finest first -> `num_outs` maps of `out_channels` channels.

    Args:
        in_channels: of all maps that come in.
        start_level, end_level: the first and the last of them that are used; -1 is the last.
        add_extra_convs: how levels beyond the backbone's are made: False, by taking every second pixel of the last
            output; `on_input`, `on_lateral`, `on_output` (True is `on_input`), by strided convolutions, the first of
            which is applied to the backbone's last map, its lateral, or the last output.
        relu_before_extra_convs: before the second and further of these convolutions.
        no_norm_on_lateral: the 1x1 convolutions have no normalization.
        norm_cfg: None for none.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        *,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        norm_cfg: Norm | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.start, self.end = start_level, len(in_channels) if end_level == -1 else end_level + 1
        self.num_outs = num_outs
        self.extra = "on_input" if add_extra_convs is True else add_extra_convs or ""
        self.relu_before_extra_convs = relu_before_extra_convs
        used = in_channels[self.start : self.end]
        extra = num_outs - len(used)
        convolution = partial(ConvModule, activation=False, init=xavier_uniform, rngs=rngs)
        lateral_norm = None if no_norm_on_lateral else norm_cfg
        self.lateral_convs = nnx.List(
            [convolution(channels, out_channels, 1, norm_cfg=lateral_norm) for channels in used]
        )
        convs = [convolution(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg) for _ in used]
        for index in range(extra if self.extra else 0):
            channels = used[-1] if index == 0 and self.extra == "on_input" else out_channels
            convs.append(convolution(channels, out_channels, 3, stride=2, padding=1, norm_cfg=norm_cfg))
        self.fpn_convs = nnx.List(convs)

    def __call__(self, maps: Sequence[Array]) -> tuple[Array, ...]:
        """The backbone's maps, all of them -> the pyramid's, finest first."""
        used = maps[self.start : self.end]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for level in range(len(laterals) - 1, 0, -1):
            laterals[level - 1] += nearest(laterals[level], laterals[level - 1].shape[1:3])
        convs = list(self.fpn_convs)
        outputs = [conv(x) for conv, x in zip(convs, laterals, strict=False)]
        if not self.extra:
            while len(outputs) < self.num_outs:
                outputs.append(outputs[-1][:, ::2, ::2])
            return tuple(outputs)
        x = {"on_input": used[-1], "on_lateral": laterals[-1], "on_output": outputs[-1]}[self.extra]
        for index, conv in enumerate(convs[len(laterals) :]):
            outputs.append(conv(nnx.relu(x) if index > 0 and self.relu_before_extra_convs else x))
            x = outputs[-1]
        return tuple(outputs)
