"""Audio files as libsndfile decodes them, and those that it would pass as whole though they are not."""

import hashlib

import librosa
import numpy as np
import pytest
import soundfile
import soxr

import utils.common.digests
import utils.dataset.audio
from utils.common.digests import HELD
from utils.common.errors import UserError
from utils.dataset.audio import mono_blocks, open_audio, probe_clip, resampled
from utils.dataset.paths import AUDIO_SUFFIXES

RATE = 16000


def noise(samples=2 * RATE, channels=1):
    return np.random.default_rng(0).normal(scale=0.1, size=(samples, channels)).squeeze()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT"])
def test_channels_are_averaged_at_the_files_own_rate(tmp_path, subtype):
    samples = noise(3000, channels=3)
    soundfile.write(tmp_path / "x.wav", samples, 22050, subtype=subtype)
    with open_audio(tmp_path / "x.wav") as stream:
        assert stream.samplerate == 22050
        read = np.concatenate(list(mono_blocks(tmp_path / "x.wav", stream)))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, samples.mean(axis=1), atol=1e-2)  # a step of 8 bits
    clip = probe_clip(tmp_path / "x.wav")
    assert clip[:4] == ("x.wav", round(3000 / 22050, 6), 22050, 3)


@pytest.mark.parametrize("held", [HELD, 100])
def test_a_file_is_described_as_it_was_digested(tmp_path, monkeypatch, held):
    """It is read once, unless it is too large for memory."""
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(999), RATE)
    monkeypatch.setattr(utils.common.digests, "HELD", held)

    def open_after(path, content):
        if held == HELD:
            path.unlink()
        return open_audio(path, content)

    monkeypatch.setattr(utils.dataset.audio, "open_audio", open_after)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert probe_clip(path) == ("x.wav", round(999 / RATE, 6), RATE, 1, sha256)


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(UserError, match=r"x\.wav: unreadable audio \(No such file"):
        probe_clip(tmp_path / "x.wav")


