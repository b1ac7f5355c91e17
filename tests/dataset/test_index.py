"""Captions are paired with clips by name; what cannot be paired is listed and left out."""

import json
import os
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from utils.common.errors import UserError
from utils.common.io import write_csv, write_json
from utils.dataset.clip_names import match_names
from utils.dataset.demo import CAPTION_COLUMNS
from utils.dataset.index import (
    CLEAN_COLUMNS,
    TEXT_COLUMNS,
    clip_id,
    clip_info,
    index_split,
    read_cells,
    read_clips,
    read_table,
    vocabulary_info,
)
from utils.dataset.log_mel import read_log_mel
from utils.dataset.log_mel_config import LogMelConfig
from utils.dataset.paths import AUDIO_FILES, DatasetPaths


@pytest.fixture
def dataset(tmp_path):
    """dataset(rows, files) -> the paths of a split `dev`.

    A row is a file name and its captions, or the name alone for FIVE of them; the files are tenth-second clips.
    """

    def make(rows, files):
        paths = DatasetPaths(str(tmp_path))
        named = [(row, FIVE) if isinstance(row, str) else row for row in rows]
        cells = [
            (line, name, column, text, text)
            for line, (name, texts) in enumerate(named, start=2)
            for column, text in zip(CAPTION_COLUMNS, texts, strict=False)
        ]
        write_csv(paths.clean_captions("dev"), CLEAN_COLUMNS, cells)
        paths.audio("dev").mkdir(exist_ok=True)
        for file in files:
            write_sound(paths, file)
        return paths

    return make


FIVE = ["a dog", "a cat", "rain", "wind", "a bird"]
LOG_MEL_CONFIG = LogMelConfig(fmax=4000)


def write_sound(paths, name, samples=800, rate=8000):
    kind = None if name.lower().endswith((".flac", ".ogg", ".mp3", ".aiff")) else "WAV"
    soundfile.write(paths.audio("dev") / name, np.zeros(samples), rate, format=kind)


def index(paths, require_audio=True, config=LOG_MEL_CONFIG):
    return index_split(paths, "dev", config if require_audio else None, min_frames=4)


def problems(found):
    return [str(problem) for problem in found.problems]


def file_names(found):
    return [clip.file_name for clip in found.clips.values()]


@pytest.mark.parametrize(
    ("names", "files", "matches"),
    [
        ([" a.wav", "a.wav"], ["a.wav"], {"a.wav": "a.wav"}),
        (["a .wav", " a.wav"], ["a.wav", "a .wav"], {"a .wav": "a .wav", " a.wav": "a.wav"}),
        (["a.wav"], [" a.wav", "a .wav"], {}),
        ([" a.wav", "a .wav"], ["a.wav"], {}),
        (["sub/a.wav"], ["a.wav"], {}),
        ([" b.wav", "c.wav"], ["b.wav", "c .wav"], {" b.wav": "b.wav", "c.wav": "c .wav"}),
    ],
)
def test_names_match_exactly_first_then_stripped_if_unambiguous(names, files, matches):
    assert match_names(names, files) == matches


