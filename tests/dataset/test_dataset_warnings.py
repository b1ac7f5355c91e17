"""Step 2's warnings about a data set."""

import pandas as pd

from utils.dataset.audio import Clip, Probe
from utils.dataset.dataset_warnings import (
    clip_table,
    mixed_rates,
    odd_levels,
    repeated_captions,
    repeated_names,
    repeated_sounds,
    repeated_splits,
)
from utils.dataset.log_mel_config import PUBLISHED, LogMelConfig


def clips(**splits):
    """Tabulate clips(split="sound@rate@peak@mono_peak ..."), named by split and place; rate and levels are optional."""
    probes = {}
    for split, descriptions in splits.items():
        probes[split] = {}
        for place, description in enumerate(descriptions.split()):
            sound, rate, peak, mono_peak = (description.split("@") + ["8", "1", "1"][description.count("@") :])[:4]
            clip = Clip(f"{split}{place}.wav", 1.0, int(rate), 1, sound)
            probes[split][place] = Probe(clip, float(peak), float(mono_peak))
    return clip_table(probes)


def test_rates_that_differ_are_counted_by_split_and_what_to_do_is_said():
    mixed = clips(dev="a@44100 b@16000 c@44100", val="d@16000", eva="e@44100")
    assert list(mixed_rates(mixed, PUBLISHED)) == [
        "clips at 16000 Hz: 1 of dev, 1 of val",
        "clips at 44100 Hz: 2 of dev, 1 of eva",
        "log-mels of a sound differ with its sample rate; audio_logmel.sample_rate=44100 resamples all clips",
    ]
    assert not list(mixed_rates(mixed, LogMelConfig(sample_rate=44100)))
    assert not list(mixed_rates(clips(dev="a@8000", val="b@8000"), PUBLISHED))
    assert not list(mixed_rates(clips(dev=""), PUBLISHED))
    (line,) = mixed_rates(clips(dev="a@44100 b@8000"), LogMelConfig(sample_rate=16000))
    assert line == "clips at 8000 Hz: 1 of dev: they hold nothing above 4000 Hz, but log-mels go up to 8000 Hz"


def test_repeated_sounds_are_counted_for_each_pair_of_splits():
    assert list(repeated_sounds(clips(dev="a b a a", val="c b a", eva="d c"))) == [
        "the same sounds twice in dev: 1, e.g. 'dev0.wav' and 'dev2.wav'",
        "the same sounds in dev and in val: 2, e.g. 'dev0.wav' and 'val2.wav'",
        "the same sounds in val and in eva: 1, e.g. 'val0.wav' and 'eva1.wav'",
    ]
    assert not list(repeated_sounds(clips(dev="a", val="b")))


def test_odd_levels_are_counted_by_split():
    silent, cancelled, scaled = "x@8@3e-5@3e-5", "x@8@0.5@2e-5", "x@8@29000@100"
    loud, quiet = "x@8@1.2@0.01", "x@8@0.001@0.001"
    found = clips(dev=f"{silent} {cancelled} {loud} {silent} {quiet}", val=f"x@8@0@0 {scaled} x@8@30000@0")
    assert list(odd_levels(found)) == [
        "clips that are silent: 2 of dev, 1 of val, e.g. 'dev0.wav'; remove them and their rows of captions",
        "clips whose channels cancel out when averaged: 1 of dev, 1 of val, e.g. 'dev1.wav'; "
        "keep one: ffmpeg -i OLD -af 'pan=mono|c0=c0' NEW.wav",
        "clips with samples beyond 10 (full scale is 1): 1 of val, e.g. 'val1.wav'; scale them, perhaps by 1/32768",
    ]
    assert not list(odd_levels(clips(dev="")))


def test_repeated_names_are_counted_for_each_pair_of_splits():
    table = clips(dev="a b c", val="d", eva="e f")
    table["file_name"] = ["0.wav", "1.wav", "2.wav", "1.wav", "0.wav", "1.wav"]
    assert list(repeated_names(table)) == [
        "the same file names in dev and in val: 1, e.g. '1.wav'",
        "the same file names in dev and in eva: 2, e.g. '0.wav'",
        "the same file names in val and in eva: 1, e.g. '1.wav'",
    ]
    assert not list(repeated_names(clips(dev="a", val="a")))


def test_splits_with_two_roles_are_named():
    roles = {"train_data": "dev", "val_data": "val", "eval_data": "dev"}
    (line,) = repeated_splits(roles)
    assert line.startswith("data_conf.train_data and .eval_data are one split, dev")
    assert len(list(repeated_splits(dict.fromkeys(roles, "dev")))) == 3
    assert not list(repeated_splits({"train_data": "dev", "val_data": "val"}))


def test_captions_that_a_clip_has_twice_are_counted():
    table = pd.DataFrame(
        [("f", "x.wav", "Rain"), ("g", "y.wav", "Rain"), ("f", "x.wav", "Rain"), ("f", "x.wav", "rain")],
        columns=["fid", "file_name", "raw_text"],
    )
    (line,) = repeated_captions({"dev": table, "val": table[:2]})
    assert line == "the same caption twice for a clip: 1 in dev, e.g. 'Rain' of 'x.wav'"
