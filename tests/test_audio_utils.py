import importlib
import subprocess
import sys

import librosa
import numpy as np
import pytest
import soundfile

import utils.audio_utils
from tests.conftest import ROOT
from utils.audio_utils import BACKENDS, LOG_OFFSET, log_mel_spectrogram, probe_clip, read_audio, read_log_mel
from utils.conf_utils import load_conf
from utils.io_utils import UserError

RECIPE = load_conf(ROOT / "conf.yaml").audio_logmel.recipe


def importable(name):
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:
        return str(error)
    return None


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "torchaudio" and (reason := importable("torchaudio")):
        pytest.skip(f"torchaudio cannot be imported here: {reason}")
    return request.param


def tone(seconds, sample_rate, rng=None):
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    noise = 0 if rng is None else rng.normal(scale=0.05, size=len(times))
    return (0.3 * np.sin(2 * np.pi * 440 * times) + noise).astype(np.float32)


def assert_same_log_mels(ours, theirs):
    """As the golden values are compared: in the power domain, and in the log domain where there is power."""
    np.testing.assert_allclose(np.exp(ours), np.exp(theirs), rtol=1e-4, atol=1e-9)
    loud = theirs > -20
    np.testing.assert_allclose(ours[loud], theirs[loud], atol=1e-3)


def test_golden_log_mel(golden, backend):
    arrays = golden("logmel")
    samples = arrays["pcm16"].astype(np.float32) / 32768
    log_mel = log_mel_spectrogram(samples, int(arrays["sample_rate"]), backend=backend)
    assert log_mel.shape == arrays["log_mel"].shape and log_mel.dtype == np.float32
    assert_same_log_mels(log_mel, arrays["log_mel"])


