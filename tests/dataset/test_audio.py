"""Audio files are decoded to their end, and refused if they are damaged, even where libsndfile would accept them."""

import hashlib
import io
import struct

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


def mono(path, content=None):
    """The samples of a file, or of its content, channels averaged."""
    with open_audio(path, content) as stream:
        return np.concatenate(list(mono_blocks(path, stream)))


@pytest.mark.parametrize("held", [HELD, 100])
def test_a_file_is_read_once_unless_it_is_large(tmp_path, monkeypatch, held):
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(999), RATE)
    monkeypatch.setattr(utils.common.digests, "HELD", held)

    def open_after(path, content):
        if held == HELD:
            path.unlink()
        return open_audio(path, content)

    monkeypatch.setattr(utils.dataset.audio, "open_audio", open_after)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert probe_clip(path).clip == ("x.wav", round(999 / RATE, 6), RATE, 1, sha256)


def write(path, samples, rate=RATE):
    """Write a file of the kind that its suffix says."""
    options = {
        ".opus": {"format": "OGG", "subtype": "OPUS"},
        ".oga": {"format": "OGG"},
        ".wave": {"format": "WAV"},
        ".aif": {"format": "AIFF"},
        ".aifc": {"format": "AIFF", "subtype": "FLOAT"},
    }
    soundfile.write(path, samples, rate, **options.get(path.suffix, {}))


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_kind_of_audio_file_is_read_to_its_end(tmp_path, suffix, channels):
    times = np.arange(3 * RATE + 7) / RATE
    tones = np.stack([0.3 * np.sin(2 * np.pi * pitch * times) for pitch in (440, 660)[:channels]], axis=1)
    path = tmp_path / f"x{suffix.upper()}"
    write(tmp_path / f"x{suffix}", tones)
    (tmp_path / f"x{suffix}").rename(path)
    assert probe_clip(path).clip[:4] == (path.name, round(len(times) / RATE, 6), RATE, channels)
    middle = slice(RATE // 10, -RATE // 10)
    expected = tones.mean(axis=1)[middle]
    np.testing.assert_allclose(mono(path)[middle], expected, atol=0.02)  # lossy ones too: in time and scale


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


def encoded(kind, samples=None):
    """A second of noise, or these samples, as a file's content."""
    content = io.BytesIO()
    soundfile.write(content, noise(RATE) if samples is None else samples, RATE, format=kind)
    return content.getvalue()


def uncounted_mp3():
    """An .mp3 without its first frame, where the count is. Of a variable bit rate, libsndfile would read a part."""
    content = encoded("MP3", np.r_[np.zeros(RATE), noise(3 * RATE)])
    return content[content.index(content[:2], 4) :]


def uncounted_flac():
    """A .flac as it is written into a pipe."""
    content = bytearray(encoded("FLAC"))
    content[21] &= 0xF0  # the count of samples, 36 bits in the first block of metadata: unknown
    content[22:26] = bytes(4)
    return content


def mp3_in_wav():
    """A .wav that holds an MP3 stream without a frame count."""
    mp3 = uncounted_mp3()
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8000, 1, 0, 12, 1, 2, 576, 1, 1393)
    chunks = [(b"fmt ", form), (b"fact", struct.pack("<I", RATE)), (b"data", mp3 + bytes(len(mp3) % 2))]
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def written_with_size(path, size, riff_size=None, end=None, samples=None):
    """Write a second of noise, or its first bytes, with a header that promises `size` bytes of samples."""
    soundfile.write(path, noise(RATE) if samples is None else samples, RATE)
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
    assert probe_clip(tmp_path / "x.wav").clip.seconds == 1
    np.testing.assert_allclose(mono(tmp_path / "x.wav"), noise(RATE), atol=1e-4)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, r"unreadable audio \(No such file"),
        (lambda path: path.write_bytes(b""), "unreadable audio"),
        (lambda path: soundfile.write(path, np.zeros(0), RATE), "no samples"),
        (lambda path: soundfile.write(path, np.r_[noise(), np.nan], RATE, subtype="FLOAT"), "NaN or infinite"),
        (lambda path: soundfile.write(path, np.r_[noise(), np.inf], RATE, subtype="DOUBLE"), "NaN or infinite"),
        (lambda path: soundfile.write(path, noise() * 1e25, RATE, subtype="FLOAT"), r"a sample of .*e\+24; full"),
        (lambda path: path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(999)), r"convert it to \.wav"),
        (lambda path: written_with_size(path, 2**31 - 2, 2**31 + 34), "cut short"),
        (lambda path: written_with_size(path, 2 * RATE, 0xFFFFFFFF, end=RATE), "cut short"),
        (lambda path: written_with_size(path, 0), "promises no samples.*not closed; convert it: ffmpeg -i"),
        (lambda path: written_with_size(path, 0, samples=np.zeros(RATE)), "was not closed"),
        (lambda path: written_with_size(path, 0, 0), "promises no samples.*not closed; convert it: ffmpeg"),
        (lambda path: path.write_bytes(uncounted_mp3()), r"no frame count.*convert it: .* NEW\.wav, or NEW\.flac"),
        (lambda path: path.write_bytes(uncounted_flac()), "no frame count.*convert it"),
        (lambda path: path.write_bytes(mp3_in_wav()), r"no frame count.*ffmpeg -i OLD NEW\.wav"),
    ],
)
def test_unfit_audio_is_refused(tmp_path, write, message):
    write(tmp_path / "x.wav")
    with pytest.raises(UserError, match=rf"^[^\n]*x\.wav: .*{message}"):
        probe_clip(tmp_path / "x.wav")


