"""Log-mels are the published ones, by librosa's and the golden values, whatever the back end and the file."""

import importlib
import subprocess
import sys
from dataclasses import replace

import librosa
import numpy as np
import pytest
import soundfile
import soxr
from scipy.io import wavfile

import utils.dataset.audio
import utils.dataset.log_mel
from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.conf.schema import result_settings
from utils.dataset.audio import LOUDEST
from utils.dataset.log_mel import BACKENDS, LOG_OFFSET, log_mel_spectrogram, read_log_mel
from utils.dataset.log_mel_config import PUBLISHED, LogMelConfig


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


def tone(seconds, sample_rate):
    """A tone in noise."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    noise = np.random.default_rng(0).normal(scale=0.05, size=len(times))
    return (0.3 * np.sin(2 * np.pi * 440 * times) + noise).astype(np.float32)


def librosas(samples, sample_rate, config):
    """The same by librosa alone."""
    window, hop = round(config.window * sample_rate), round(config.hop * sample_rate)
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=sample_rate,
        n_fft=2 ** int(np.ceil(np.log2(window))),
        hop_length=hop,
        win_length=window,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
    )
    return np.log(power + np.spacing(1)).T


def assert_same_log_mels(ours, theirs):
    """As the golden values are compared: in the power domain, and in the log domain where there is power."""
    assert ours.shape == theirs.shape and ours.dtype == np.float32 and np.isfinite(ours).all()
    np.testing.assert_allclose(np.exp(ours), np.exp(theirs), rtol=1e-4, atol=1e-9)
    loud = theirs > -20
    np.testing.assert_allclose(ours[loud], theirs[loud], atol=1e-3)


def test_the_papers_recipe_is_the_configurations():
    assert load_conf(ROOT / "conf.yaml").audio_logmel.config == PUBLISHED


def test_golden_log_mel(golden, backend):
    arrays = golden("logmel")
    samples = arrays["pcm16"].astype(np.float32) / 32768
    log_mel = log_mel_spectrogram(samples, int(arrays["sample_rate"]), LogMelConfig(backend))
    assert_same_log_mels(log_mel, arrays["log_mel"])


@pytest.mark.parametrize("sample_rate", [16000, 22050, 44100, 48000])
def test_back_ends_agree_with_librosa(sample_rate, backend):
    samples = tone(1.3, sample_rate)
    config = LogMelConfig(backend, window=0.03, hop=0.01, n_mels=128, fmin=50, fmax=7000)
    assert_same_log_mels(log_mel_spectrogram(samples, sample_rate, config), librosas(samples, sample_rate, config))


@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large")  # librosa's
@pytest.mark.parametrize("samples", [1, 100, 882, 883, 44100])
def test_short_and_silent_clips(samples, backend):
    log_mel = log_mel_spectrogram(tone(1, 44100)[:samples], 44100, LogMelConfig(backend))
    silence = log_mel_spectrogram(np.zeros(samples), 44100, LogMelConfig(backend))
    assert log_mel.shape == silence.shape == (1 + samples // 882, 64) and np.isfinite(log_mel).all()
    np.testing.assert_allclose(silence, np.log(LOG_OFFSET), rtol=1e-6)


@pytest.mark.parametrize(
    ("subtype", "channels", "sample_rate", "scale", "offset"),
    [
        ("PCM_U8", 1, 16000, 2**7, 2**7),
        ("PCM_16", 2, 16000, 2**15, 0),
        ("PCM_16", 8, 16000, 2**15, 0),
        ("PCM_16", 1, 192_000, 2**15, 0),
        ("PCM_24", 1, 16000, 2**31, 0),
        ("PCM_32", 1, 16000, 2**31, 0),
        ("FLOAT", 1, 16000, 1, 0),
    ],
)
@pytest.mark.filterwarnings("ignore:Chunk \\(non-data\\) not understood")  # scipy's
def test_any_kind_of_wav_has_the_log_mel_of_its_samples(tmp_path, subtype, channels, sample_rate, scale, offset):
    """Its samples are those that scipy reads."""
    samples = np.stack([tone(0.7, sample_rate)[::step] for step in [1, -1] * channels][:channels], axis=1)
    soundfile.write(tmp_path / "x.wav", samples, sample_rate, subtype=subtype)
    _, read = wavfile.read(tmp_path / "x.wav")
    mono = ((read.astype(np.float64) - offset) / scale).reshape(len(read), -1).mean(axis=1).astype(np.float32)
    theirs = librosas(mono, sample_rate, PUBLISHED)
    assert_same_log_mels(read_log_mel(tmp_path / "x.wav", PUBLISHED), theirs)


@pytest.mark.parametrize(("block", "transformed"), [(4001, 2**24), (300_000, 2**13), (777, 2**11), (1, 2**24)])
@pytest.mark.parametrize("hop", [0.02, 0.005, 0.1])
def test_a_file_read_in_blocks_has_the_log_mels_of_the_whole(tmp_path, monkeypatch, block, transformed, hop):
    samples = tone(1 if block > 1 else 0.2, 16000)
    soundfile.write(tmp_path / "x.wav", np.stack([samples, samples], axis=1), 16000, subtype="FLOAT")
    config = replace(PUBLISHED, hop=hop)
    whole = log_mel_spectrogram(samples, 16000, config)
    monkeypatch.setattr(utils.dataset.audio, "BLOCK", block)
    monkeypatch.setattr(utils.dataset.log_mel, "TRANSFORMED", transformed)
    blocked = read_log_mel(tmp_path / "x.wav", config)
    assert blocked.shape == (1 + len(samples) // round(16000 * hop), 64) and blocked.dtype == np.float32
    np.testing.assert_allclose(blocked, whole, atol=1e-5)


# --- resampled -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [16000, 16030, 22050, 44100, 96000])
@pytest.mark.parametrize("resampled_to", [None, 16000, 22050])
def test_the_frames_of_a_log_mel_are_counted_without_it(sample_rate, resampled_to):
    config = LogMelConfig(fmax=4000, sample_rate=resampled_to)
    hop = round((resampled_to or sample_rate) * config.hop) * sample_rate / (resampled_to or sample_rate)
    for samples in {max(1, round(frames * hop) + off) for frames in (1, 2, 3, 10) for off in range(-3, 4)}:
        log_mel = log_mel_spectrogram(np.zeros(samples), sample_rate, config)
        assert config.frames(samples, sample_rate) == len(log_mel), samples


@pytest.mark.parametrize("sample_rate", [16000, 22050, 96000])
def test_resampled_log_mels_are_those_of_the_resampled_sound(tmp_path, monkeypatch, sample_rate, backend):
    """By soxr on the whole; and by librosa, whose last sample may be one more."""
    samples = tone(1.3, sample_rate)
    config = LogMelConfig(backend, sample_rate=44100)
    whole = soxr.resample(samples, sample_rate, 44100, quality="HQ")
    expected = log_mel_spectrogram(whole, 44100, LogMelConfig(backend))
    np.testing.assert_allclose(log_mel_spectrogram(samples, sample_rate, config), expected, atol=1e-5)
    by_librosa = librosas(librosa.resample(samples, orig_sr=sample_rate, target_sr=44100), 44100, PUBLISHED)
    assert_same_log_mels(expected[:-3], by_librosa[: len(expected) - 3])
    soundfile.write(tmp_path / "x.wav", np.stack([samples, samples], axis=1), sample_rate, subtype="FLOAT")
    monkeypatch.setattr(utils.dataset.audio, "BLOCK", 4001)
    np.testing.assert_allclose(read_log_mel(tmp_path / "x.wav", config), expected, atol=1e-5)


def test_a_sound_at_other_rates_has_near_log_mels_once_resampled():
    """Up to 7 kHz, where the highest of the sound at 16 kHz is."""
    rng = np.random.default_rng(0)
    spectrum = rng.normal(size=(2, 7000 * 3)) * np.geomspace(30, 1, 7000 * 3)
    spectrum = np.r_[spectrum[0] + 1j * spectrum[1], np.zeros(96000 * 3 // 2 + 1 - 7000 * 3)]
    at_96_khz = (0.1 * np.fft.irfft(spectrum) / np.fft.irfft(spectrum).std()).astype(np.float32)
    sounds = {rate: soxr.resample(at_96_khz, 96000, rate, quality="VHQ") for rate in (16000, 22050, 44100)}
    expected = log_mel_spectrogram(sounds[44100], 44100)
    resampling = replace(PUBLISHED, sample_rate=44100)
    assert np.array_equal(log_mel_spectrogram(sounds[44100], 44100, resampling), expected)
    below_7_khz = slice(0, 60)
    for rate, sound in (sounds | {96000: at_96_khz}).items():
        near, far = log_mel_spectrogram(sound, rate, resampling), log_mel_spectrogram(sound, rate)
        assert near.shape == expected.shape
        assert np.abs(near - expected)[2:-2, below_7_khz].max() < 0.02
        offset = np.median((far[: len(expected)] - expected[: len(far)])[2:-2, below_7_khz])
        assert rate == 44100 or abs(offset) > 1


def test_a_rate_that_the_recipe_does_not_fit_is_refused_in_the_configuration():
    for setting, what in (("8000", "fmax 8000 Hz is above half"), ("0", "is 0"), ("44100.5", "is 44100.5")):
        with pytest.raises(UserError, match=f"audio_logmel.*{what}"):
            load_conf(ROOT / "conf.yaml", [f"audio_logmel.sample_rate={setting}"])
    conf = load_conf(ROOT / "conf.yaml", ["audio_logmel.sample_rate=16000"])
    assert conf.audio_logmel.config == replace(PUBLISHED, sample_rate=16000)
    assert result_settings(conf)["audio_logmel.sample_rate"] == 16000  # provenance, sweeps and comparisons have it


# --- refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "settings", "what"),
    [
        (4000, {}, "fmax 8000 Hz is above half the sample rate of 4000 Hz"),
        (4000, {"fmax": 2000, "window": 1000}, "a window of 1000 s is too long at 4000 Hz"),
        (4000, {"fmax": 2000, "window": 0.0001}, "too short at 4000 Hz"),
        (4000, {"fmax": 2000, "hop": 0.0001}, "too short at 4000 Hz"),
        (4000, {"fmin": 1, "fmax": 2}, "no FFT bin lies between fmin 1 Hz and fmax 2 Hz"),
        (1, {"sample_rate": 44100}, "a sample rate of 1 Hz is too low to be resampled"),  # it would be hours long
    ],
)
@pytest.mark.filterwarnings("ignore:Empty filters")  # librosa's
def test_a_recipe_that_does_not_fit_a_file_names_it(tmp_path, rate, settings, what):
    soundfile.write(tmp_path / "x.wav", tone(1, 4000), rate)
    with pytest.raises(UserError, match=rf"x\.wav: .*{what}.*; change the audio_logmel settings"):
        read_log_mel(tmp_path / "x.wav", replace(PUBLISHED, **settings))


def test_samples_as_large_as_they_may_be_have_finite_energies(tmp_path, backend):
    soundfile.write(tmp_path / "x.wav", np.float32(0.99 * LOUDEST) * np.sign(tone(40, 16000)), 16000, subtype="FLOAT")
    for window in (0.04, 40):
        assert np.isfinite(read_log_mel(tmp_path / "x.wav", LogMelConfig(backend, window, hop=window / 2))).all()


@pytest.mark.skipif(importable("torchaudio") is None, reason="torchaudio can be imported here")
def test_torchaudio_that_cannot_be_imported_is_said():
    with pytest.raises(UserError, match=r"audio_logmel.backend: torchaudio cannot be imported"):
        log_mel_spectrogram(tone(0.1, 44100), 44100, LogMelConfig("torchaudio"))


# --- memory ----------------------------------------------------------------------------------------------

LONG_CLIP = """
import resource, sys
from pathlib import Path
from utils.dataset.audio import probe_clip
from utils.dataset.log_mel import read_log_mel
from utils.dataset.log_mel_config import LogMelConfig
path, config = Path(sys.argv[1]), LogMelConfig(fmax=4000, sample_rate=int(sys.argv[2]) or None)
read_log_mel(path.with_name("short.wav"), config)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip, log_mel = probe_clip(path).clip, read_log_mel(path, config)
print(clip.seconds, *log_mel.shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


@pytest.mark.parametrize("sample_rate", [0, 12000])
def test_a_clip_of_an_hour_takes_little_memory(tmp_path, sample_rate):
    minute = tone(60, 8000)
    soundfile.write(tmp_path / "short.wav", minute[:8000], 8000)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 1, "PCM_U8") as stream:
        for _ in range(60):
            stream.write(minute)
    command = [sys.executable, "-c", LONG_CLIP, tmp_path / "long.wav", str(sample_rate)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, frames, bands, gigabytes = map(float, done.stdout.split())
    assert (seconds, frames, bands) == (3600, 180_001, 64)
    assert gigabytes < 0.35  # 0.22; 0.42 with the samples in one block, and 1 with their spectra
