"""The demo data set's sound events: waveforms (samples,) of arbitrary loudness, of `seconds` at `rate` Hz."""

from collections.abc import Callable, Sequence

import numpy as np

Rng = np.random.Generator


def sample_times(seconds: float, rate: int) -> np.ndarray:
    """Time of each sample in seconds, (samples,)."""
    return np.arange(round(seconds * rate)) / rate


def _tone(pitch: float | np.ndarray, seconds: float, rate: int, harmonics: Sequence[float] = (1,)) -> np.ndarray:
    """A tone (samples,) of constant or moving pitch (Hz); `harmonics` are amplitudes."""
    pitch = np.broadcast_to(pitch, round(seconds * rate))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    return sum(a * np.sin(k * phase) for k, a in enumerate(harmonics, start=1) if k * pitch.max() < rate / 2)


def _noise(rng: Rng, low: float, high: float, seconds: float, rate: int) -> np.ndarray:
    """Noise (samples,) between two frequencies (Hz), with a standard deviation of 1."""
    samples = round(seconds * rate)
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * ((frequencies >= low) & (frequencies <= high))
    noise = np.fft.irfft(spectrum, samples)
    return noise / noise.std()


def _repeat(rng: Rng, seconds: float, rate: int, period: float, jitter: float, burst: Callable) -> np.ndarray:
    """Repeat burst() about every `period` seconds, give or take a fraction `jitter` of it, (samples,)."""
    waveform, onset = np.zeros(round(seconds * rate)), rng.uniform(0, 0.1)
    while (start := round(onset * rate)) < len(waveform):
        sound = burst()[: len(waveform) - start]
        waveform[start : start + len(sound)] += sound
        onset += period * (1 + jitter * rng.uniform(-1, 1))
    return waveform


def siren(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    swing = np.sin(2 * np.pi * (rng.uniform(0.7, 1.3) * sample_times(seconds, rate) + rng.uniform()))
    return _tone(rng.uniform(700, 1000) * 2 ** (0.6 * swing), seconds, rate, (1, 0.5, 0.3))


def rain(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    patter = 1 + rng.uniform(0.2, 0.6) * np.abs(_noise(rng, 0, 30, seconds, rate))
    return patter * _noise(rng, rng.uniform(1000, 2000), 8000, seconds, rate)


def bell(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    pitch, fade = rng.uniform(400, 700), np.exp(-sample_times(1.5, rate) / rng.uniform(0.25, 0.4))
    partials = {0.5: 0.6, 1: 1, 1.2: 0.7, 1.5: 0.4, 2: 0.7, 2.7: 0.4}  # inharmonic, as a bell's
    strike = fade * sum(a * _tone(ratio * pitch, 1.5, rate) for ratio, a in partials.items())
    return _repeat(rng, seconds, rate, rng.uniform(0.6, 0.9), 0.05, lambda: strike)


def bird(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    pitch, length = rng.uniform(2700, 3500), rng.uniform(0.09, 0.14)
    part = sample_times(length, rate) / length
    chirp = np.sin(np.pi * part) * _tone(pitch * (1 - 0.4 * part), length, rate)
    return _repeat(rng, seconds, rate, rng.uniform(0.2, 0.28), 0.3, lambda: chirp)


def engine(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    pitch, times = rng.uniform(70, 120), sample_times(seconds, rate)
    sway = 1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * times)
    throb = 1 + 0.5 * np.sin(np.pi / 2 * pitch * times)
    return throb * _tone(pitch * sway, seconds, rate, [k**-0.7 for k in range(1, 13)])


def footsteps(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    low, fade = rng.uniform(250, 350), np.exp(-sample_times(0.2, rate) / 0.03)
    period = rng.uniform(0.35, 0.5)
    return _repeat(rng, seconds, rate, period, 0.05, lambda: fade * _noise(rng, low, 4 * low, 0.2, rate))


def clock(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    tick = np.exp(-sample_times(0.05, rate) / 0.006) * _noise(rng, rng.uniform(2500, 3000), 6500, 0.05, rate)
    return _repeat(rng, seconds, rate, rng.uniform(0.2, 0.3), 0, lambda: tick)


def telephone(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    warble = np.where(np.sin(2 * np.pi * rng.uniform(12, 16) * sample_times(0.6, rate)) > 0, 1, 1.35)
    ring = _tone(rng.uniform(1000, 1200) * warble, 0.6, rate, (1, 0, 0.5))
    return _repeat(rng, seconds, rate, rng.uniform(0.8, 1), 0, lambda: ring)


def wind(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    low, gusts = rng.uniform(200, 350), np.sin(2 * np.pi * (0.6 * sample_times(seconds, rate) + rng.uniform()))
    return (1.2 + gusts) * _noise(rng, low, 3 * low, seconds, rate)


def crickets(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    length = rng.uniform(0.25, 0.35)
    pulses = np.sin(np.pi * rng.uniform(25, 35) * sample_times(length, rate)) ** 2
    trill = pulses * _tone(rng.uniform(3600, 3900), length, rate)
    return _repeat(rng, seconds, rate, length + rng.uniform(0.05, 0.15), 0.02, lambda: trill)


def drum(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    times, pitch = sample_times(0.4, rate), rng.uniform(60, 100)
    body = np.exp(-times / 0.1) * _tone(pitch * (1 + np.exp(-times / 0.03)), 0.4, rate)
    beat = body + 0.3 * np.exp(-times / 0.01) * _noise(rng, 100, 5000, 0.4, rate)
    return _repeat(rng, seconds, rate, rng.uniform(0.22, 0.4), 0, lambda: rng.uniform(0.6, 1) * beat)


def alarm(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    length = rng.uniform(0.1, 0.16)
    beep = _tone(rng.uniform(1700, 2300), length, rate, (1, 0, 0.4))
    return _repeat(rng, seconds, rate, 2 * length, 0, lambda: beep)


def water(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    times, period = sample_times(0.12, rate), rng.uniform(0.2, 0.35)
    rise, fade = 2 ** (12 * times), np.exp(-times / 0.035)
    return _repeat(rng, seconds, rate, period, 0.6, lambda: fade * _tone(rng.uniform(400, 700) * rise, 0.12, rate))


def thunder(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    times = sample_times(2, rate)
    rumble = np.exp(-times / rng.uniform(0.4, 0.7)) * _noise(rng, 20, rng.uniform(120, 200), 2, rate)
    clap = 2 * rumble + np.exp(-times / 0.08) * _noise(rng, 100, 3000, 2, rate)
    return _repeat(rng, seconds, rate, rng.uniform(1.2, 1.8), 0.2, lambda: clap)
