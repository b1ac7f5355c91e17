"""The demo data set: clips of one or two synthesised sound events with five captions each, in Clotho's layout.

All draws for a clip come from (seed, split, number of the clip): splits and clips do not depend on each other, and the
same configuration gives the same bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import soundfile

from utils.index_utils import AUDIO_SUFFIXES, DatasetPaths
from utils.io_utils import UserError, whole_file, write_csv
from utils.text_utils import CAPTION_COLUMNS, read_captions

Rng = np.random.Generator


def _times(seconds: float, rate: int) -> np.ndarray:
    """Time of each sample in seconds, (samples,)."""
    return np.arange(round(seconds * rate)) / rate


def _tone(pitch: float | np.ndarray, seconds: float, rate: int, harmonics: Sequence[float] = (1,)) -> np.ndarray:
    """A tone of constant or moving pitch (Hz) with its harmonics' amplitudes, (samples,)."""
    pitch = np.broadcast_to(pitch, round(seconds * rate))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    return sum(a * np.sin(k * phase) for k, a in enumerate(harmonics, start=1) if k * pitch.max() < rate / 2)


def _noise(rng: Rng, low: float, high: float, seconds: float, rate: int) -> np.ndarray:
    """Noise between two frequencies (Hz) with a standard deviation of one, (samples,)."""
    samples = round(seconds * rate)
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * ((frequencies >= low) & (frequencies <= high))
    noise = np.fft.irfft(spectrum, samples)
    return noise / noise.std()


def _repeat(rng: Rng, seconds: float, rate: int, period: float, jitter: float, burst: Callable) -> np.ndarray:
    """What burst() gives, again about every `period` seconds, give or take a share `jitter` of it, (samples,)."""
    waveform, onset = np.zeros(round(seconds * rate)), rng.uniform(0, 0.1)
    while (start := round(onset * rate)) < len(waveform):
        sound = burst()[: len(waveform) - start]
        waveform[start : start + len(sound)] += sound
        onset += period * (1 + jitter * rng.uniform(-1, 1))
    return waveform


# --- sound events: waveforms (samples,) of any loudness, of so many seconds at `rate` Hz ------------------


