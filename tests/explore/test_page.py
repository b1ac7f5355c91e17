"""The page's folder: its files, and that it is whole or absent."""

import copy
import json
import re
import shutil
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.explore.conftest import NAMES, VOCABULARY
from tests.helpers import RATE, Tags, call, record_step, write_features
from tests.search.conftest import files_of
from utils.common.errors import UserError
from utils.common.steps import FEATURES, INDEXING
from utils.dataset.index import read_table
from utils.dataset.log_mel import read_log_mel
from utils.dataset.paths import DatasetPaths
from utils.explore import page
from utils.explore.page import copy_sound, write_explore
from utils.trial.trial import Trial


def content_of(page):
    """The page's content; nothing in it can end the element that it stands in."""
    (content,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page.read_text("utf-8"))
    assert "<" not in content
    return json.loads(content)


@pytest.fixture
def trial(trials, tmp_path):
    """A copy of the trial, with a copy of the data set, for a test to damage."""
    folder, conf = trials["mean"]
    shutil.copytree(folder, tmp_path / "trial", ignore=shutil.ignore_patterns("explore"))
    shutil.copytree(conf.data_conf.dataset, tmp_path / "data")
    data = conf.data_conf.model_copy(update={"dataset": str(tmp_path / "data")})
    return Trial(tmp_path / "trial", conf.model_copy(update={"data_conf": data}))


def test_the_folder_holds_only_the_files_that_the_page_shows(pages):
    folder = pages["mean"].parent
    clips = content_of(pages["mean"])["clips"]
    shown = {clip[part] for clip in clips for part in ("source", "picture")}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == shown | {"index.html", ".written.json"} and len(shown) == 2 * len(NAMES)
    assert all(re.fullmatch(r"(sounds/[0-9a-f]{16}\.ogg|logmels/[0-9a-f]{16}\.webp)", name) for name in shown)
    assert [clip["name"] for clip in clips] == NAMES


def test_where_training_reads_features_the_pictures_are_made_from_the_sounds(trial, tmp_path):
    conf = trial.conf
    conf = conf.model_copy(update={"data_conf": conf.data_conf.model_copy(update={"audio": "features"})})
    paths = DatasetPaths(conf.data_conf.dataset)
    for split in conf.data_conf.splits:
        fids = read_table(paths.text(split), ["fid"], INDEXING)["fid"].unique()
        write_features(paths.audio_features(split), {fid: np.zeros((2, 8), np.float32) for fid in fids})
        paths.log_mels(split).unlink(missing_ok=True)
    record_step(conf, FEATURES)
    index = write_explore(Trial(trial.path, conf), copy=False)
    for clip in content_of(index)["clips"]:
        sound = paths.clip(conf.data_conf.eval_data, clip["name"])
        page._draw(read_log_mel(sound, conf.audio_logmel.config), tmp_path / "expected.webp")
        assert (index.parent / clip["picture"]).read_bytes() == (tmp_path / "expected.webp").read_bytes()


def test_copies_are_the_clips_in_ogg_vorbis(trials, pages):
    paths, folder = DatasetPaths(trials["mean"][1].data_conf.dataset), pages["mean"].parent
    for clip in content_of(pages["mean"])["clips"]:
        info = soundfile.info(folder / clip["source"])
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("OGG", "VORBIS", RATE, 1)
        original, _ = soundfile.read(paths.audio("evaluation") / clip["name"])
        copy, _ = soundfile.read(folder / clip["source"])
        assert len(copy) == len(original) and np.corrcoef(copy, original)[0, 1] > 0.99


def test_links_lead_to_the_data_set(trials, pages):
    folder = DatasetPaths(trials["idf"][1].data_conf.dataset).audio("evaluation")
    for clip in content_of(pages["idf"])["clips"]:
        link = urlsplit(clip["source"])
        assert link.scheme == "file" and not link.query and not link.fragment
        assert unquote(link.path) == str(folder.resolve() / clip["name"])
    assert not (pages["idf"].parent / "sounds").exists()


def test_pictures_are_small_and_as_wide_as_the_clip_is_long(pages):
    for clip in content_of(pages["mean"])["clips"]:
        with Image.open(pages["mean"].parent / clip["picture"]) as picture:
            assert picture.size == (26, 64) and picture.format == "WEBP"  # 0.5 s of a frame each 20 ms


