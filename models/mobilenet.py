"""MobileNetV3 for sounds: a network that has heard AudioSet turns log-mels into features."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

BANDS = 128  # of the log-mels
RATE = 32  # log-mel frames to one frame of features: five strides of 2
CLASSES = 527  # of AudioSet
LAST = 160  # channels before the last convolution, which makes six times as many; at width 1


class Block(NamedTuple):
    """A row of the table: channels at width 1."""

    kernel: int
    expanded: int
    out: int
    has_excitation: bool
    activation: type[nn.Module]
    stride: int


RE, HS = nn.ReLU, nn.Hardswish
BLOCKS = (
    Block(3, 16, 16, False, RE, 1),
    Block(3, 64, 24, False, RE, 2),
    Block(3, 72, 24, False, RE, 1),
    Block(5, 72, 40, True, RE, 2),
    Block(5, 120, 40, True, RE, 1),
    Block(5, 120, 40, True, RE, 1),
    Block(3, 240, 80, False, HS, 2),
    Block(3, 200, 80, False, HS, 1),
    Block(3, 184, 80, False, HS, 1),
    Block(3, 184, 80, False, HS, 1),
    Block(3, 480, 112, True, HS, 1),
    Block(3, 672, 112, True, HS, 1),
    Block(5, 672, LAST, True, HS, 2),
    Block(5, 960, LAST, True, HS, 1),
    Block(5, 960, LAST, True, HS, 1),
)


class MobileNetV3(nn.Module):
    """MobileNetV3-large over log-mels, in evaluation mode. The state dict's keys are those of EfficientAT's networks.

    `width` multiplies the channels.
    Source: arXiv 1905.02244, table 1, for images; arXiv 2211.04772, EfficientAT, for sounds.
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        channels = [divisible(width * out) for out in (16, *(block.out for block in BLOCKS))]
        blocks = [
            InvertedResidual(block, divisible(width * block.expanded), ins, out)
            for block, ins, out in zip(BLOCKS, channels, channels[1:], strict=False)
        ]
        self.size = 6 * divisible(width * LAST)  # C, of the features
        first = _convolution(1, channels[0], 3, 2, HS)
        last = _convolution(channels[-1], self.size, 1, 1, HS)
        self.features = nn.Sequential(first, *blocks, last)
        hidden = divisible(width * 1280)
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.size, hidden))
        self.classifier = nn.Sequential(*pooled, HS(), nn.Dropout(), nn.Linear(hidden, CLASSES))
        self.eval()

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "MobileNetV3":
        """A network of the width that a published state dict has, loaded with it.

        Raises KeyError or RuntimeError where the state dict is of another network.
        """
        last = state[f"features.{len(BLOCKS) + 1}.1.weight"]
        network = cls(len(last) / 6 / LAST)
        network.load_state_dict(state)
        return network

    def forward(self, log_mel: Tensor) -> Tensor:
        """(N, BANDS, T) log-mel -> (N, L, C) features with L = ceil(T / RATE), the mean over the last image's bands.

        Squeeze-excitation pools over time, so padding changes all frames: give clips of one length, or each alone.
        """
        return self.image(log_mel).mean(dim=2).transpose(1, 2)

    def image(self, log_mel: Tensor) -> Tensor:
        """(N, BANDS, T) log-mel -> (N, C, BANDS / 32, L)."""
        return self.features(log_mel.unsqueeze(1))

    def logits(self, log_mel: Tensor) -> Tensor:
        """(N, BANDS, T) log-mel -> (N, CLASSES) logits of AudioSet's classes."""
        return self.classifier(self.image(log_mel))

    def folded(self) -> "MobileNetV3":
        """Fold each batch norm into its convolution: faster, and equal but for rounding. Changes and returns this."""
        for module in self.modules():
            if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
                module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
        return self.to(memory_format=torch.channels_last)


class InvertedResidual(nn.Module):
    """Expand channels, convolve each by itself, weigh them, and project them, by a row of the table."""

    def __init__(self, row: Block, expanded: int, ins: int, out: int):
        super().__init__()
        expansion = [] if expanded == ins else [_convolution(ins, expanded, 1, 1, row.activation)]
        depthwise = _convolution(expanded, expanded, row.kernel, row.stride, row.activation, groups=expanded)
        excitation = [SqueezeExcitation(expanded)] if row.has_excitation else []
        self.block = nn.Sequential(*expansion, depthwise, *excitation, _convolution(expanded, out, 1, 1))
        self.is_residual = row.stride == 1 and ins == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, ins, H, W) -> (N, out, H / stride, W / stride), rounded up."""
        return x + self.block(x) if self.is_residual else self.block(x)


class SqueezeExcitation(nn.Module):
    """Weigh channels by a function of their means over bands and time (arXiv 1709.01507)."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = divisible(channels // 4)
        layers = {"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)}
        self.conc_se_layers = nn.ModuleList([nn.ModuleDict(layers)])  # the state dict's keys

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        (layers,) = self.conc_se_layers
        weights = torch.sigmoid(layers["fc2"](torch.relu(layers["fc1"](x.mean((2, 3))))))  # (N, C)
        return x * weights[:, :, None, None]


def divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 8; the next one if rounding took more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _convolution(
    ins: int, out: int, kernel: int, stride: int, activation: type[nn.Module] | None = None, groups: int = 1
) -> nn.Sequential:
    """A convolution with its batch norm and, unless None, its activation."""
    padding = (kernel - 1) // 2
    convolution = nn.Conv2d(ins, out, kernel, stride, padding, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out, eps=0.001, momentum=0.01)
    return nn.Sequential(convolution, norm, *([activation(inplace=True)] if activation else []))
