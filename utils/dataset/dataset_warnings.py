"""Warnings about a data set: step 2 prints them, and goes on."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement

import pandas as pd

from utils.dataset.audio import Clip, Probe
from utils.dataset.log_mel_config import LogMelConfig

SILENT = 1e-4  # of full scale: -80 dB
CANCELLED = 0.01  # mono peak as a share of the channels' peak
AUDIBLE = 0.01  # of full scale; a mono peak above it is not cancelled
LOUD = 10  # of full scale: integer samples in a float file


def clip_table(probes: dict[str, dict[str, Probe]]) -> pd.DataFrame:
    """Tabulate the probes {split: {fid: probe}}: a row a clip with its split, the fields of Clip, and peak levels."""
    rows = [(split, *clip, *peaks) for split, by_fid in probes.items() for clip, *peaks in by_fid.values()]
    return pd.DataFrame(rows, columns=["split", *Clip._fields, *Probe._fields[1:]])


def repeated_splits(roles: dict[str, str]) -> Iterator[str]:
    """Name each two roles (keys of data_conf) that share a split."""
    for (role, split), (other, same) in combinations(roles.items(), 2):
        if split == same:
            yield f"data_conf.{role} and .{other} are one split, {split}: its results are not those on unseen clips"


def mixed_rates(clips: pd.DataFrame, config: LogMelConfig) -> Iterator[str]:
    """Count clips by sample rate if log-mels differ with the rate, or if a rate is too low for all mel bands."""
    shares = {rate: _shares(same_rate) for rate, same_rate in clips.groupby("sample_rate")}
    if config.sample_rate is None and len(shares) > 1:
        for rate, counts in shares.items():
            yield f"clips at {rate} Hz: {counts}"
        most = clips["sample_rate"].mode().max()
        yield f"log-mels of a sound differ with its sample rate; audio_logmel.sample_rate={most} resamples all clips"
    for rate, counts in shares.items():
        if config.sample_rate and rate < 2 * config.fmax:
            band = f"nothing above {rate / 2:g} Hz, but log-mels go up to {config.fmax:g} Hz"
            yield f"clips at {rate} Hz: {counts}: they hold {band}"


def odd_levels(clips: pd.DataFrame) -> Iterator[str]:
    """Count clips that are silent, cancel out or are out of scale."""
    silent = clips["peak"] < SILENT
    cancelled = ~silent & (clips["mono_peak"] < CANCELLED * clips["peak"]) & (clips["mono_peak"] < AUDIBLE)
    loud = ~silent & ~cancelled & (clips["peak"] > LOUD)
    for odd, problem, advice in (
        (silent, "that are silent", "remove them and their rows of captions"),
        (cancelled, "whose channels cancel out when averaged", "keep one: ffmpeg -i OLD -af 'pan=mono|c0=c0' NEW.wav"),
        (loud, f"with samples beyond {LOUD} (full scale is 1)", "scale them, perhaps by 1/32768"),
    ):
        if odd.any():
            yield f"clips {problem}: {_shares(clips[odd])}, e.g. {clips['file_name'][odd].iloc[0]!r}; {advice}"


def repeated_names(clips: pd.DataFrame) -> Iterator[str]:
    """Count the file names that two splits share: a name alone does not tell which clip is meant."""
    names = {split: set(same_split["file_name"]) for split, same_split in clips.groupby("split", sort=False)}
    for split, other in combinations(names, 2):
        if shared := sorted(names[split] & names[other]):
            yield f"the same file names in {split} and in {other}: {len(shared)}, e.g. {shared[0]!r}"


def repeated_sounds(clips: pd.DataFrame) -> Iterator[str]:
    """Count the sounds, told by the content of their files, that two splits share, or that a split holds twice."""
    files: dict[str, dict[str, list[str]]] = {}  # by split and sound
    for clip in clips.itertuples():
        files.setdefault(clip.split, {}).setdefault(clip.sha256, []).append(clip.file_name)
    for split, other in combinations_with_replacement(files, 2):
        if split == other:
            where, pairs = f"twice in {split}", [names[:2] for names in files[split].values() if len(names) > 1]
        else:
            shared = [sound for sound in files[split] if sound in files[other]]
            where = f"in {split} and in {other}"
            pairs = [(files[split][sound][0], files[other][sound][0]) for sound in shared]
        if pairs:
            yield f"the same sounds {where}: {len(pairs)}, e.g. {pairs[0][0]!r} and {pairs[0][1]!r}"


def repeated_captions(captions: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Count the captions, tables by split, that a clip has twice to the character."""
    for split, table in captions.items():
        again = table[table.duplicated(["fid", "raw_text"])]
        if len(again):
            example = f"{again['raw_text'].iloc[0][:100]!r} of {again['file_name'].iloc[0]!r}"
            yield f"the same caption twice for a clip: {len(again)} in {split}, e.g. {example}"


def _shares(clips: pd.DataFrame) -> str:
    return ", ".join(f"{count} of {split}" for split, count in Counter(clips["split"]).items())
