"""The demo data set: its sounds can be told apart, its captions say what is heard, its files are reproducible."""

import csv
import re

import numpy as np
import pytest
import soundfile

from utils.common.errors import UserError
from utils.common.io import write_csv
from utils.dataset.demo import KINDS, plan_split, refuse_foreign_data, write_split
from utils.dataset.paths import DatasetPaths

RATE = 16000


def spectral_features(waveform):
    """Mean and standard deviation over time of the log power in bands of about 250 Hz, from frames of 32 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform / waveform.std(), 512)[::256]
    power = np.abs(np.fft.rfft(frames * np.hanning(512)))[:, :256].reshape(len(frames), 32, 8) ** 2
    log_power = np.log(power.sum(axis=2) + 1e-3)
    return np.concatenate([log_power.mean(axis=0), log_power.std(axis=0)])


def make(root, split="development", num_clips=20, seed=0, sample_rate=RATE):
    """Write a split; its scenes and its caption file's rows."""
    paths, scenes = DatasetPaths(str(root)), plan_split(split, num_clips, seed)
    assert len(list(write_split(paths, split, scenes, sample_rate, seed))) == num_clips
    with paths.raw_captions(split).open(newline="", encoding="utf-8") as stream:
        return scenes, list(csv.reader(stream))


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def named_at(caption, kind):
    """Where the caption names the kind by one of its phrases; -1: nowhere."""
    return max(caption.lower().find(phrase) for phrase in KINDS[kind].clauses + KINDS[kind].nouns)


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sounds_for_the_seconds_asked(kind, rate):
    waveform = KINDS[kind].synthesise(np.random.default_rng(1), 1.3, rate)
    assert waveform.shape == (round(1.3 * rate),)
    assert np.isfinite(waveform).all() and waveform.std() > 0.01


def test_kinds_are_told_apart_and_draws_of_a_kind_differ():
    rng = np.random.default_rng(0)
    draws = np.array(
        [[spectral_features(kind.synthesise(rng, 1.5, RATE)) for _ in range(12)] for kind in KINDS.values()]
    )
    assert draws.std(axis=1).max(axis=1).min() > 0.01
    centroids = draws[:, :6].mean(axis=1)
    nearest = np.linalg.norm(draws[:, 6:, None] - centroids, axis=-1).argmin(axis=-1)
    assert (nearest == np.arange(len(KINDS))[:, None]).mean() > 0.9


def test_layout_is_clothos(tmp_path):
    scenes, (header, *rows) = make(tmp_path)
    assert header == ["file_name", "caption_1", "caption_2", "caption_3", "caption_4", "caption_5"]
    assert [row[0] for row in rows] == [scene.file_name for scene in scenes]
    assert set(contents(tmp_path)) == {
        "clotho_captions_development.csv", *(f"development/{scene.file_name}" for scene in scenes)
    }  # fmt: skip
    for scene in scenes:
        path = tmp_path / "development" / scene.file_name
        info, (waveform, rate) = soundfile.info(path), soundfile.read(path)
        assert (info.format, info.subtype, info.channels, rate) == ("WAV", "PCM_16", 1, RATE)
        assert 2 <= info.duration <= 4
        assert 0.05 < np.abs(waveform).max() < 0.99  # neither silent nor clipped


def test_captions_are_five_different_sentences_that_name_the_events_in_order(tmp_path):
    scenes, (_, *rows) = make(tmp_path, num_clips=30, sample_rate=8000)
    for scene, (_, *captions) in zip(scenes, rows, strict=True):
        assert len(set(captions)) == len(captions) == 5
        for caption in captions:
            assert re.fullmatch(r"[A-Z][a-z]*(,? [a-z]+){3,15}\.", caption), caption
            places = [named_at(caption, kind) for kind in scene.kinds]
            assert min(places) >= 0, (scene, caption)
            assert scene.relation == "and" or places == sorted(places), (scene, caption)
            others = [kind for kind in KINDS if kind not in scene.kinds and named_at(caption, kind) >= 0]
            assert not others, (scene, caption)


@pytest.mark.parametrize("split", ["development", "evaluation"])
def test_a_split_is_spread_evenly(split):
    scenes = plan_split(split, 50, seed=0)
    heard = [frozenset(scene.kinds) for scene in scenes]
    assert sum(scene.relation == "alone" for scene in scenes) == 20
    assert all(len(set(scene.kinds)) == (1 if scene.relation == "alone" else 2) for scene in scenes)
    assert all(heard.count(kinds) <= (2 if len(kinds) == 1 else 1) for kinds in heard)
    assert {kind for kinds in heard for kind in kinds} == set(KINDS)


def test_same_seed_same_bytes_other_seed_or_split_other_bytes(tmp_path):
    for name, seed in (("once", 0), ("again", 0), ("other", 1)):
        make(tmp_path / name, num_clips=5, seed=seed)
    once = contents(tmp_path / "once")
    assert once == contents(tmp_path / "again")
    assert set(once.values()).isdisjoint(contents(tmp_path / "other").values())
    make(tmp_path / "again", split="evaluation", num_clips=5)
    both = contents(tmp_path / "again")
    assert once.items() <= both.items()  # a split does not depend on another
    assert len(set(both.values())) == len(both) == 12
    make(tmp_path / "again", num_clips=7)  # more clips leave the first as they are
    del once["clotho_captions_development.csv"]
    assert once.items() <= contents(tmp_path / "again").items()


def test_foreign_audio_and_captions_are_refused(tmp_path):
    scenes, _ = make(tmp_path, num_clips=3)
    paths = DatasetPaths(str(tmp_path))
    (paths.audio("development") / "notes.txt").touch()
    refuse_foreign_data(paths, "development", scenes)  # made by the same settings: written again
    refuse_foreign_data(DatasetPaths(str(tmp_path / "absent")), "development", scenes)
    (paths.audio("development") / "Distorted AM Radio noise.WAV").touch()
    with pytest.raises(UserError, match=r"development: .*'Distorted AM Radio noise.WAV'.*data_conf\.dataset.*remove"):
        refuse_foreign_data(paths, "development", scenes)
    write_csv(paths.raw_captions("evaluation"), ["file_name", "caption_1"], [["Santa Motor.wav", "A machine whines."]])
    with pytest.raises(UserError, match=r"clotho_captions_evaluation\.csv: .*'Santa Motor.wav'.*data_conf\.dataset"):
        refuse_foreign_data(paths, "evaluation", scenes)
