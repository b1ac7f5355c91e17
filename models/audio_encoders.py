"""Audio encoders: log-mel frames to embeddings, several frames to one."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from models.padded_clips import encode_padded
from models.pooling import SLOPE, LeakyLPPool4

MEL_POOLING = 64  # log-mel bands to one bin after the CNN
CHANNELS = 128  # of the CNN's output
DROPOUT = 0.3  # of the CNN's output, as published


class CRNNEncoder(nn.Module):
    """Convolutional recurrent encoder (arXiv 2110.02939), input axes (time, mel).

    Args:
        in_dim: log-mel bands, a multiple of 64.
        out_dim: E, the embedding dimension, even: half a direction of the GRU.
        dropout: the share of the CNN's output that a training step drops.
    """

    rate = 4  # log-mel frames to one output

    def __init__(self, in_dim: int, out_dim: int, dropout: float = DROPOUT):
        super().__init__()
        # The modules' places in the list are the published state dict's keys; Identity keeps the place of a LeakyReLU.
        self.cnn = nn.Sequential(
            nn.BatchNorm2d(1),
            _convolution(1, 32),
            nn.Identity(),
            LeakyLPPool4((2, 4)),
            nn.BatchNorm2d(32),
            _convolution(32, CHANNELS),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.BatchNorm2d(CHANNELS),
            _convolution(CHANNELS, CHANNELS),
            nn.Identity(),
            LeakyLPPool4((2, 4)),
            nn.BatchNorm2d(CHANNELS),
            _convolution(CHANNELS, CHANNELS),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.BatchNorm2d(CHANNELS),
            _convolution(CHANNELS, CHANNELS),
            nn.Identity(),
            LeakyLPPool4((1, 4)),
            nn.Dropout(dropout),
        ).to(memory_format=torch.channels_last)  # the same numbers, faster convolutions
        self.gru = nn.GRU(CHANNELS * (in_dim // MEL_POOLING), out_dim // 2, bidirectional=True, batch_first=True)

    @classmethod
    def frames_out(cls, frames):
        """How many outputs L the encoder makes of T frames; of a number, or of an array or tensor of numbers."""
        return frames // cls.rate

    def forward(self, audio: Tensor) -> Tensor:
        """(N, T, in_dim) log-mel -> (N, L, E), L = T // 4 >= 1: to be upsampled to T frames and normalised.

        Under autocast the GRU stays in float32 on CUDA: cuDNN's would run in float16, whatever type was asked for,
        and most gradients at the outputs are below its smallest normal number.
        """
        x = self.cnn(audio.unsqueeze(1))  # (N, C, L, in_dim/64)
        x = x.transpose(1, 2).flatten(2)  # (N, L, C * in_dim/64)
        with torch.autocast("cuda", enabled=False) if x.is_cuda else nullcontext():
            x, _ = self.gru(x)  # (N, L, E)
        return x

    def encode_padded(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`forward` of each clip of a padded batch as of the clip alone: see `models.padded_clips.encode_padded`."""
        return encode_padded(self, audio, lengths)


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution
