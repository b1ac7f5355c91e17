"""Copies of a page's clips as Ogg Vorbis."""

import io
from pathlib import Path

import soundfile

from utils.dataset.audio import mono_blocks, open_audio, resampled

BLOCK = 2**16  # samples encoded at a time: libsndfile keeps them on its stack
RATES = (8000, 48_000)  # Hz that every browser plays; at others libsndfile's encoder may crash
FALLBACK_RATE = 48_000


def copy_sound(clip: Path, path: Path) -> None:
    """Write a clip to `path` as Ogg Vorbis, channels averaged as for the model. UserError where it is damaged."""
    encoded = io.BytesIO()  # libsndfile itself does not report a full disk
    with open_audio(clip) as stream:
        rate = stream.samplerate if RATES[0] <= stream.samplerate <= RATES[1] else FALLBACK_RATE
        with soundfile.SoundFile(encoded, "w", rate, 1, format="OGG", subtype="VORBIS") as ogg:
            for block in resampled(mono_blocks(clip, stream), stream.samplerate, rate):
                for start in range(0, len(block), BLOCK):
                    ogg.write(block[start : start + BLOCK])
    path.write_bytes(encoded.getvalue())