def write(path, samples, rate=RATE):
    """Write a file of the kind that its suffix says."""
    options = {".opus": {"format": "OGG", "subtype": "OPUS"}, ".aif": {"format": "AIFF"}}
    soundfile.write(path, samples, rate, **options.get(path.suffix, {}))


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_kind_of_audio_file_is_read_to_its_end(tmp_path, suffix, channels):
    times = np.arange(3 * RATE + 7) / RATE
    tones = np.stack([0.3 * np.sin(2 * np.pi * pitch * times) for pitch in (440, 660)[:channels]], axis=1)
    path = tmp_path / f"x{suffix.upper()}"
    write(tmp_path / f"x{suffix}", tones)
    (tmp_path / f"x{suffix}").rename(path)
    assert probe_clip(path)[:4] == (path.name, round(len(times) / RATE, 6), RATE, channels)
    with open_audio(path) as stream:
        read = np.concatenate(list(mono_blocks(path, stream)))
    middle = slice(RATE // 10, -RATE // 10)
    np.testing.assert_allclose(read[middle], tones.mean(axis=1)[middle], atol=0.02)  # lossy ones too: in time and scale


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
@pytest.mark.parametrize("kept", [0.4, 0.9, 0.999])
def test_a_file_that_ends_early_is_refused(tmp_path, suffix, kept, capfd):
    path = tmp_path / f"x{suffix}"
    write(path, noise(9 * RATE))
    probe_clip(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UserError, match=rf"x\{suffix}: (cut short|unreadable audio)"):
        probe_clip(path)
    assert capfd.readouterr().err == ""  # of the MP3 decoder's own remarks


def test_an_mp3_whose_length_can_only_be_guessed_is_refused(tmp_path):
    """Of a variable bit rate, libsndfile would read a part."""
    path = tmp_path / "x.mp3"
    write(path, np.r_[np.zeros(RATE), noise(3 * RATE)])
    content = path.read_bytes()
    path.write_bytes(content[content.index(content[:2], 4) :])  # without its first frame, where the count is
    with pytest.raises(UserError, match=r"x\.mp3: it has no count of its frames.*convert it to a \.wav or \.flac"):
        probe_clip(path)


def test_an_rf64_file_that_ends_early_is_refused(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(), RATE, format="RF64")
    assert probe_clip(path).seconds == 2
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cut short"):
        probe_clip(path)


def test_a_flac_that_was_written_into_a_pipe_is_called_so(tmp_path):
    path = tmp_path / "x.flac"
    write(path, noise())
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the count of samples, 36 bits in the first block of metadata: unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.flac: it has no count of its frames.*convert it"):
        probe_clip(path)


def test_sounds_of_other_kinds_are_to_be_converted(tmp_path):
    (tmp_path / "x.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(999))
    with pytest.raises(UserError, match=r"x\.m4a: unreadable audio .*; if it plays elsewhere, convert it to \.wav"):
        probe_clip(tmp_path / "x.m4a")


def written_with_size(path, size, riff_size=None, end=None):
    """Write a second of noise, or its first bytes, whose header gives its samples this many bytes."""
    soundfile.write(path, noise(RATE), RATE)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = size.to_bytes(4, "little")
    if riff_size is not None:
        content[4:8] = riff_size.to_bytes(4, "little")
    path.write_bytes(content[:end])


@pytest.mark.parametrize(
    ("size", "riff_size"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0xFFFFFFFF, None),
        (0x7FFFF000, 0x7FFFF024),  # SoX
        (0, 8),  # libsndfile
    ],
)
def test_a_wav_that_was_written_into_a_pipe_is_read_to_its_end(tmp_path, size, riff_size):
    written_with_size(tmp_path / "x.wav", size, riff_size)
    assert probe_clip(tmp_path / "x.wav").seconds == 1
    with open_audio(tmp_path / "x.wav") as stream:
        (read,) = mono_blocks(tmp_path / "x.wav", stream)
    np.testing.assert_allclose(read, noise(RATE), atol=1e-4)


def test_a_wav_of_known_length_is_cut_short_whatever_the_size_of_its_riff(tmp_path):
    written_with_size(tmp_path / "x.wav", 2 * RATE, 0xFFFFFFFF, end=RATE)
    with pytest.raises(UserError, match="cut short"):
        probe_clip(tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda path: path.write_bytes(b""), "unreadable audio"),
        (lambda path: path.write_text("no sound\n" * 99), "unreadable audio"),
        (lambda path: soundfile.write(path, np.zeros(0), RATE), "no samples"),
        (lambda path: soundfile.write(path, np.r_[noise(), np.nan], RATE, subtype="FLOAT"), "NaN or infinite"),
        (lambda path: soundfile.write(path, np.r_[noise(), np.inf], RATE, subtype="DOUBLE"), "NaN or infinite"),
        (lambda path: soundfile.write(path, noise() * 1e25, RATE, subtype="FLOAT"), r"a sample of .*e\+24; full"),
        (lambda path: written_with_size(path, 2**31 - 2), "cut short"),
        (lambda path: written_with_size(path, 0), "no samples"),
    ],
)
def test_unfit_audio_is_refused(tmp_path, write, what):
    write(tmp_path / "x.wav")
    with pytest.raises(UserError, match=rf"^[^\n]*x\.wav: .*{what}"):
        probe_clip(tmp_path / "x.wav")


def test_a_header_that_promises_less_is_believed(tmp_path):
    written_with_size(tmp_path / "x.wav", RATE)
    assert probe_clip(tmp_path / "x.wav").seconds == 0.5


@pytest.mark.parametrize(("rate", "new_rate"), [(16000, 44100), (22050, 44100), (96000, 44100), (44100, 16000)])
@pytest.mark.parametrize("block", [1, 777, 4001, 10**6])
def test_blocks_are_resampled_as_the_whole_is(monkeypatch, rate, new_rate, block):
    samples = noise(9001 if block > 1 else 50).astype(np.float32)
    monkeypatch.setattr(utils.dataset.audio, "BLOCK", 2000)
    blocks = [samples[start : start + block] for start in range(0, len(samples), block)]
    pieces = list(resampled(blocks, rate, new_rate))
    assert max(map(len, pieces)) < 2 * 2000
    ours = np.concatenate(pieces)
    assert np.array_equal(ours, soxr.resample(samples, rate, new_rate, quality="HQ"))
    theirs = librosa.resample(samples, orig_sr=rate, target_sr=new_rate)
    assert 0 <= len(theirs) - len(ours) <= 1  # librosa rounds up
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-6)


def test_the_same_rate_changes_nothing():
    samples = noise(99)
    (block,) = resampled([samples], RATE, RATE)
    assert block is samples
