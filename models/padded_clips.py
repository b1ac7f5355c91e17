"""Encode clips of several lengths in one padded batch, each exactly as it would be encoded alone; in evaluation mode.

Before each convolution, everything beyond a clip's end is set to zero, as the convolution's own padding is, and the GRU
runs over each clip's own outputs. Long clips pass the CNN in blocks, so that its images need a bounded memory.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.pooling import LeakyLPPool4
from models.tensors import to_device

BLOCK = 2**15  # frames that pass the CNN at a time: eleven minutes at the published hop


def encode_padded(encoder: nn.Module, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
    """`encoder(audio)` of each clip alone.

    Args:
        encoder: a CRNNEncoder, in evaluation mode, where a batch norm is a linear function of its own input alone.
        audio: (N, T, in_dim), zero-padded.
        lengths: (N,) true frames, on the CPU, preferably the longest first, which saves CUDA a wait; None: all are T.

    Returns:
        (N, L, E); of clip i the first `encoder.frames_out(lengths[i])` are valid.
    """
    if lengths is None:
        return encoder.gru(_features(encoder, audio))[0]
    features = _features(encoder, audio, to_device(lengths, audio.device))
    outputs = encoder.frames_out(lengths)
    in_order = bool((outputs[1:] <= outputs[:-1]).all())
    packed = pack_padded_sequence(features, outputs, batch_first=True, enforce_sorted=in_order)
    return pad_packed_sequence(encoder.gru(packed)[0], batch_first=True)[0]


def _features(encoder: nn.Module, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
    """(N, T, in_dim) -> (N, L, C * in_dim/64), the GRU's input; `lengths` (N,) on the audio's device.

    A block is encoded with the neighbouring frames that its convolutions see, so its outputs are those of the whole.
    """
    if audio.shape[1] <= BLOCK:
        return _block_features(encoder, audio, lengths)
    blocks, size, margin, rate = [], BLOCK // encoder.rate, _margin(encoder), encoder.rate
    for first in range(0, encoder.frames_out(audio.shape[1]), size):
        start = max(0, first - margin)  # an output, as first, size and margin
        frames = slice(rate * start, rate * (first + size + margin))
        block = _block_features(encoder, audio[:, frames], None if lengths is None else lengths - frames.start)
        blocks.append(block[:, first - start :][:, :size])
    return torch.cat(blocks, dim=1)


def _block_features(encoder: nn.Module, audio: Tensor, lengths: Tensor | None) -> Tensor:
    """`_features` of a block. A clip that ended before the block has a length below 0."""
    x = audio.unsqueeze(1)  # (N, 1, T, in_dim)
    if lengths is None:
        x = encoder.cnn(x)  # (N, C, L, in_dim/64)
    else:
        for layer in encoder.cnn:
            if isinstance(layer, nn.Conv2d):
                inside = torch.arange(x.shape[2], device=x.device) < lengths.unsqueeze(1)  # (N, T)
                x = x * inside[:, None, :, None]
            elif isinstance(layer, LeakyLPPool4):
                lengths = lengths // layer.window[0]
            x = layer(x)
    return x.transpose(1, 2).flatten(2)  # (N, L, C * in_dim/64)


def _margin(encoder: nn.Module) -> int:
    """How many outputs on either side of an output its convolutions see."""
    reach, rate = 0, 1  # log-mel frames: seen on a side; for one row of the layer's image
    for layer in encoder.cnn:
        if isinstance(layer, nn.Conv2d):
            reach += rate * layer.padding[0]
        elif isinstance(layer, LeakyLPPool4):
            rate *= layer.window[0]
    return -(-reach // encoder.rate)