@pytest.mark.parametrize("sample_rate", [16000, 22050, 44100, 48000])
def test_back_ends_agree_with_librosa(sample_rate, backend):
    samples = tone(1.3, sample_rate, np.random.default_rng(0))
    settings = {"n_mels": 128, "window": 0.03, "hop": 0.01, "fmin": 50, "fmax": 7000}
    ours = log_mel_spectrogram(samples, sample_rate, backend=backend, **settings)
    window, hop = round(0.03 * sample_rate), round(0.01 * sample_rate)
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=sample_rate,
        n_fft=2 ** int(np.ceil(np.log2(window))),
        hop_length=hop,
        win_length=window,
        n_mels=128,
        fmin=50,
        fmax=7000,
    )
    assert ours.shape == (1 + len(samples) // hop, 128)
    assert_same_log_mels(ours, np.log(power + LOG_OFFSET).T)


@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large")  # librosa's
@pytest.mark.parametrize("samples", [1, 100, 882, 883])
def test_short_clips(samples, backend):
    log_mel = log_mel_spectrogram(tone(1, 44100)[:samples], 44100, backend=backend)
    assert log_mel.shape == (1 + samples // 882, 64) and np.isfinite(log_mel).all()


def test_silence_is_finite(backend):
    log_mel = log_mel_spectrogram(np.zeros(44100, np.float32), 44100, backend=backend)
    np.testing.assert_allclose(log_mel, np.log(LOG_OFFSET), rtol=1e-6)


def test_a_band_above_half_the_sample_rate_is_an_error():
    with pytest.raises(ValueError, match="above half the sample rate of 8000 Hz"):
        log_mel_spectrogram(tone(1, 8000), 8000)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT"])
def test_reading_averages_channels_at_the_own_rate(tmp_path, subtype):
    samples = np.stack([tone(0.1, 22050), np.zeros(2205)], axis=1)
    soundfile.write(tmp_path / "x.wav", samples, 22050, subtype=subtype)
    read, sample_rate = read_audio(tmp_path / "x.wav")
    assert sample_rate == 22050 and read.dtype == np.float32
    np.testing.assert_allclose(read, samples.mean(axis=1), atol=5e-3)


def test_unfit_audio_is_refused(tmp_path):
    path = tmp_path / "x.wav"
    path.write_text("not audio")
    with pytest.raises(UserError, match=r"x\.wav: unreadable audio"):
        read_audio(path)
    soundfile.write(path, np.zeros(0), 8000)
    with pytest.raises(UserError, match="no samples"):
        read_audio(path)
    soundfile.write(path, np.array([0.1, np.nan]), 8000, subtype="FLOAT")
    with pytest.raises(UserError, match="NaN"):
        read_audio(path)


@pytest.mark.skipif(importable("torchaudio") is None, reason="torchaudio can be imported here")
def test_torchaudio_that_cannot_be_imported_is_said(tmp_path):
    with pytest.raises(UserError, match=r"audio_logmel.backend: torchaudio cannot be imported"):
        log_mel_spectrogram(tone(0.1, 44100), 44100, backend="torchaudio")


@pytest.mark.parametrize(("block", "transformed"), [(4001, 2**24), (300_000, 2**13), (777, 2**11), (1, 2**24)])
@pytest.mark.parametrize("hop", [0.02, 0.005, 0.1])
def test_a_file_read_in_blocks_has_the_log_mels_of_the_whole(tmp_path, monkeypatch, backend, block, transformed, hop):
    samples = np.stack([tone(1 if block > 1 else 0.2, 16000, np.random.default_rng(0))] * 2, axis=1)
    soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    recipe = RECIPE | {"hop": hop, "backend": backend}
    whole = log_mel_spectrogram(samples[:, 0], 16000, **recipe)
    monkeypatch.setattr(utils.audio_utils, "BLOCK", block)
    monkeypatch.setattr(utils.audio_utils, "TRANSFORMED", transformed)
    blocked = read_log_mel(tmp_path / "x.wav", **recipe)
    assert blocked.shape == (1 + len(samples) // round(16000 * hop), 64) and blocked.dtype == np.float32
    np.testing.assert_allclose(blocked, whole, atol=1e-5)
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav")[0], samples[:, 0])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("kept", [0.4, 0.9])
def test_a_file_that_ends_early_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, tone(9, 16000, np.random.default_rng(0)), 16000)
    probe_clip(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UserError, match=rf"x\.{suffix}: (cut short|unreadable audio)"):
        probe_clip(path)


def test_energies_that_overflow_are_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(1, 16000) * np.float32(1e25), 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"x\.wav: samples so large"):
        read_log_mel(tmp_path / "x.wav", **RECIPE)


def test_settings_that_do_not_fit_a_file_name_it(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(1, 4000), 4000)
    with pytest.raises(UserError, match=r"x\.wav: fmax 8000 Hz is above half the sample rate of 4000 Hz"):
        read_log_mel(tmp_path / "x.wav", **RECIPE)
    with pytest.raises(UserError, match=r"x\.wav: a window of 1000 s is too long at 4000 Hz"):
        read_log_mel(tmp_path / "x.wav", **RECIPE | {"fmax": 2000, "window": 1000})


LONG_CLIP = """
import resource, sys
from utils.audio_utils import probe_clip, read_log_mel
from utils.conf_utils import load_conf
from pathlib import Path
path, recipe = Path(sys.argv[1]), load_conf("conf.yaml").audio_logmel.recipe | {"fmax": 4000}
read_log_mel(path.with_name("short.wav"), **recipe)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip, log_mel = probe_clip(path), read_log_mel(path, **recipe)
print(clip.seconds, *log_mel.shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


def test_a_clip_of_two_hours_takes_little_memory(tmp_path):
    minute = tone(60, 8000)
    soundfile.write(tmp_path / "short.wav", minute[:8000], 8000)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 1, "PCM_U8") as stream:
        for _ in range(120):
            stream.write(minute)
    command = [sys.executable, "-c", LONG_CLIP, tmp_path / "long.wav"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, frames, bands, gigabytes = map(float, done.stdout.split())
    assert (seconds, frames, bands) == (7200, 360_001, 64)
    assert gigabytes < 0.5  # the log-mels are 0.09 GB, the samples would be 0.23 GB and their spectra 1.5 GB