def tag(size=300, flags=0):
    """An ID3 tag of so many bytes, its header (and footer) apart."""
    sizes = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\4\0" + bytes([flags]) + sizes + bytes(size) + (b"3DI\4\0\x10" + sizes if flags else b"")


JUNK = np.random.default_rng(1).bytes(5000)
SURROUNDED = {  # the data before a sound, its format, and the data after it
    "au alone": (b"", "AU", b""),
    "caf alone": (b"", "CAF", b""),
    "w64 alone": (b"", "W64", b""),
    "rf64 alone": (b"", "RF64", b""),
    "wav behind a tag": (tag(), "WAV", b""),
    "wav behind an odd tag": (tag(301), "WAV", b""),
    "wav behind a large tag with a footer": (tag(70_000, 16), "WAV", b""),
    "wav behind two tags": (tag() + tag(20), "WAV", b""),
    "wav before a tag": (b"", "WAV", b"TAG" + bytes(125)),
    "wav before zeros": (b"", "WAV", bytes(5000)),
    "rf64 behind a tag": (tag(), "RF64", b""),
    "aiff behind a tag": (tag(), "AIFF", b""),
    "au behind a tag": (tag(), "AU", b""),
    "flac behind a tag": (tag(), "FLAC", b""),
    "ogg behind a tag": (tag(), "OGG", b""),
    "ogg before a tag": (b"", "OGG", b"TAG" + bytes(125)),
    "ogg before zeros": (b"", "OGG", bytes(5000)),
    "ogg before junk": (b"", "OGG", JUNK),
    "ogg between both": (tag(), "OGG", JUNK),
    "mp3 behind a tag": (tag(), "MP3", b""),
    "mp3 before zeros": (b"", "MP3", bytes(5000)),
}


@pytest.mark.parametrize("case", SURROUNDED)
def test_tags_and_trailing_data_are_skipped_from_memory_and_from_disk(tmp_path, case, capfd):
    before, kind, behind = SURROUNDED[case]
    path, sound = tmp_path / "x.wav", encoded(kind)  # whose name tells a reader nothing
    path.write_bytes(before + sound + behind)
    alone, _ = soundfile.read(io.BytesIO(sound), dtype="float32")
    for content in (path.read_bytes(), None):
        np.testing.assert_allclose(mono(path, content), alone, atol=1e-6)
    assert capfd.readouterr().err == ""  # of the decoders' own remarks


