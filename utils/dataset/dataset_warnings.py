"""What deserves a word about a data set though it is no fault: step 2 says it, and goes on."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from utils.dataset.audio import HEARD, Clip, Level
from utils.dataset.log_mel_config import LogMelConfig

Clips = dict[str, dict[str, Clip]]  # by split and fid
Levels = dict[str, dict[str, Level]]
SILENT = 1e-4  # of full scale: -80 dB
CANCELLED = 0.01  # of the channels' peak, that their mean reaches
LOUD = 10  # of full scale: samples of a float file as whole numbers have them


def repeated_splits(roles: dict[str, str]) -> Iterator[str]:
    """A line for each two roles (data_conf's keys) that one split plays."""
    for (role, split), (other, same) in combinations(roles.items(), 2):
        if split == same:
            yield f"data_conf.{role} and .{other} are one split, {split}: its results are not those on unseen clips"


def mixed_rates(clips: Clips, config: LogMelConfig) -> Iterator[str]:
    """A line for each sample rate where there are several, and what to do; none where all are resampled well."""
    splits: dict[int, Counter[str]] = {}
    for split, by_fid in clips.items():
        for clip in by_fid.values():
            splits.setdefault(clip.sample_rate, Counter())[split] += 1
    where = {rate: ", ".join(f"{n} of {split}" for split, n in splits[rate].items()) for rate in sorted(splits)}
    if config.sample_rate is None and len(where) > 1:
        for rate, shares in where.items():
            yield f"clips at {rate} Hz: {shares}"
        most = max(where, key=lambda rate: (splits[rate].total(), rate))
        yield f"one sound has other log-mels at each rate; audio_logmel.sample_rate={most} resamples all clips"
    for rate, shares in where.items():
        if config.sample_rate and rate < 2 * config.fmax:
            band = f"nothing above {rate / 2:g} Hz, but log-mels go up to {config.fmax:g} Hz"
            yield f"clips at {rate} Hz: {shares}: they hold {band}"


def odd_levels(clips: Clips, levels: Levels) -> Iterator[str]:
    """A line for each kind of clips whose samples can be read, but are hardly meant so."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for split, by_fid in clips.items():
        for fid, clip in by_fid.items():
            if kind := _odd_level(levels[split][fid]):
                kinds.setdefault(kind, []).append((split, clip.file_name))
    for kind, files in kinds.items():
        counts = Counter(split for split, _ in files)
        shares = ", ".join(f"{n} of {split}" for split, n in counts.items())
        what, advice = kind.split("; ")
        yield f"clips {what}: {shares}, e.g. {files[0][1]!r}; {advice}"


def _odd_level(level: Level) -> str | None:
    """What is odd, and what to do about it."""
    if level.peak < SILENT:
        return "that are silent; remove them, with their rows of captions"
    if level.mono_peak < CANCELLED * level.peak and level.mono_peak < HEARD:
        return "whose channels cancel out, which are averaged; keep one: ffmpeg -i OLD -af 'pan=mono|c0=c0' NEW.wav"
    if level.peak > LOUD:
        return f"of samples beyond {LOUD}, where full scale is 1; scale them, perhaps by 1/32768"
    return None


def repeated_names(clips: Clips) -> Iterator[str]:
    """A line for each two splits that have file names in common: by a name alone, nobody can tell which is meant."""
    names = {split: {clip.file_name for clip in by_fid.values()} for split, by_fid in clips.items()}
    for split, other in combinations(names, 2):
        if same := sorted(names[split] & names[other]):
            yield f"the same file names in {split} and in {other}: {len(same)}, e.g. {same[0]!r}"


def repeated_sounds(clips: Clips) -> Iterator[str]:
    """A line for each two splits that have files in common, by content, and for each split that has some twice."""
    places: dict[str, list[tuple[str, str]]] = {}
    for split, by_fid in clips.items():
        for clip in by_fid.values():
            places.setdefault(clip.sha256, []).append((split, clip.file_name))
    pairs: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}  # of splits: an example by sound
    for sound, files in places.items():
        for (split, one), (other, same) in combinations(files, 2):
            pairs.setdefault((split, other), {}).setdefault(sound, (one, same))
    for (split, other), sounds in pairs.items():
        one, same = next(iter(sounds.values()))
        where = f"twice in {split}" if split == other else f"in {split} and in {other}"
        yield f"the same sounds {where}: {len(sounds)}, e.g. {one!r} and {same!r}"
