"""Audio encoders: log-mel frames to frame embeddings."""

import torch.nn.functional as F
from torch import Tensor, nn

TIME_POOLING = 4  # frames of log-mel to one step of the GRU
MEL_POOLING = 64  # log-mel bands to one bin after the CNN
CHANNELS = 128  # of the CNN's output


class LPPool4(nn.Module):
    """Power-average pooling with p = 4: the fourth root of the sum of x^4 over each window.

    nn.LPPool2d(4, window) by squares and square roots. The clamp keeps the gradient at an all-zero window finite,
    where the exact root's is not.
    """

    def __init__(self, window: tuple[int, int]):
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, M) -> (N, C, T // window[0], M // window[1])."""
        squares = x * x
        total = F.avg_pool2d(squares * squares, self.window) * (self.window[0] * self.window[1])
        return total.clamp(min=1e-30).sqrt().sqrt()


class CRNNEncoder(nn.Module):
    """Convolutional recurrent encoder (arXiv 2110.02939), input axes (time, mel).

    Args:
        in_dim: log-mel bands, a multiple of 64.
        out_dim: E, the embedding dimension, even: half a direction of the GRU.
    """

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        # The modules' places in the list are the published state dict's keys.
        self.cnn = nn.Sequential(
            nn.BatchNorm2d(1),
            *_convolution(1, 32),
            LPPool4((2, 4)),
            nn.BatchNorm2d(32),
            *_convolution(32, CHANNELS),
            nn.BatchNorm2d(CHANNELS),
            *_convolution(CHANNELS, CHANNELS),
            LPPool4((2, 4)),
            nn.BatchNorm2d(CHANNELS),
            *_convolution(CHANNELS, CHANNELS),
            nn.BatchNorm2d(CHANNELS),
            *_convolution(CHANNELS, CHANNELS),
            LPPool4((1, 4)),
            nn.Dropout(0.3),
        )
        self.gru = nn.GRU(CHANNELS * (in_dim // MEL_POOLING), out_dim // 2, bidirectional=True, batch_first=True)

    def forward(self, audio: Tensor) -> Tensor:
        """(N, T, in_dim) log-mel -> (N, T, E), not normalised; T >= 4."""
        frames = audio.shape[1]
        x = self.cnn(audio.unsqueeze(1))  # (N, C, T/4, in_dim/64)
        x = x.transpose(1, 2).flatten(2)  # (N, T/4, C * in_dim/64)
        x, _ = self.gru(x)  # (N, T/4, E)
        x = F.interpolate(x.transpose(1, 2), size=frames, mode="linear", align_corners=False)  # (N, E, T)
        return x.transpose(1, 2)


def _convolution(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution, nn.LeakyReLU(0.1, inplace=True)
