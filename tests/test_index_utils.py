import json

import numpy as np
import pytest
import soundfile

from utils.index_utils import (
    CLEAN_COLUMNS,
    DatasetPaths,
    clip_id,
    clip_info,
    index_split,
    match_names,
    read_clips,
    vocabulary_info,
)
from utils.io_utils import UserError, write_csv, write_json
from utils.text_utils import CAPTION_COLUMNS


@pytest.fixture
def dataset(tmp_path):
    """dataset({csv name: captions}, [files]) -> the paths of a split `dev` with these rows and tenth-second clips."""

    def make(captions, files, split="dev"):
        paths = DatasetPaths(str(tmp_path))
        rows = [
            (line, name, column, text, text)
            for line, (name, texts) in enumerate(captions, start=2)
            for column, text in zip(CAPTION_COLUMNS, texts, strict=False)
        ]
        write_csv(paths.clean_captions(split), CLEAN_COLUMNS, rows)
        paths.audio(split).mkdir(exist_ok=True)
        for file in files:
            soundfile.write(paths.audio(split) / file, np.zeros(800), 8000, format="WAV")
        return paths

    return make


FIVE = ["a dog", "a cat", "rain", "wind", "a bird"]


def problems(index):
    return [str(problem) for problem in index.problems]


def test_names_match_exactly_first_then_stripped():
    files = ["a.wav", "b.wav", "c .wav", "Ambience Birds.wav", "Ambience birds.wav", "it&#39;s 100% #1, ok.wav"]
    names = ["a.wav", " b.wav", "c.wav", " Ambience Birds.wav", "Ambience birds.wav", "it&#39;s 100% #1, ok.wav"]
    assert match_names(names, files) == dict(zip(names, ["a.wav", "b.wav", "c .wav", *files[3:]], strict=True))


def test_a_stripped_name_never_takes_a_file_that_another_name_fits_exactly():
    assert match_names([" a.wav", "a.wav"], ["a.wav"]) == {"a.wav": "a.wav"}
    assert match_names(["a .wav", " a.wav"], ["a.wav", "a .wav"]) == {"a .wav": "a .wav", " a.wav": "a.wav"}


def test_ambiguous_names_match_nothing():
    assert match_names(["a.wav"], [" a.wav", "a .wav"]) == {}
    assert match_names([" a.wav", "a .wav"], ["a.wav"]) == {}
    assert match_names(["sub/a.wav"], ["a.wav"]) == {}


def test_a_file_without_captions_at_all_is_said(dataset):
    index = index_split(dataset([], ["x.wav"]), "dev", require_audio=True, shortest=0.06)
    assert problems(index)[0] == "clotho_captions_dev.csv line 1: no captions" and index.captions.empty


def test_a_carriage_return_inside_a_caption_is_no_new_row(dataset):
    paths = dataset([("x.wav", ["a\rdog", *FIVE[1:]])], ["x.wav"])
    index = index_split(paths, "dev", require_audio=True, shortest=0.06)
    assert len(index.captions) == 5 and not index.problems


def test_index_of_clothos_traps(dataset):
    names = [" Ambience Birds.wav", "Ambience birds.wav", "cow .wav", "it&#39;s &amp; 100% #1, ok.wav"]
    files = ["Ambience Birds.wav", "Ambience birds.wav", "cow.wav", "it&#39;s &amp; 100% #1, ok.wav"]
    index = index_split(dataset([(name, FIVE) for name in names], files), "dev", require_audio=True, shortest=0.06)
    assert not index.problems
    assert list(index.captions["fname"].unique()) == names
    assert [clip.file for clip in index.clips.values()] == files
    assert index.captions["fid"].nunique() == 4 and index.captions["tid"].nunique() == 20
    assert index.clips[clip_id("dev", " Ambience Birds.wav")].seconds == pytest.approx(0.1)
    assert json.loads(index.captions["tokens"][0]) == ["a", "dog"]


def test_fids_depend_on_split_and_name_alone():
    assert clip_id("development", "x.wav") == clip_id("development", "x.wav")
    assert clip_id("development", "x.wav") != clip_id("evaluation", "x.wav")


def test_other_audio_formats_are_clips(dataset):
    paths = dataset([("x.flac", FIVE), ("y.ogg", FIVE)], [])
    for name in ("x.flac", "y.ogg"):
        soundfile.write(paths.audio("dev") / name, np.zeros(8000), 8000)
    assert not index_split(paths, "dev", require_audio=True, shortest=0.06).problems


