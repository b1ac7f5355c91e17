"""Keep the host and a CUDA device from waiting for each other in training: make data and draws ahead, check later."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.tensors import to_device

READ_EVERY = 50  # steps between two checks on CUDA whether losses and gradients are finite
DRAWN_AT_ONCE = 2**20  # random numbers copied at a time: 512 steps of 32 pairs


class Diverged(Exception):
    """A loss, gradient or score, `what`, is NaN or infinite in a batch of `clips` (N,); the model is as before."""

    def __init__(self, what: str, clips: list[int]):
        super().__init__(what)
        self.clips = clips


class FiniteSteps:
    """End training at the first step whose loss or gradient is not finite, without its update.

    A CPU checks every step. On CUDA the check would make the host wait, so the fused optimiser's `found_inf` skips this
    update and all later ones on the device, until the host checks, every READ_EVERY steps.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device):
        self.optimizer, self.on_cuda = optimizer, device.type == "cuda"
        self.unread: list[tuple[Tensor, Tensor]] = []
        if self.on_cuda:
            optimizer.found_inf = torch.zeros((), device=device)

    def add(self, loss: Tensor, length: Tensor, clips: Tensor) -> None:
        """Add a step's loss, gradient norm and clips (N,), before its update; may raise as `read` does."""
        self.unread.append((torch.stack([loss.detach(), length]), clips))
        if self.on_cuda:
            bad = torch.isfinite(loss.detach() + length).logical_not().float()
            self.optimizer.found_inf = torch.maximum(self.optimizer.found_inf, bad)
        if not self.on_cuda or len(self.unread) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Check the steps since the last check; raises Diverged for the first that is not finite."""
        unread, self.unread = self.unread, []
        numbers = torch.stack([pair for pair, _ in unread]).tolist() if unread else []
        for (loss, length), (_, clips) in zip(numbers, unread, strict=True):
            if not math.isfinite(loss + length):
                raise Diverged(f"the loss is {loss:g} and the gradient's length {length:g}", clips.tolist())


class DeviceAudio(Sequence[Tensor]):
    """The log-mels or features (T, D) of C clips on a device, in one tensor: a batch is one look-up."""

    def __init__(self, audio: Sequence[Tensor], device: torch.device):
        self.frames, self.width, self.device = [len(clip) for clip in audio], audio[0].shape[1], device
        self.rows = torch.zeros(sum(self.frames) + 1, self.width, device=device)  # the last is the padding
        starts = torch.tensor([0, *self.frames]).cumsum(0)  # (C + 1,)
        self.places: list[int] = starts.tolist()
        for clip, start in zip(audio, self.places, strict=False):
            self.rows[start : start + len(clip)] = clip
        self.starts, self.lens = to_device(starts[:-1], device), to_device(torch.tensor(self.frames), device)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, clip: int) -> Tensor:
        if not 0 <= clip < len(self):
            raise IndexError(clip)
        start = self.places[clip]
        return self.rows[start : start + self.frames[clip]]

    def padded(self, clips: np.ndarray, frames: int) -> Tensor:
        """The frames of clips (n,), zero-padded: (n, frames, D)."""
        clips = to_device(torch.from_numpy(clips), self.device)
        place = torch.arange(frames, device=self.device)  # (T,)
        row = self.starts[clips].unsqueeze(1) + place  # (n, T)
        return self.rows[torch.where(place < self.lens[clips].unsqueeze(1), row, len(self.rows) - 1)]


class Draws:
    """Uniform random numbers of a host generator (None: torch's own), on a device; for CUDA many are copied at once."""

    def __init__(self, generator: torch.Generator | None, device: torch.device):
        self.generator, self.device = generator, device
        self.left = torch.empty(0, device=device)
        self.at_once = DRAWN_AT_ONCE if device.type == "cuda" else 0

    def take(self, *size: int) -> Tensor:
        """The numbers of `torch.rand(size, generator=generator)`, in the generator's order."""
        count = math.prod(size)
        if len(self.left) < count:
            more = torch.rand(max(count, self.at_once), generator=self.generator)
            self.left = torch.cat([self.left, to_device(more, self.device)])
        taken, self.left = self.left[:count], self.left[count:]
        return taken.view(size)