# not with data that stand for the missing end, nor FLAC, whose decoder fails
@pytest.mark.parametrize(
    "case", [case for case, (_, kind, behind) in SURROUNDED.items() if kind == "OGG" or not (behind or kind == "FLAC")]
)
def test_a_cut_sound_with_tags_or_trailing_data_is_refused(tmp_path, case):
    before, kind, behind = SURROUNDED[case]
    path, sound = tmp_path / "x.wav", encoded(kind)
    path.write_bytes(before + sound[: int(0.9 * len(sound))] + behind)
    for content in (path.read_bytes(), None):
        with pytest.raises(UserError, match="cut short"):
            mono(path, content)


@pytest.mark.parametrize("excess", [2, 8, 44, 10**6])
def test_a_wrong_sample_size_alone_is_accepted(tmp_path, excess):
    written_with_size(tmp_path / "x.wav", 2 * RATE + excess)
    assert probe_clip(tmp_path / "x.wav").clip.seconds == 1
    written_with_size(tmp_path / "x.wav", RATE)  # a header that promises less is believed
    assert probe_clip(tmp_path / "x.wav").clip.seconds == 0.5
    written_with_size(tmp_path / "x.wav", 2 * RATE + excess, 2 * RATE + 36 + excess)  # as of one that is cut short
    promised = f"promises {2 * RATE + excess} bytes, the file has {2 * RATE}; download it again, or convert it: ffmpeg"
    with pytest.raises(UserError, match=promised):
        probe_clip(tmp_path / "x.wav")
    content = bytearray(encoded("AIFF"))
    size = content.index(b"SSND") + 4
    content[size : size + 4] = (2 * RATE + 8 + excess).to_bytes(4, "big")
    (tmp_path / "x.aiff").write_bytes(content)
    assert probe_clip(tmp_path / "x.aiff").clip.seconds == 1


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_peak_levels(tmp_path, subtype):
    samples = noise(3 * RATE, channels=2).clip(-0.4, 0.4)
    samples[0, 0] = -0.5

    def peaks(samples):
        soundfile.write(tmp_path / "x.wav", samples, RATE, subtype=subtype)
        return probe_clip(tmp_path / "x.wav")[1:]

    peak, mono_peak = peaks(samples)
    assert peak == 0.5 and mono_peak > 0.1
    assert peaks(samples * [1, 0])[1] > 0.1
    assert peaks(np.stack([samples[:, 0], -samples[:, 0]], axis=1)) == pytest.approx((0.5, 0), abs=1e-4)
    assert peaks(np.zeros((99, 2))) == (0, 0)
    late = np.zeros(3 * RATE)
    late[-1] = 0.25
    assert peaks(late) == (0.25, 0.25)


RATES = [(16000, 44100), (22050, 44100), (96000, 44100), (44100, 16000), (8000, 8000)]


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
@pytest.mark.parametrize("block", [1, 777, 4001, 10**6])
def test_blocks_are_resampled_like_the_whole(monkeypatch, rate, new_rate, block):
    samples = noise(9001 if block > 1 else 50).astype(np.float32)
    monkeypatch.setattr(utils.dataset.audio, "BLOCK", 2000)
    blocks = [samples[start : start + block] for start in range(0, len(samples), block)]
    pieces = list(resampled(blocks, rate, new_rate))
    assert max(map(len, pieces)) < 2 * 2000 or rate == new_rate
    ours = np.concatenate(pieces)
    assert np.array_equal(ours, soxr.resample(samples, rate, new_rate, quality="HQ"))
    theirs = librosa.resample(samples, orig_sr=rate, target_sr=new_rate)
    assert 0 <= len(theirs) - len(ours) <= 1  # librosa rounds up
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-6)