@pytest.mark.parametrize("words", ["mean", "idf"])
def test_a_clips_best_captions_are_those_with_the_highest_scores(pages, searches, words):
    content, search = content_of(pages[words]), searches[words]
    assert content["words"] == [word for word in VOCABULARY[1:] if word != "<b>loud</b>"]  # which no query can hold
    found = [{} for _ in NAMES]  # by clip: each caption's score, by the search's own sum
    texts = read_table(search.paths.text("evaluation"), ["text", "raw_text"], INDEXING)
    for caption, text in enumerate(texts["text"]):
        for clip, score in enumerate(search.text_scores(text.split())):
            found[clip][caption] = score
    assert content["captions"] == texts["raw_text"].tolist() and len(texts) == 3 * len(NAMES)
    for clip, by_caption in zip(content["clips"], found, strict=True):
        assert clip["own"] == [i for i, text in enumerate(content["captions"]) if f'"{clip["name"]}"' in text]
        highest = sorted(by_caption.values(), reverse=True)[:5]
        assert [score for _, score in clip["best"]] == pytest.approx(highest, abs=2e-6)
        assert [by_caption[caption] for caption, _ in clip["best"]] == pytest.approx(highest, abs=2e-6)


def test_odd_names_and_captions_are_escaped(pages):
    page = Tags(pages["mean"])
    assert len(page.of("script")) == 3 and len(page.of("img")) == 1 and not page.of("b ")


def test_a_page_replaces_only_a_page(trial):
    write_explore(trial, copy=False)
    page = write_explore(trial, copy=False)
    page.with_name("notes.txt").write_text("notes")
    with pytest.raises(UserError, match=r"notes\.txt: is not what an earlier run wrote"):
        write_explore(trial, copy=False)


def test_a_split_without_captions_has_a_page_without_them(trial):
    DatasetPaths(trial.conf.data_conf.dataset).text("evaluation").unlink()
    content = content_of(write_explore(trial, copy=False))
    assert content["captions"] == [] and all(clip["own"] == clip["best"] == [] for clip in content["clips"])


@pytest.mark.parametrize("copy", [True, False])
def test_a_missing_clip_is_named_and_nothing_is_written(trial, copy):
    clip = DatasetPaths(trial.conf.data_conf.dataset).audio("evaluation") / NAMES[3]
    clip.unlink()
    with pytest.raises(UserError, match=re.escape(f"{clip}: no such audio file")):
        write_explore(trial, copy=copy)
    assert not [path for path in trial.path.iterdir() if "explore" in path.name]


def test_a_full_disk_gives_one_error_line_and_keeps_the_old_page(trials, pages):
    folder = pages["mean"].parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with files_of(3000):  # bytes: pictures fit, sounds do not
        message = call("postprocessing/5_explore.py", "--trial", folder.parent, status=2)
    line = rf"error: {re.escape(str(folder))}: could not be written \(File too large\); is the disk full, .*\n"
    assert re.fullmatch(line, message), message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(folder.parent.glob(".explore*"))


@pytest.mark.parametrize("rate", [4000, 44100, 384_000])
def test_sounds_of_any_rate_and_channels_are_copied(tmp_path, rate):
    times = np.arange(2 * rate) / rate
    samples = 0.3 * np.sin(2 * np.pi * 300 * times)[:, None] * [1.0, 0.5]
    soundfile.write(tmp_path / "clip.wav", samples, rate)
    copy_sound(tmp_path / "clip.wav", tmp_path / "clip.ogg")
    copy, new_rate = soundfile.read(tmp_path / "clip.ogg")
    assert copy.ndim == 1 and new_rate == (rate if rate == 44100 else 48000)
    assert len(copy) == pytest.approx(2 * new_rate, abs=2)
    expected = 0.225 * np.sin(2 * np.pi * 300 * np.arange(len(copy)) / new_rate)
    assert np.abs(copy - expected)[new_rate // 10 : -new_rate // 10].max() < 0.03


def test_extra_words_are_on_the_page_as_far_as_they_fit(searches, monkeypatch, capsys):
    search = copy.copy(searches["mean"])
    search.words = VOCABULARY[:4]  # the others are extra ones then
    shown = page._shown_words(search, "evaluation")
    assert len(shown) == len([word for word in VOCABULARY[1:] if word != "<b>loud</b>"])
    assert not capsys.readouterr().out
    monkeypatch.setattr(page, "MAX_BYTES", 3 * 5 * len(search.stored.fids))
    assert page._shown_words(search, "evaluation") == [1, 2, 3, 4, 5]
    assert "words do not fit on the page; they are left out" in capsys.readouterr().out