def _siren(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    swing = np.sin(2 * np.pi * (rng.uniform(0.7, 1.3) * _times(seconds, rate) + rng.uniform()))
    return _tone(rng.uniform(700, 1000) * 2 ** (0.6 * swing), seconds, rate, (1, 0.5, 0.3))


def _rain(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    patter = 1 + rng.uniform(0.2, 0.6) * np.abs(_noise(rng, 0, 30, seconds, rate))
    return patter * _noise(rng, rng.uniform(1000, 2000), 8000, seconds, rate)


def _bell(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    pitch, fade = rng.uniform(400, 700), np.exp(-_times(1.5, rate) / rng.uniform(0.25, 0.4))
    partials = {0.5: 0.6, 1: 1, 1.2: 0.7, 1.5: 0.4, 2: 0.7, 2.7: 0.4}  # inharmonic, as a bell's
    strike = fade * sum(a * _tone(ratio * pitch, 1.5, rate) for ratio, a in partials.items())
    return _repeat(rng, seconds, rate, rng.uniform(0.6, 0.9), 0.05, lambda: strike)


def _bird(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    pitch, length = rng.uniform(2700, 3500), rng.uniform(0.09, 0.14)
    part = _times(length, rate) / length
    chirp = np.sin(np.pi * part) * _tone(pitch * (1 - 0.4 * part), length, rate)
    return _repeat(rng, seconds, rate, rng.uniform(0.2, 0.28), 0.3, lambda: chirp)


def _engine(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    pitch, times = rng.uniform(70, 120), _times(seconds, rate)
    sway = 1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * times)
    throb = 1 + 0.5 * np.sin(np.pi / 2 * pitch * times)
    return throb * _tone(pitch * sway, seconds, rate, [k**-0.7 for k in range(1, 13)])


def _footsteps(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    low, fade = rng.uniform(250, 350), np.exp(-_times(0.2, rate) / 0.03)
    period = rng.uniform(0.35, 0.5)
    return _repeat(rng, seconds, rate, period, 0.05, lambda: fade * _noise(rng, low, 4 * low, 0.2, rate))


def _clock(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    tick = np.exp(-_times(0.05, rate) / 0.006) * _noise(rng, rng.uniform(2500, 3000), 6500, 0.05, rate)
    return _repeat(rng, seconds, rate, rng.uniform(0.2, 0.3), 0, lambda: tick)


def _telephone(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    warble = np.where(np.sin(2 * np.pi * rng.uniform(12, 16) * _times(0.6, rate)) > 0, 1, 1.35)
    ring = _tone(rng.uniform(1000, 1200) * warble, 0.6, rate, (1, 0, 0.5))
    return _repeat(rng, seconds, rate, rng.uniform(0.8, 1), 0, lambda: ring)


def _wind(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    low, gusts = rng.uniform(200, 350), np.sin(2 * np.pi * (0.6 * _times(seconds, rate) + rng.uniform()))
    return (1.2 + gusts) * _noise(rng, low, 3 * low, seconds, rate)


def _crickets(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    length = rng.uniform(0.25, 0.35)
    pulses = np.sin(np.pi * rng.uniform(25, 35) * _times(length, rate)) ** 2
    trill = pulses * _tone(rng.uniform(3600, 3900), length, rate)
    return _repeat(rng, seconds, rate, length + rng.uniform(0.05, 0.15), 0.02, lambda: trill)


def _drum(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    times, pitch = _times(0.4, rate), rng.uniform(60, 100)
    body = np.exp(-times / 0.1) * _tone(pitch * (1 + np.exp(-times / 0.03)), 0.4, rate)
    beat = body + 0.3 * np.exp(-times / 0.01) * _noise(rng, 100, 5000, 0.4, rate)
    return _repeat(rng, seconds, rate, rng.uniform(0.22, 0.4), 0, lambda: rng.uniform(0.6, 1) * beat)


def _alarm(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    length = rng.uniform(0.1, 0.16)
    beep = _tone(rng.uniform(1700, 2300), length, rate, (1, 0, 0.4))
    return _repeat(rng, seconds, rate, 2 * length, 0, lambda: beep)


def _water(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    times, period = _times(0.12, rate), rng.uniform(0.2, 0.35)
    rise, fade = 2 ** (12 * times), np.exp(-times / 0.035)
    return _repeat(rng, seconds, rate, period, 0.6, lambda: fade * _tone(rng.uniform(400, 700) * rise, 0.12, rate))


def _thunder(rng: Rng, seconds: float, rate: int) -> np.ndarray:
    times = _times(2, rate)
    rumble = np.exp(-times / rng.uniform(0.4, 0.7)) * _noise(rng, 20, rng.uniform(120, 200), 2, rate)
    clap = 2 * rumble + np.exp(-times / 0.08) * _noise(rng, 100, 3000, 2, rate)
    return _repeat(rng, seconds, rate, rng.uniform(1.2, 1.8), 0.2, lambda: clap)


# --- words -----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of sound event: what synthesises it, and the clauses and the nouns that name it in captions."""

    synthesise: Callable[[Rng, float, int], np.ndarray]
    clauses: tuple[str, ...]
    nouns: tuple[str, ...]


# fmt: off
KINDS = {
    "siren": Kind(_siren, ("a siren wails", "a siren blares", "an emergency siren wails"),
                  ("a wailing siren", "a blaring siren", "an emergency siren")),
    "rain": Kind(_rain, ("rain falls", "the rain pours down", "heavy rain patters"),
                 ("falling rain", "pouring rain", "heavy rain")),
    "bell": Kind(_bell, ("a bell tolls", "a church bell tolls", "a bell chimes"),
                 ("a tolling bell", "a church bell", "a chiming bell")),
    "bird": Kind(_bird, ("a bird chirps", "a bird sings", "a small bird tweets"),
                 ("a chirping bird", "a singing bird", "a small bird")),
    "engine": Kind(_engine, ("an engine runs", "an engine idles", "a motor hums"),
                   ("a running engine", "an idling engine", "a humming motor")),
    "footsteps": Kind(_footsteps, ("a person walks", "footsteps cross the floor", "a person walks across the floor"),
                      ("footsteps on the floor", "steady footsteps", "a walking person")),
    "clock": Kind(_clock, ("a clock ticks", "a watch ticks", "an old clock clicks"),
                  ("a ticking clock", "a ticking watch", "a clicking clock")),
    "telephone": Kind(_telephone, ("a telephone rings", "a phone rings", "a phone keeps ringing"),
                      ("a ringing telephone", "a ringing phone", "an old telephone")),
    "wind": Kind(_wind, ("the wind blows", "the wind howls", "a strong wind blows"),
                 ("blowing wind", "howling wind", "a strong wind")),
    "crickets": Kind(_crickets, ("crickets trill", "a cricket trills", "insects buzz"),
                     ("trilling crickets", "a trilling cricket", "buzzing insects")),
    "drum": Kind(_drum, ("a drum beats", "a drum pounds", "a drummer plays"),
                 ("a beating drum", "a pounding drum", "drum beats")),
    "alarm": Kind(_alarm, ("an alarm beeps", "a buzzer beeps", "an electronic alarm beeps"),
                  ("a beeping alarm", "a beeping buzzer", "an electronic alarm")),
    "water": Kind(_water, ("water drips", "a tap drips", "drops of water splash"),
                  ("dripping water", "a dripping tap", "splashing drops of water")),
    "thunder": Kind(_thunder, ("thunder rumbles", "thunder roars", "a clap of thunder rumbles"),
                    ("rumbling thunder", "roaring thunder", "a clap of thunder")),
}
# fmt: on

# How the events of a clip go together, as its file name says it: captions with each event as a clause c or a noun n
TEMPLATES = {
    "alone": (
        *("{c[0]} for a while", "{c[0]} for a few seconds", "{c[0]} and nothing else can be heard"),
        *("the sound of {n[0]}", "there is the sound of {n[0]}", "only {n[0]} can be heard"),
        "{n[0]} without any other sound",
    ),
    "then": (
        *("{c[0]} and then {c[1]}", "{c[0]} before {c[1]}", "first {c[0]}, then {c[1]}", "{c[0]}, followed by {n[1]}"),
        *("after {n[0]}, {c[1]}", "{n[0]} and then {n[1]}", "the sound of {n[0]} and later {n[1]}"),
    ),
    "and": (
        *("{c[0]} while {c[1]}", "{c[0]} as {c[1]}", "{c[0]} and {c[1]} at the same time"),
        *("{c[0]} with {n[1]} in the background", "both {n[0]} and {n[1]} can be heard"),
        *("{n[0]} together with {n[1]}", "the sound of {n[0]} mixed with {n[1]}"),
    ),
}


def _captions(rng: Rng, relation: str, kinds: Sequence[str]) -> list[str]:
    """Captions from as many different templates, so that no two are alike."""
    captions = []
    for template in rng.permutation(TEMPLATES[relation])[: len(CAPTION_COLUMNS)].tolist():
        named = rng.permutation(kinds) if relation == "and" else kinds  # at once: either may be named first
        clauses = [rng.choice(KINDS[kind].clauses) for kind in named]
        nouns = [rng.choice(KINDS[kind].nouns) for kind in named]
        caption = template.format(c=clauses, n=nouns)
        captions.append(f"{caption[0].upper()}{caption[1:]}.")
    return captions


# --- clips -----------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """A clip to be made: its file name, and what is heard in it."""

    file_name: str
    relation: str
    kinds: tuple[str, ...]


def _rng(seed: int, split: str, number: int) -> Rng:
    return np.random.default_rng([seed, number, *split.encode()])


def _deal(rng: Rng, items: Sequence) -> Iterator:
    """The items in random order for ever: each comes once before any comes again."""
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


def _deal_pairs(rng: Rng, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of different kinds for ever, spread evenly: nearly every pair comes once before any comes again."""
    while True:
        circle = rng.permutation(kinds).tolist()
        for step in rng.permutation(range(1, (len(kinds) + 1) // 2)):
            yield from ((circle[i], circle[(i + step) % len(kinds)]) for i in rng.permutation(len(kinds)))


def plan_split(split: str, num_clips: int, seed: int) -> list[Scene]:
    """What a split's clips hold: of ten clips four have one event, three a sequence of two and three two at once."""
    rng = _rng(seed, split, 0)
    singles, pairs = _deal(rng, [(kind,) for kind in KINDS]), _deal_pairs(rng, list(KINDS))
    relations = _deal(rng, ["alone"] * 4 + ["then"] * 3 + ["and"] * 3)
    scenes = []
    for number, relation in enumerate(islice(relations, num_clips), start=1):
        kinds = next(singles if relation == "alone" else pairs)
        scenes.append(Scene(f"{f' {relation} '.join(kinds)} {number:04d}.wav", relation, kinds))
    return scenes


def _event(rng: Rng, kind: str, seconds: float, rate: int) -> np.ndarray:
    """A sound event at the common loudness, faded in and out, (samples,)."""
    waveform = KINDS[kind].synthesise(rng, seconds, rate)
    ramp = np.minimum(1, _times(seconds, rate) / 0.01)
    return waveform * ramp * ramp[::-1] * min(0.1 / waveform.std(), 0.9 / np.abs(waveform).max())


def _waveform(rng: Rng, scene: Scene, rate: int) -> np.ndarray:
    """The sound of a clip, 2 to 4 seconds within -1 and 1, (samples,)."""
    seconds = rng.uniform(2 if scene.relation == "alone" else 2.8, 4)
    if scene.relation == "then":
        first = seconds * rng.uniform(0.45, 0.55)
        parts = zip(scene.kinds, (first, seconds - first), strict=True)
        waveform = np.concatenate([_event(rng, kind, part, rate) for kind, part in parts])
    else:
        waveform = sum(_event(rng, kind, seconds, rate) for kind in scene.kinds)
    waveform *= rng.uniform(0.5, 0.95) / max(1, np.abs(waveform).max())
    return waveform + 0.0003 * rng.standard_normal(len(waveform))


def refuse_foreign_data(paths: DatasetPaths, split: str, scenes: list[Scene]) -> None:
    """Raise UserError if the split holds audio or captions of other clips than these: it may be a real data set."""
    audio, captions = paths.audio(split), paths.raw_captions(split)
    files = audio.iterdir() if audio.is_dir() else ()
    found = {audio: {file.name for file in files if file.suffix.lower() in AUDIO_SUFFIXES}}
    found[captions] = {caption.file_name for caption in read_captions(captions)} if captions.exists() else set()
    for place, names in found.items():
        if foreign := sorted(names - {scene.file_name for scene in scenes}):
            raise UserError(
                f"{place}: holds {len(foreign)} clips that this run would not write, such as {foreign[0]!r}; "
                "give the demo data set another folder (data_conf.dataset), or remove this one"
            )


def write_split(paths: DatasetPaths, split: str, scenes: list[Scene], sample_rate: int, seed: int) -> Iterator[float]:
    """Write the split's clips, then their captions; yield the seconds of each clip once it is written."""
    rows = []
    for number, scene in enumerate(scenes, start=1):
        rng = _rng(seed, split, number)
        rows.append([scene.file_name, *_captions(rng, scene.relation, scene.kinds)])
        waveform = _waveform(rng, scene, sample_rate)
        with whole_file(paths.audio(split) / scene.file_name) as temporary:
            soundfile.write(temporary, waveform, sample_rate, subtype="PCM_16", format="WAV")
        yield len(waveform) / sample_rate
    write_csv(paths.raw_captions(split), ["file_name", *CAPTION_COLUMNS], rows)