@pytest.mark.parametrize(("of_captions", "of_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_any_unicode_form(of_captions, of_disk):
    names = [unicodedata.normalize(of_captions, name) for name in ("été.wav", " Måsar på .wav", "plain.wav")]
    files = [unicodedata.normalize(of_disk, name) for name in ("été.wav", "Måsar på.wav", "plain.wav")]
    assert match_names(names, files) == dict(zip(names, files, strict=True))
    assert match_names(names, [*names, *files]) == dict(zip(names, names, strict=True))
    assert match_names([names[0], files[0]], [files[0]]) == {files[0]: files[0]}
    assert match_names([f" {names[0]}", f" {files[0]}"], [files[0]]) == {f" {files[0]}": files[0]}
    assert match_names([names[1]], [files[1], f" {files[1]}"]) == {}


def test_clothos_file_names_are_matched(dataset):
    names = [" Ambience Birds.wav", "Ambience birds.wav", "cow .wav", "it&#39;s &amp; 100% #1, ok.wav"]
    files = ["Ambience Birds.wav", "Ambience birds.wav", "cow.wav", "it&#39;s &amp; 100% #1, ok.wav"]
    found = index(dataset(names, files))
    assert not found.problems and file_names(found) == files
    assert list(found.captions["file_name"].unique()) == names
    assert found.captions["fid"].nunique() == 4 and found.captions["tid"].nunique() == 20
    assert found.clips[clip_id("dev", " Ambience Birds.wav")].seconds == 0.1
    assert json.loads(found.captions["tokens"][0]) == ["a", "dog"]


def test_fids_depend_on_split_and_name_alone():
    assert clip_id("development", "x.wav") == "d8f364a07e6911ba"  # printf development/x.wav | sha256sum
    assert clip_id("evaluation", "x.wav") != clip_id("development", "x.wav")


def test_other_audio_formats_are_clips_and_unsupported_ones_are_listed(dataset):
    clips = ["x.flac", "y.ogg", "z.mp3", "u.AIFF"]
    paths = dataset(["x.m4a", "gone.wma", *clips], clips)
    for name in ("x.m4a", "unnamed.AAC", "notes.txt", "cover.jpg"):
        (paths.audio("dev") / name).write_text("")
    what = "is of an unsupported format; convert it to .wav or .flac"
    found = index(paths)
    assert problems(found) == [
        f"dev ('unnamed.AAC'): {what}",
        f"clotho_captions_dev.csv line 2 ('x.m4a'): {what}, and name that here",
        f"clotho_captions_dev.csv line 3 ('gone.wma'): {what}, and name that here",
    ]
    assert file_names(found) == clips


@pytest.mark.parametrize("captions", [[], ["caf\u00e9.wav"]])
def test_a_file_name_that_is_not_utf_8_is_listed_as_it_can_be_printed(dataset, captions):
    paths = dataset(["x.wav", *captions], ["x.wav"])
    latin = paths.audio("dev") / os.fsdecode(b"caf\xe9.wav")
    try:
        (paths.audio("dev") / "x.wav").rename(latin)
    except OSError:
        pytest.skip("this file system holds UTF-8 names alone")
    write_sound(paths, "x.wav")
    found = index(paths)
    assert found.problems[0] == ("dev", 0, "caf\\xe9.wav", "the file's name is not UTF-8; rename it")
    assert problems(found)[1:] == ["clotho_captions_dev.csv line 3 ('café.wav'): no such audio file"] * len(captions)
    str(found.problems[0]).encode()


def test_clips_that_the_recipe_does_not_fit_are_listed(dataset):
    paths = dataset(["x.wav", "y.wav"], ["x.wav"])
    write_sound(paths, "y.wav", 3200, 32000)
    what = "fmax 8000 Hz is above half the sample rate of 8000 Hz; audio_logmel.sample_rate resamples"
    found = index(paths, config=LogMelConfig())
    assert problems(found)[0].startswith(f"dev ('x.wav'): {what}") and len(found.problems) == 1
    assert file_names(found) == ["y.wav"]
    assert not index(paths, config=LogMelConfig(sample_rate=32000)).problems
    no_band = index(paths, config=replace(LOG_MEL_CONFIG, fmin=1, fmax=5))
    assert ["no FFT bin lies between fmin 1 Hz and fmax 5 Hz" in problem for problem in problems(no_band)] == [True] * 2


def test_resampling_is_not_advised_for_rates_too_low_for_it(dataset):
    paths = dataset(["x.wav"], [])
    write_sound(paths, "x.wav", 800, 800)
    take_out = "remove it and its row of captions"
    (low,) = problems(index(paths, config=LogMelConfig(sample_rate=16000)))
    assert low == f"dev ('x.wav'): a sample rate of 800 Hz is too low to be resampled; {take_out}"
    (high,) = problems(index(paths))
    assert high == f"dev ('x.wav'): fmax 4000 Hz is above half the sample rate of 800 Hz; {take_out}"


def test_clips_of_too_few_frames_are_listed(dataset):
    paths = dataset(["962.wav", "963.wav"], [])
    for samples in (962, 963):  # a hop of 320.6 samples is 321
        write_sound(paths, f"{samples}.wav", samples, 16030)
    found = index(paths)
    assert problems(found) == ["dev ('962.wav'): 0.060012 s are too short; the model needs 4 frames, 0.06007 s"]
    assert len(read_log_mel(paths.audio("dev") / "962.wav", LOG_MEL_CONFIG)) == 3
    assert len(read_log_mel(paths.audio("dev") / "963.wav", LOG_MEL_CONFIG)) == 4


def test_links_folders_and_pipes_with_audio_suffixes_are_listed_once(dataset):
    paths = dataset(["annex.wav", "folder.wav", "pipe.flac", "x.wav"], ["x.wav"])
    folder = paths.audio("dev")
    (folder / "annex.wav").symlink_to(".git/annex/objects/SHA256E-s9.wav")
    (folder / "folder.wav").mkdir()
    (folder / "sounds").mkdir()
    os.mkfifo(folder / "pipe.flac")
    (folder / "unnamed.mp3").symlink_to("unnamed.mp3")
    found = index(paths)
    link = "is a broken link; get the file itself (as by `git annex get` or `dvc pull`)"
    assert problems(found) == [
        f"dev ('annex.wav'): {link}",
        "dev ('folder.wav'): is a folder, not a file; rename or remove it",
        "dev ('pipe.flac'): is a pipe, socket or device, not a file; rename or remove it",
        f"dev ('unnamed.mp3'): {link}",
    ]
    assert file_names(found) == found.captions["file_name"].unique().tolist() == ["x.wav"]


def test_macos_resource_forks_are_ignored(dataset):
    names = ["x.wav", "._y.wav"]
    paths = dataset(names, names)
    (paths.audio("dev") / "._x.wav").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(99))
    found = index(paths)
    assert not found.problems and file_names(found) == names


def test_similar_file_names_are_suggested(dataset):
    names = ["no suffix", "case.wav", "other.mp3", "bare.wav", "bare too", "taken.flac", "caf\u00e9.WAV", "gone.wav"]
    files = ["no suffix.wav", "Case.WAV", "other.flac", "bare", "Bare Too", "taken.wav", "cafe\u0301.wav"]
    paths = dataset(["taken.wav", *names], files)
    said = {problem.file_name: problem.what for problem in index(paths).problems if problem.line}
    assert said == {
        "no suffix": "no such audio file; did you mean 'no suffix.wav'?",
        "case.wav": "no such audio file; did you mean 'Case.WAV'?",
        "other.mp3": "no such audio file; did you mean 'other.flac'?",
        "bare.wav": f"no such audio file; 'bare' is not called {AUDIO_FILES}: rename it",
        "bare too": f"no such audio file; 'Bare Too' is not called {AUDIO_FILES}: rename it",
        "taken.flac": "no such audio file",
        "caf\u00e9.WAV": "no such audio file; did you mean 'cafe\u0301.wav'?",
        "gone.wav": "no such audio file",
    }


EMPTY = ("", [""] * 5)


@pytest.mark.parametrize(
    ("rows", "kept", "what"),
    [
        ([], 0, ["line 1: no captions"]),
        ([("x.wav", FIVE[:1])], 1, []),
        ([("x.wav", ["", "a dog", " ", "", ""])], 1, []),
        ([("x.wav", ["", "", " "])], 0, ["line 2 ('x.wav'): the clip has no captions: its cells are empty"]),
        ([("x.wav", ["", "?!", "–"])], 0, [f"line 2 ('x.wav'): caption_{k} holds no words" for k in (2, 3)]),
        (["x.wav", EMPTY], 5, ["line 3: the row is empty; remove empty rows"]),
        (
            ["x.wav", EMPTY, (" ", [" "] * 5), "", "", EMPTY],
            5,
            [
                "line 5: the row names no file",
                "line 6: the row names no file",
                "line 3: the row is empty, and 2 more are; remove empty rows",
            ],
        ),
    ],
)
@pytest.mark.parametrize("require_audio", [True, False])
def test_gaps_in_the_caption_file_are_listed(dataset, rows, kept, what, require_audio):
    found = index(dataset(rows, ["x.wav"] if rows and require_audio else []), require_audio)
    assert problems(found) == [f"clotho_captions_dev.csv {problem}" for problem in what]
    assert len(found.captions) == kept and bool(found.clips) == bool(kept and require_audio)


def test_rows_of_one_caption_each_make_a_clip_of_several(dataset):
    paths = dataset([], ["x.wav", "y.wav"])
    rows = [
        (2, "x.wav", "caption_1", "A dog", "a dog"),
        (3, "y.wav", "caption_1", "", ""),
        (4, "x.wav", "caption_2", "", ""),
        (5, "absent.wav", "caption_1", "Rain", "rain"),
        (6, "x.wav", "caption_3", "A cat", "a cat"),
        (7, "absent.wav", "caption_2", "Wind", "wind"),
    ]
    write_csv(paths.clean_captions("dev"), CLEAN_COLUMNS, rows)
    found, fid = index(paths), clip_id("dev", "x.wav")
    assert list(found.captions["tid"]) == [f"{fid}-1", f"{fid}-3"] and list(found.clips) == [fid]
    assert problems(found) == [
        "clotho_captions_dev.csv line 5 ('absent.wav'): no such audio file",
        "clotho_captions_dev.csv line 3 ('y.wav'): the clip has no captions: its cells are empty",
    ]


def test_a_split_that_is_a_link_out_of_the_data_set_is_one_error(dataset, tmp_path_factory):
    paths = dataset(["x.wav", "y.wav"], ["x.wav", "y.wav"])
    outside = tmp_path_factory.mktemp("outside") / "dev"
    paths.audio("dev").rename(outside)
    paths.audio("dev").symlink_to(outside)
    for read in (lambda: index(paths), lambda: paths.clip("dev", "x.wav")):
        with pytest.raises(UserError, match=r"^[^\n]*/dev: is a link out of the data set directory, .* put the folder"):
            read()
    paths.audio("dev").unlink()
    (paths.audio("dev").parent / "elsewhere").mkdir()
    paths.audio("dev").symlink_to("elsewhere")
    write_sound(paths, "x.wav")
    assert file_names(index(paths)) == ["x.wav"]


def test_problems_are_listed_and_left_out(dataset):
    gap = ("gap.wav", ["a dog", "?!", "rain", "wind", "a bird"])
    paths = dataset(
        ["good.wav", "absent.wav", "good.wav", gap, "broken.wav", "short.wav"], ["good.wav", "gap.wav", "unused.wav"]
    )
    (paths.audio("dev") / "broken.wav").write_text("this is text")
    write_sound(paths, "short.wav", 400)
    found = index(paths)
    expected = [
        ("clotho_captions_dev.csv line 4 ('good.wav'): ", "as on line 2"),
        ("dev ('broken.wav'): ", "unreadable"),
        ("dev ('short.wav'): ", "0.05 s are too short"),
        ("dev ('unused.wav'): ", "no captions"),
        ("clotho_captions_dev.csv line 3 ('absent.wav'): ", "no such audio file"),
        ("clotho_captions_dev.csv line 5 ('gap.wav'): ", "caption_2 holds no words"),
    ]
    for problem, (place, what) in zip(problems(found), expected, strict=True):
        assert problem.startswith(place) and what in problem
    assert found.captions["file_name"].value_counts().to_dict() == {"good.wav": 5, "gap.wav": 4}
    assert file_names(found) == ["good.wav", "gap.wav"]


@pytest.mark.parametrize("name", ["../outside.wav", "{root}/outside.wav", "deeper/../../outside.wav", "dev/x.wav"])
def test_a_file_name_that_leaves_the_folder_matches_no_clip(dataset, tmp_path, name):
    paths = dataset([name.format(root=tmp_path)], ["x.wav"])
    write_sound(paths, "../outside.wav")
    found = index(paths)
    assert "is not a file name" in problems(found)[1] and found.captions.empty


def test_links_out_of_the_data_set_are_not_followed(dataset, tmp_path_factory):
    paths = dataset(["x.wav", "inside.wav"], ["x.wav", "y.wav"])
    outside = tmp_path_factory.mktemp("outside") / "x.wav"
    (paths.audio("dev") / "x.wav").rename(outside)
    (paths.audio("dev") / "x.wav").symlink_to(outside)
    (paths.audio("dev") / "inside.wav").symlink_to("y.wav")
    found = index(paths)
    assert "dev ('x.wav'): leads out of the data set directory" in problems(found)[0]
    assert file_names(found) == ["inside.wav"]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"file_name": "../../x.wav"},
        {"file_name": "/x.wav"},
        {"file_name": ".."},
        {"file_name": 5},
        {"sha256": "0"},
        {"seconds": -1},
        {"seconds": None},
        {"sample_rate": 0},
        {"sample_rate": "8000"},
        {"sample_rate": 10**400},
        {"more": 1},
    ],
)
def test_invalid_clips_in_audio_info_are_refused(dataset, spoilt):
    paths = dataset(["x.wav"], ["x.wav"])
    clips = index(paths).clips
    info = clip_info({"dev": clips})
    write_json(paths.audio_info, info)
    assert read_clips(paths, "dev") == clips
    (fid,) = clips
    info["dev"]["clips"][fid] |= spoilt
    write_json(paths.audio_info, info)
    with pytest.raises(UserError, match=r"leads out|not as preprocessing|not the name of"):
        paths.clip("dev", read_clips(paths, "dev")[fid].file_name)
    write_json(paths.audio_info, {"dev": {"clips": {"../" + fid: clips[fid]._asdict()}}})
    with pytest.raises(UserError, match="not as preprocessing"):
        read_clips(paths, "dev")


