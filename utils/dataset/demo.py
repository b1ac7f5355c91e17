"""The demo data set: clips of one or two synthesised sound events with five captions each, in Clotho's layout.

The seed, split and number of a clip decide all its draws: splits and clips are independent of each other, and the same
configuration gives the same bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import soundfile

from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.io import atomic_write, write_csv
from utils.dataset import demo_sounds as sounds
from utils.dataset.captions import read_captions
from utils.dataset.demo_sounds import Rng
from utils.dataset.paths import AUDIO_SUFFIXES, DatasetPaths

CAPTION_COLUMNS = [f"caption_{k}" for k in range(1, 6)]

# --- words -----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of sound event: its synthesis, and the clauses and nouns that name it in captions."""

    synthesise: Callable[[Rng, float, int], np.ndarray]
    clauses: tuple[str, ...]
    nouns: tuple[str, ...]


# fmt: off
KINDS = {
    "siren": Kind(sounds.siren, ("a siren wails", "a siren blares", "an emergency siren wails"),
                  ("a wailing siren", "a blaring siren", "an emergency siren")),
    "rain": Kind(sounds.rain, ("rain falls", "the rain pours down", "heavy rain patters"),
                 ("falling rain", "pouring rain", "heavy rain")),
    "bell": Kind(sounds.bell, ("a bell tolls", "a church bell tolls", "a bell chimes"),
                 ("a tolling bell", "a church bell", "a chiming bell")),
    "bird": Kind(sounds.bird, ("a bird chirps", "a bird sings", "a small bird tweets"),
                 ("a chirping bird", "a singing bird", "a small bird")),
    "engine": Kind(sounds.engine, ("an engine runs", "an engine idles", "a motor hums"),
                   ("a running engine", "an idling engine", "a humming motor")),
    "footsteps": Kind(sounds.footsteps,
                      ("a person walks", "footsteps cross the floor", "a person walks across the floor"),
                      ("footsteps on the floor", "steady footsteps", "a walking person")),
    "clock": Kind(sounds.clock, ("a clock ticks", "a watch ticks", "an old clock clicks"),
                  ("a ticking clock", "a ticking watch", "a clicking clock")),
    "telephone": Kind(sounds.telephone, ("a telephone rings", "a phone rings", "a phone keeps ringing"),
                      ("a ringing telephone", "a ringing phone", "an old telephone")),
    "wind": Kind(sounds.wind, ("the wind blows", "the wind howls", "a strong wind blows"),
                 ("blowing wind", "howling wind", "a strong wind")),
    "crickets": Kind(sounds.crickets, ("crickets trill", "a cricket trills", "insects buzz"),
                     ("trilling crickets", "a trilling cricket", "buzzing insects")),
    "drum": Kind(sounds.drum, ("a drum beats", "a drum pounds", "a drummer plays"),
                 ("a beating drum", "a pounding drum", "drum beats")),
    "alarm": Kind(sounds.alarm, ("an alarm beeps", "a buzzer beeps", "an electronic alarm beeps"),
                  ("a beeping alarm", "a beeping buzzer", "an electronic alarm")),
    "water": Kind(sounds.water, ("water drips", "a tap drips", "drops of water splash"),
                  ("dripping water", "a dripping tap", "splashing drops of water")),
    "thunder": Kind(sounds.thunder, ("thunder rumbles", "thunder roars", "a clap of thunder rumbles"),
                    ("rumbling thunder", "roaring thunder", "a clap of thunder")),
}
# fmt: on

# Captions by the relation of a clip's events, which its file name holds; c: an event as a clause, n: as a noun
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
    """Draw captions from different templates, so that no two are alike."""
    captions = []
    for template in rng.permutation(TEMPLATES[relation])[: len(CAPTION_COLUMNS)].tolist():
        ordered = rng.permutation(kinds) if relation == "and" else kinds  # simultaneous events in either order
        clauses = [rng.choice(KINDS[kind].clauses) for kind in ordered]
        nouns = [rng.choice(KINDS[kind].nouns) for kind in ordered]
        caption = template.format(c=clauses, n=nouns)
        captions.append(f"{caption[0].upper()}{caption[1:]}.")
    return captions


# --- clips -----------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """A planned clip: its file name and sound events."""

    file_name: str
    relation: str
    kinds: tuple[str, ...]


