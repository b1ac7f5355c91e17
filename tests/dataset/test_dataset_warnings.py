"""What step 2 says of a data set without refusing it."""

from utils.dataset.audio import HEARD, Clip, Level
from utils.dataset.dataset_warnings import mixed_rates, odd_levels, repeated_names, repeated_sounds, repeated_splits
from utils.dataset.log_mel_config import PUBLISHED, LogMelConfig


def clips(**splits):
    """clips(split="sound@rate ...") -> clips by split and fid, each named by split and place."""
    return {
        split: {
            f"{split}{place}": Clip(f"{split}{place}.wav", 1.0, int(rate), 1, sound)
            for place, (sound, rate) in enumerate(clip.split("@") for clip in described.split())
        }
        for split, described in splits.items()
    }


def test_rates_that_differ_are_counted_by_split_and_what_to_do_is_said():
    mixed = clips(dev="a@44100 b@16000 c@44100", val="d@16000", eva="e@44100")
    assert list(mixed_rates(mixed, PUBLISHED)) == [
        "clips at 16000 Hz: 1 of dev, 1 of val",
        "clips at 44100 Hz: 2 of dev, 1 of eva",
        "one sound has other log-mels at each rate; audio_logmel.sample_rate=44100 resamples all clips",
    ]
    assert not list(mixed_rates(mixed, LogMelConfig(sample_rate=44100)))
    assert not list(mixed_rates(clips(dev="a@8000", val="b@8000"), PUBLISHED))
    assert not list(mixed_rates({"dev": {}}, PUBLISHED))


def test_clips_without_the_upper_bands_are_counted_where_all_are_resampled():
    (line,) = mixed_rates(clips(dev="a@44100 b@8000"), LogMelConfig(sample_rate=16000))
    assert line == "clips at 8000 Hz: 1 of dev: they hold nothing above 4000 Hz, but log-mels go up to 8000 Hz"


def test_repeated_sounds_are_counted_once_for_each_pair_of_splits():
    assert list(repeated_sounds(clips(dev="a@8 b@8 a@8 a@8", val="c@8 b@8 a@8", eva="d@8 c@8"))) == [
        "the same sounds twice in dev: 1, e.g. 'dev0.wav' and 'dev2.wav'",
        "the same sounds in dev and in val: 2, e.g. 'dev0.wav' and 'val2.wav'",
        "the same sounds in val and in eva: 1, e.g. 'val0.wav' and 'eva1.wav'",
    ]
    assert not list(repeated_sounds(clips(dev="a@8", val="b@8")))


def test_clips_that_are_hardly_meant_so_are_counted_by_split():
    found = clips(dev="a@8 b@8 c@8 d@8 e@8", val="f@8 g@8 h@8")
    loud, silent, cancelled, scaled = Level(1.2, HEARD), Level(3e-5, 3e-5), Level(0.5, 2e-5), Level(29000, 100)
    quiet = Level(0.001, 0.001)
    levels = {"dev": [silent, cancelled, loud, silent, quiet], "val": [Level(0, 0), scaled, Level(30000, 0)]}
    levels = {split: dict(zip(found[split], of_split, strict=True)) for split, of_split in levels.items()}
    lines = list(odd_levels(found, levels))
    assert [line.partition(";")[0] for line in lines] == [
        "clips that are silent: 2 of dev, 1 of val, e.g. 'dev0.wav'",
        "clips whose channels cancel out, which are averaged: 1 of dev, 1 of val, e.g. 'dev1.wav'",
        "clips of samples beyond 10, where full scale is 1: 1 of val, e.g. 'val1.wav'",
    ]
    assert "-af 'pan=mono|c0=c0'" in lines[1] and "1/32768" in lines[2]
    assert not list(odd_levels({"dev": {}}, {"dev": {}}))


def test_repeated_names_are_counted_for_each_pair_of_splits():
    dev, val = clips(dev="a@8 b@8 c@8", val="d@8")["dev"], {"v": Clip("dev1.wav", 1.0, 8, 1, "d")}
    assert list(repeated_names({"dev": dev, "val": val, "eva": dict(list(dev.items())[:2])})) == [
        "the same file names in dev and in val: 1, e.g. 'dev1.wav'",
        "the same file names in dev and in eva: 2, e.g. 'dev0.wav'",
        "the same file names in val and in eva: 1, e.g. 'dev1.wav'",
    ]
    assert not list(repeated_names(clips(dev="a@8", val="a@8")))


def test_splits_with_two_roles_are_named():
    roles = {"train_data": "dev", "val_data": "val", "eval_data": "dev"}
    (line,) = repeated_splits(roles)
    assert line.startswith("data_conf.train_data and .eval_data are one split, dev")
    assert len(list(repeated_splits(dict.fromkeys(roles, "dev")))) == 3
    assert not list(repeated_splits({"train_data": "dev", "val_data": "val"}))
