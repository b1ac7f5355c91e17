"""The clips of a page: copied as Ogg Vorbis, or linked where they lie."""

import io
from pathlib import Path

import soundfile

from utils.common.errors import UserError
from utils.dataset.audio import mono_blocks, open_audio, resampled

BLOCK = 2**16  # samples encoded at a time: libsndfile keeps them on its stack
RATES = (8000, 48_000)  # Hz, that every browser plays; beyond, libsndfile's encoder may crash
OTHERWISE = 48_000


def copied(clip: Path, path: Path) -> None:
    """Write a clip to `path` as Ogg Vorbis, channels averaged as the model hears it.

    Raises UserError where the clip is missing or damaged.
    """
    _require(clip)
    encoded = io.BytesIO()  # libsndfile itself does not tell of a full disk
    with open_audio(clip) as stream:
        rate = stream.samplerate if RATES[0] <= stream.samplerate <= RATES[1] else OTHERWISE
        blocks = resampled(mono_blocks(clip, stream), stream.samplerate, rate)
        with soundfile.SoundFile(encoded, "w", rate, 1, format="OGG", subtype="VORBIS") as ogg:
            for block in blocks:
                for start in range(0, len(block), BLOCK):
                    ogg.write(block[start : start + BLOCK])
    path.write_bytes(encoded.getvalue())


def linked(clip: Path) -> str:
    """The address of a clip in the data set. Raises UserError where it is missing."""
    _require(clip)
    return clip.resolve().as_uri()


def _require(clip: Path) -> None:
    if not clip.is_file():
        raise UserError(f"{clip}: no such audio file, which the page is to play; put it back")