def test_vocabulary_is_sorted_and_counted(dataset):
    found = index(dataset([("x.wav", ["a dog", "a cat-like dog", "b", "b", "b"])], ["x.wav"]))
    info = vocabulary_info({"dev": found.captions})
    assert info["vocabulary"] == ["a", "b", "cat-like", "dog"]
    assert info["counts"]["dev"] == {"a": 2, "b": 3, "cat-like": 1, "dog": 2}
    assert info["hyphenated"] == {"cat-like": 1}
    assert info["splits"]["dev"] == {"clips": 1, "captions": 5, "words": 8, "distinct_words": 4}


def test_cells_are_those_of_the_table(tmp_path):
    path, columns = tmp_path / "x.csv", ["fid", "raw_text"]
    texts = ["NA", "None", "", " ", 'a "dog", b', "a\nb", "a\rb", "a\r\nb", "\r", '"', "\u2028", "1.0", "x" * 9**6]
    write_csv(path, TEXT_COLUMNS, [[f"t{i}", "f", "x.wav", text, "", "[]"] for i, text in enumerate(texts)])
    assert read_cells(path, columns, "step") == read_table(path, columns, "step")[columns].to_numpy().tolist()
    assert read_cells(path, ["raw_text"], "step") == [[text] for text in texts]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("tid,fid\n", "column raw_text is missing"),
        *((text, r"not a readable CSV file \(.+\)") for text in ("", "fid,raw_text\na\n", 'fid,raw_text\na,"b\n')),
        ("fid,raw_text\na,\xff\n", r"not a readable CSV file \(.+\)"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, content, what):
    path = tmp_path / "x.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=rf"x\.csv: {what}; run step again"):
        read_cells(path, ["fid", "raw_text"], "step")
