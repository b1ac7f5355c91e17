"""Audio encoders: log-mel frames to frame embeddings."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.pooling import SLOPE, LeakyLPPool4

TIME_POOLING = 4  # frames of log-mel to one step of the GRU
MEL_POOLING = 64  # log-mel bands to one bin after the CNN
CHANNELS = 128  # of the CNN's output
DROPOUT = 0.3  # of the CNN's output, as published
BLOCK = 2**15  # frames, eleven minutes by the published hop: so many pass the CNN at a time in evaluation


class CRNNEncoder(nn.Module):
    """Convolutional recurrent encoder (arXiv 2110.02939), input axes (time, mel).

    Args:
        in_dim: log-mel bands, a multiple of 64.
        out_dim: E, the embedding dimension, even: half a direction of the GRU.
        dropout: the share of the CNN's output that a training step drops.
    """

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

    def forward(self, audio: Tensor) -> Tensor:
        """(N, T, in_dim) log-mel -> (N, L, E) steps, L = T // 4 >= 1: to be upsampled to T frames and normalised.

        Under autocast the GRU stays in float32 on CUDA: cuDNN's would run in float16, whatever type was asked for,
        and most gradients at the steps are below its smallest normal number.
        """
        features = self._features(audio)
        with torch.autocast("cuda", enabled=False) if features.is_cuda else nullcontext():
            x, _ = self.gru(features)  # (N, L, E)
        return x

    def encode_clips(self, audio: Tensor, lens: Tensor) -> Tensor:
        """`forward` of each clip alone, for clips of different lengths at once; in evaluation mode.

        Whatever reaches beyond a clip's end is zeroed before each convolution, as its own padding is zero, and the GRU
        runs over each clip's own steps.

        Args:
            audio: (N, T, in_dim), zero-padded; lens: (N,) true frames, on the CPU; the longest first saves CUDA a wait.

        Returns:
            (N, L, E); of clip i the first lens[i] // 4 steps hold.
        """
        lengths = lens // TIME_POOLING  # of steps
        in_order = bool((lengths[1:] <= lengths[:-1]).all())
        features = self._features(audio, send(lens, audio.device))
        packed = pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=in_order)
        steps, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)  # (N, L, E)
        return steps

    def _features(self, audio: Tensor, lens: Tensor | None = None) -> Tensor:
        """(N, T, in_dim) -> (N, L, C * in_dim/64), what the GRU reads; with lens (N,), of each clip alone.

        In evaluation mode, where a batch norm is a line of its own, long clips pass the CNN block by block: with the
        neighbours that a block's convolutions see, its steps are those of the whole.
        """
        if self.training or audio.shape[1] <= BLOCK:
            return self._block_features(audio, lens)
        blocks, at_once, margin = [], BLOCK // TIME_POOLING, self._margin()  # steps
        for first in range(0, audio.shape[1] // TIME_POOLING, at_once):
            start = max(0, first - margin)
            frames = slice(TIME_POOLING * start, TIME_POOLING * (first + at_once + margin))
            block = self._block_features(audio[:, frames], None if lens is None else lens - frames.start)
            blocks.append(block[:, first - start :][:, :at_once])
        return torch.cat(blocks, dim=1)

    def _block_features(self, audio: Tensor, lens: Tensor | None) -> Tensor:
        """`_features` in one go, lens on the audio's device; of a clip that ended before, it is below 0."""
        x = audio.unsqueeze(1)  # (N, 1, T, in_dim)
        if lens is None:
            x = self.cnn(x)  # (N, C, L, in_dim/64)
        else:
            for layer in self.cnn:
                if isinstance(layer, nn.Conv2d):
                    mask = torch.arange(x.shape[2], device=x.device) < lens.unsqueeze(1)  # (N, T)
                    x = x * mask[:, None, :, None]
                elif isinstance(layer, LeakyLPPool4):
                    lens = lens // layer.window[0]
                x = layer(x)
        return x.transpose(1, 2).flatten(2)  # (N, L, C * in_dim/64)

    def _margin(self) -> int:
        """Steps on either side of a step that its convolutions see."""
        reach, frames = 0, 1  # frames; of an image within the CNN, how many of the log-mel stand behind one of its own
        for layer in self.cnn:
            if isinstance(layer, nn.Conv2d):
                reach += frames * layer.padding[0]
            elif isinstance(layer, LeakyLPPool4):
                frames *= layer.window[0]
        return -(-reach // TIME_POOLING)


def send(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device; CUDA copies them from pinned memory, and the host goes on."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def upsample(steps: Tensor, frames: int) -> Tensor:
    """(N, L, K) -> (N, frames, K) by linear interpolation in time (align_corners=False)."""
    image = steps.unsqueeze(2).permute(0, 3, 1, 2)  # (N, K, L, 1), channels last: K runs fastest in memory
    image = F.interpolate(image, size=(frames, 1), mode="bilinear", align_corners=False)  # (N, K, T, 1)
    return image.permute(0, 2, 3, 1).squeeze(2)


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution
