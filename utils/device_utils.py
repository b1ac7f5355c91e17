"""What spares the host and a CUDA device waiting for each other in training: data, draws and checks made ahead or read
later."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.tensors import to_device

READ_EVERY = 50  # steps, of whose losses and gradients CUDA's host reads at once whether they are finite
DRAWN_AT_ONCE = 2**20  # random numbers: those of 512 steps of 32 pairs


class Diverged(Exception):
    """Something that must be finite is NaN or infinite; the model is as it was before it.

    Args:
        what: the thing, with its value.
        clips: (N,) the clips of the batch where it came up.
    """

    def __init__(self, what: str, clips: list[int]):
        super().__init__(what)
        self.clips = clips


class FiniteSteps:
    """Ends training at the first step whose loss or gradient is not finite, whose update it keeps from being made.

    On a CPU it looks at every step. CUDA's host would have to wait for the device: there the device itself leaves out
    this update and all that follow, by what a fused optimiser has for it, until the host looks, every so many steps.

    Args:
        optimizer: fused, on CUDA.
        device: of the losses.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device):
        self.optimizer, self.on_cuda = optimizer, device.type == "cuda"
        self.unread: list[tuple[Tensor, Tensor]] = []
        if self.on_cuda:
            optimizer.found_inf = torch.zeros((), device=device)

    def add(self, loss: Tensor, length: Tensor, clips: Tensor) -> None:
        """A step's loss, the length of its gradient, and its batch's clips (N,); before the update. See `read`."""
        self.unread.append((torch.stack([loss.detach(), length]), clips))
        if self.on_cuda:
            bad = torch.isfinite(loss.detach() + length).logical_not().float()
            self.optimizer.found_inf = torch.maximum(self.optimizer.found_inf, bad)
        if not self.on_cuda or len(self.unread) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Look at the steps since the last look; raises Diverged, by the first that was not finite."""
        unread, self.unread = self.unread, []
        numbers = torch.stack([pair for pair, _ in unread]).tolist() if unread else []
        for (loss, length), (_, clips) in zip(numbers, unread, strict=True):
            if not math.isfinite(loss + length):
                raise Diverged(f"the loss is {loss:g} and the gradient's length {length:g}", clips.tolist())


class DeviceLogMels(Sequence[Tensor]):
    """Log-mels of C clips on a device, their frames in one row: those of a batch are one look-up.

    Args:
        log_mels: C of (T, n_mels).
        device: where they go.
    """

    def __init__(self, log_mels: Sequence[Tensor], device: torch.device):
        self.frames, self.device = [len(log_mel) for log_mel in log_mels], device
        self.rows = torch.zeros(sum(self.frames) + 1, log_mels[0].shape[1], device=device)  # the last is the padding
        starts = torch.tensor([0, *self.frames]).cumsum(0)  # (C + 1,)
        self.places: list[int] = starts.tolist()
        for log_mel, start in zip(log_mels, self.places, strict=False):
            self.rows[start : start + len(log_mel)] = log_mel
        self.starts, self.lens = to_device(starts[:-1], device), to_device(torch.tensor(self.frames), device)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, clip: int) -> Tensor:
        if not 0 <= clip < len(self):
            raise IndexError(clip)
        start = self.places[clip]
        return self.rows[start : start + self.frames[clip]]

    def padded(self, clips: np.ndarray, frames: int) -> Tensor:
        """The log-mels of clips (n,), zero-padded: (n, frames, n_mels)."""
        clips = to_device(torch.from_numpy(clips), self.device)
        place = torch.arange(frames, device=self.device)  # (T,)
        row = self.starts[clips].unsqueeze(1) + place  # (n, T)
        return self.rows[torch.where(place < self.lens[clips].unsqueeze(1), row, len(self.rows) - 1)]


class Draws:
    """The uniform random numbers that a generator of the host gives, on a device: for CUDA many are drawn, and copied,
    at once.

    Args:
        generator: None is torch's own.
        device: where they go.
    """

    def __init__(self, generator: torch.Generator | None, device: torch.device):
        self.generator, self.device = generator, device
        self.left = torch.empty(0, device=device)
        self.at_once = DRAWN_AT_ONCE if device.type == "cuda" else 0

    def take(self, *size: int) -> Tensor:
        """What `torch.rand(size, generator=generator)` would give, whatever was taken before."""
        count = math.prod(size)
        if len(self.left) < count:
            more = torch.rand(max(count, self.at_once), generator=self.generator)
            self.left = torch.cat([self.left, to_device(more, self.device)])
        taken, self.left = self.left[:count], self.left[count:]
        return taken.view(size)