def _rng(seed: int, split: str, number: int) -> Rng:
    return np.random.default_rng([seed, number, *split.encode()])


def _deal(rng: Rng, items: Sequence) -> Iterator:
    """Yield items in random order for ever: each comes once before any comes again."""
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


def _deal_pairs(rng: Rng, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of different kinds for ever: nearly every pair comes once before any comes again."""
    while True:
        circle = rng.permutation(kinds).tolist()
        for step in rng.permutation(range(1, (len(kinds) + 1) // 2)):
            yield from ((circle[i], circle[(i + step) % len(kinds)]) for i in rng.permutation(len(kinds)))


def plan_split(split: str, num_clips: int, seed: int) -> list[Scene]:
    """Plan a split's clips: of ten, four have one event, three a sequence of two, and three two at once."""
    rng = _rng(seed, split, 0)
    singles, pairs = _deal(rng, [(kind,) for kind in KINDS]), _deal_pairs(rng, list(KINDS))
    relations = _deal(rng, ["alone"] * 4 + ["then"] * 3 + ["and"] * 3)
    scenes = []
    for number, relation in enumerate(islice(relations, num_clips), start=1):
        kinds = next(singles if relation == "alone" else pairs)
        scenes.append(Scene(f"{f' {relation} '.join(kinds)} {number:04d}.wav", relation, kinds))
    return scenes


def _event(rng: Rng, kind: str, seconds: float, rate: int) -> np.ndarray:
    """Synthesise a sound event (samples,) of standard loudness, faded in and out."""
    waveform = KINDS[kind].synthesise(rng, seconds, rate)
    ramp = np.minimum(1, sounds.sample_times(seconds, rate) / 0.01)
    return waveform * ramp * ramp[::-1] * min(0.1 / waveform.std(), 0.9 / np.abs(waveform).max())


def _waveform(rng: Rng, scene: Scene, rate: int) -> np.ndarray:
    """Synthesise a clip (samples,) of 2 to 4 seconds, between -1 and 1."""
    seconds = rng.uniform(2 if scene.relation == "alone" else 2.8, 4)
    if scene.relation == "then":
        first = seconds * rng.uniform(0.45, 0.55)
        durations = zip(scene.kinds, (first, seconds - first), strict=True)
        waveform = np.concatenate([_event(rng, kind, duration, rate) for kind, duration in durations])
    else:
        waveform = sum(_event(rng, kind, seconds, rate) for kind in scene.kinds)
    waveform *= rng.uniform(0.5, 0.95) / max(1, np.abs(waveform).max())
    return waveform + 0.0003 * rng.standard_normal(len(waveform))


def refuse_foreign_data(paths: DatasetPaths, split: str, scenes: list[Scene]) -> None:
    """Raise UserError if the split holds audio or captions of other clips: it may be a real data set."""
    audio, captions = paths.audio(split), paths.raw_captions(split)
    found = {audio: {file.name for file in audio.glob("*") if file.suffix.lower() in AUDIO_SUFFIXES}}
    found[captions] = {caption.file_name for caption in read_captions(captions)} if captions.exists() else set()
    for path, names in found.items():
        if foreign := sorted(names - {scene.file_name for scene in scenes}):
            raise UserError(
                f"{path}: holds {counted(len(foreign), 'clip')} that this run would not write, such as "
                f"{foreign[0]!r}; give the demo data set another folder (data_conf.dataset), or remove this one"
            )


def write_split(paths: DatasetPaths, split: str, scenes: list[Scene], sample_rate: int, seed: int) -> Iterator[float]:
    """Write the split's clips, then their captions; yield the duration (s) of each clip once it is written."""
    rows = []
    for number, scene in enumerate(scenes, start=1):
        rng = _rng(seed, split, number)
        rows.append([scene.file_name, *_captions(rng, scene.relation, scene.kinds)])
        waveform = _waveform(rng, scene, sample_rate)
        with atomic_write(paths.audio(split) / scene.file_name) as temporary:
            soundfile.write(temporary, waveform, sample_rate, subtype="PCM_16", format="WAV")
        yield len(waveform) / sample_rate
    write_csv(paths.raw_captions(split), ["file_name", *CAPTION_COLUMNS], rows)
