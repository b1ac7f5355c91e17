"""Audio encoders, by name in AUDIO_ENCODERS: frames of log-mels or of pretrained features to embeddings.

An encoder declares its `rate`, how many frames become one output, and `padded_to`, the multiple of frames to which
evaluation pads a batch. A further encoder is one class here and one row in the table.
"""

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
    padded_to = 64  # frames: convolutions keep memory for each input size

    def __init__(self, in_dim: int, out_dim: int, dropout: float = DROPOUT):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
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
    def from_state_dict(cls, state: dict[str, Tensor]) -> "CRNNEncoder":
        """An encoder of the sizes that a (published) state dict of the whole model has."""
        in_dim = state["audio_enc.gru.weight_ih_l0"].shape[1] // CHANNELS * MEL_POOLING
        return cls(in_dim, 2 * state["audio_enc.gru.weight_hh_l0"].shape[1])

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
        """`forward` of each clip of a padded batch as of the clip alone."""
        return encode_padded(self, audio, lengths)


class FeatureEncoder(nn.Module):
    """Pretrained audio features (N, L, `in_dim`), passed on with dropout; only the projection after it is trained."""

    rate = 1
    padded_to = 1

    def __init__(self, in_dim: int, dropout: float = 0.0):
        super().__init__()
        self.in_dim = self.out_dim = in_dim
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "FeatureEncoder":
        """An encoder of the features' dimension: that of the projection's input, or else of the text."""
        text = state.get("text_projection.weight", state["text_enc.embedding.weight"].T)  # (E, W)
        return cls(state["audio_projection.weight"].shape[1] if "audio_projection.weight" in state else len(text))

    @classmethod
    def frames_out(cls, frames):
        return frames

    def forward(self, audio: Tensor) -> Tensor:
        return self.dropout(audio)

    def encode_padded(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.forward(audio)  # a frame does not depend on its neighbours


AUDIO_ENCODERS = {"crnn": CRNNEncoder, "features": FeatureEncoder}


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution
