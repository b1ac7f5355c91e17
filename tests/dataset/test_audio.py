"""Audio files as libsndfile decodes them, and those that it would pass as whole though they are not."""

import numpy as np
import pytest
import soundfile

from utils.common.errors import UserError
from utils.dataset.audio import mono_blocks, open_audio, probe_clip

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


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("kept", [0.4, 0.9])
def test_a_file_that_ends_early_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, noise(9 * RATE), RATE)
    probe_clip(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UserError, match=rf"x\.{suffix}: (cut short|unreadable audio)"):
        probe_clip(path)


def written_with_size(path, size):
    """Write a second of noise whose header gives its samples this many bytes."""
    soundfile.write(path, noise(RATE), RATE)
    content = path.read_bytes()
    place = content.index(b"data") + 4
    path.write_bytes(content[:place] + size.to_bytes(4, "little") + content[place + 4 :])


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda path: path.write_bytes(b""), "unreadable audio"),
        (lambda path: path.write_text("no sound\n" * 99), "unreadable audio"),
        (lambda path: soundfile.write(path, np.zeros(0), RATE), "no samples"),
        (lambda path: soundfile.write(path, np.r_[noise(), np.nan], RATE, subtype="FLOAT"), "NaN or infinite"),
        (lambda path: soundfile.write(path, np.r_[noise(), np.inf], RATE, subtype="DOUBLE"), "NaN or infinite"),
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