def test_whatever_is_wrong_is_listed_and_left_out(dataset):
    captions = [
        ("good.wav", FIVE),
        ("absent.wav", FIVE),
        ("good.wav", FIVE),
        ("gap.wav", ["a dog", "", "rain", "wind", "a bird"]),
        ("broken.wav", FIVE),
        ("empty.wav", FIVE),
        ("nan.wav", FIVE),
        ("short.wav", FIVE),
    ]
    paths = dataset(captions, ["good.wav", "gap.wav", "unused.wav"])
    (paths.audio("dev") / "broken.wav").write_text("this is text")
    soundfile.write(paths.audio("dev") / "empty.wav", np.zeros(0), 8000)
    soundfile.write(paths.audio("dev") / "nan.wav", np.full(800, np.nan), 8000, subtype="FLOAT")
    soundfile.write(paths.audio("dev") / "short.wav", np.zeros(400), 8000)
    index = index_split(paths, "dev", require_audio=True, shortest=0.06)
    assert problems(index) == [
        "clotho_captions_dev.csv line 4 ('good.wav'): the same file name as on line 2",
        "dev ('broken.wav'): unreadable audio (Format not recognised)",
        "dev ('empty.wav'): the clip has no samples",
        "dev ('nan.wav'): holds NaN or infinite samples",
        "dev ('short.wav'): 0.05 s are too short; the model needs 0.06 s",
        "dev ('unused.wav'): the clip has no captions",
        "clotho_captions_dev.csv line 3 ('absent.wav'): no such audio file",
        "clotho_captions_dev.csv line 5 ('gap.wav'): caption_2 holds no words",
    ]
    assert index.captions["fname"].value_counts().to_dict() == {"good.wav": 5, "gap.wav": 4}
    assert len(index.clips) == 2


def test_a_missing_column_is_listed(dataset):
    index = index_split(dataset([("x.wav", FIVE[:4])], ["x.wav"]), "dev", require_audio=True, shortest=0.06)
    assert problems(index) == ["clotho_captions_dev.csv line 1: column caption_5 is missing"]


def test_captions_without_audio_where_that_is_allowed(dataset):
    index = index_split(dataset([("x.wav", FIVE)], []), "dev", require_audio=False, shortest=0.06)
    assert len(index.captions) == 5 and not index.clips and not index.problems


@pytest.mark.parametrize("name", ["../outside.wav", "{root}/outside.wav", "deeper/../../outside.wav", "dev/x.wav"])
def test_a_file_name_that_leaves_the_folder_is_no_clip(dataset, tmp_path, name):
    paths = dataset([(name.format(root=tmp_path), FIVE)], ["x.wav"])
    soundfile.write(paths.audio("dev").parent / "outside.wav", np.zeros(800), 8000)
    found = index_split(paths, "dev", require_audio=True, shortest=0.06)
    assert "is no file name: clips lie in the split's folder itself" in problems(found)[1] and found.captions.empty


def test_a_link_out_of_the_data_set_is_no_clip(dataset, tmp_path_factory):
    paths = dataset([("x.wav", FIVE), ("inside.wav", FIVE)], ["y.wav"])
    outside = tmp_path_factory.mktemp("outside") / "x.wav"
    soundfile.write(outside, np.zeros(8000), 8000)
    (paths.audio("dev") / "x.wav").symlink_to(outside)
    (paths.audio("dev") / "inside.wav").symlink_to("y.wav")
    found = index_split(paths, "dev", require_audio=True, shortest=0.06)
    assert "dev ('x.wav'): leads out of the data set directory" in problems(found)[0]
    assert found.captions["fname"].unique().tolist() == ["inside.wav"]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"file": "../../x.wav"},
        {"file": "/x.wav"},
        {"file": ".."},
        {"file": 5},
        {"sha256": "0"},
        {"seconds": None, "more": 1},
    ],
)
def test_a_strangers_clips_are_checked(dataset, spoilt):
    paths = dataset([("x.wav", FIVE)], ["x.wav"])
    clips = index_split(paths, "dev", require_audio=True, shortest=0.06).clips
    info = clip_info({"dev": clips})
    write_json(paths.audio_info, info)
    assert read_clips(paths, "dev") == clips
    (fid,) = clips
    info["dev"]["clips"][fid] |= spoilt
    write_json(paths.audio_info, info)
    with pytest.raises(UserError, match=r"leads out|not as preprocessing|not the name of"):
        paths.clip("dev", read_clips(paths, "dev")[fid].file)
    write_json(paths.audio_info, {"dev": {"clips": {"../" + fid: clips[fid]._asdict()}}})
    with pytest.raises(UserError, match="not as preprocessing"):
        read_clips(paths, "dev")


def test_words_that_look_like_gaps_stay_words(dataset):
    index = index_split(dataset([("NA.wav", ["null", "NA", "nan", "None", "1"])], ["NA.wav"]), "dev", True, 0.06)
    assert index.captions["text"].tolist() == ["null", "NA", "nan", "None", "1"]


def test_vocabulary_is_sorted_and_counted(dataset):
    index = index_split(dataset([("x.wav", ["a dog", "a cat-like dog", "b", "b", "b"])], ["x.wav"]), "dev", True, 0.06)
    info = vocabulary_info({"dev": index.captions})
    assert info["vocabulary"] == ["a", "b", "cat-like", "dog"]
    assert info["counts"]["dev"] == {"a": 2, "b": 3, "cat-like": 1, "dog": 2}
    assert info["hyphenated"] == {"cat-like": 1}
    assert info["splits"]["dev"] == {"clips": 1, "captions": 5, "words": 8, "distinct_words": 4}
