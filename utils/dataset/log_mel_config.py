"""The settings of log-mels, shared by preprocessing, search and provenance."""

from dataclasses import dataclass
from math import ceil, log2
from typing import NamedTuple

LONGEST_WINDOW = 2**20  # samples
LOWEST_RATE = 1000  # Hz to resample from: a damaged header may hold any rate


class MelTransform(NamedTuple):
    """A config in samples, at a sample rate."""

    sample_rate: int  # Hz
    n_fft: int  # samples
    win_length: int
    hop_length: int
    n_mels: int
    fmin: float  # Hz
    fmax: float


@dataclass(frozen=True)
class LogMelConfig:
    """The settings of log-mels, by default the published ones. All back ends give the same numbers."""

    backend: str = "torch"  # a name in utils.dataset.log_mel.BACKENDS
    window: float = 0.04  # s; the FFT is the next power of two
    hop: float = 0.02  # s
    n_mels: int = 64  # bands
    fmin: float = 12.0  # Hz
    fmax: float = 8000.0
    sample_rate: int | None = None  # Hz, to resample every sound to; None: keep its own

    def at(self, sample_rate: int) -> MelTransform:
        """Convert to samples for a sound of this sample rate (Hz); raises ValueError if the config does not fit it."""
        if self.sample_rate and sample_rate < LOWEST_RATE:
            raise ValueError(f"a sample rate of {sample_rate} Hz is too low to be resampled")
        sample_rate = self.sample_rate or sample_rate
        if self.fmax > sample_rate / 2:
            raise ValueError(f"fmax {self.fmax:g} Hz is above half the sample rate of {sample_rate} Hz")
        win_length, hop_length = round(sample_rate * self.window), round(sample_rate * self.hop)
        if win_length < 2 or hop_length < 1:
            raise ValueError(
                f"a window of {self.window:g} s or a hop of {self.hop:g} s is too short at {sample_rate} Hz"
            )
        if win_length > LONGEST_WINDOW:
            limit = f"{LONGEST_WINDOW} samples at most"
            raise ValueError(f"a window of {self.window:g} s is too long at {sample_rate} Hz ({limit})")
        n_fft = 2 ** ceil(log2(win_length))
        bin_width = sample_rate / n_fft  # Hz
        if (self.fmin // bin_width + 1) * bin_width >= self.fmax:
            band = f"fmin {self.fmin:g} Hz and fmax {self.fmax:g} Hz"
            raise ValueError(f"no FFT bin lies between {band} at {sample_rate} Hz; widen the band or the window")
        return MelTransform(sample_rate, n_fft, win_length, hop_length, self.n_mels, self.fmin, self.fmax)

    def frames(self, samples: int, sample_rate: int) -> int:
        """Count the frames of the log-mel of so many samples in each channel; raises ValueError as `at` does."""
        transform = self.at(sample_rate)
        resampled = int(samples / (sample_rate / transform.sample_rate) + 0.5)  # as soxr rounds
        return 1 + resampled // transform.hop_length


PUBLISHED = LogMelConfig()
