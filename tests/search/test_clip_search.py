"""Search on a small split of clips with odd names, against plain loops over the definition of the score."""

import importlib
import json
import math
import re
import shutil
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

from tests.helpers import ODD_NAMES, RATE, WORDS, record_files
from utils.common.errors import UserError
from utils.common.steps import SCORING
from utils.conf.load import load_conf
from utils.dataset.log_mel import log_mel_spectrogram
from utils.dataset.paths import DatasetPaths
from utils.search.clip_search import ClipSearch, write_play_list
from utils.search.text_search import best
from utils.trial.names import BEST, CONF
from utils.trial.score_files import WordScores, save_word_scores
from utils.trial.trial import Trial

SCORES = "evaluation_word_scores.hdf5"


@pytest.fixture(scope="module")
def data(made):
    """What the trial's evaluation split holds: clips in its order, captions, log-mels and word scores."""
    trial, conf = made
    paths = DatasetPaths(conf.data_conf.dataset)
    with h5py.File(trial / SCORES) as store:
        fids, scores = store["fids"].asstr()[()].tolist(), store["scores"][()]
    with h5py.File(paths.log_mels("evaluation")) as store:
        log_mels = {fid: store[fid][()] for fid in fids}
    captions = pd.read_csv(paths.text("evaluation"), dtype=str)
    folder, names = paths.audio("evaluation"), captions.groupby("fid")["file_name"].first()
    return SimpleNamespace(
        conf=conf, paths=paths, folder=folder, captions=captions,
        fids=fids, names=names, log_mels=log_mels, scores=scores,
    )  # fmt: skip


@pytest.fixture
def trial(made, tmp_path):
    """A copy of the trial directory, to be spoiled."""
    return shutil.copytree(made[0], tmp_path / "trial")


def put_scores(trial, scores, fids, epoch=1):
    """Put other word scores into a trial."""
    save_word_scores(trial / SCORES, WordScores(scores, WORDS, fids, epoch))


def sign(trial):
    """Let the word scores, changed, pass for what was scored."""
    record_files(trial, SCORING, [trial / BEST], [trial / SCORES])
    return trial


def by_rank(scores):
    """Indices, highest score first, ties by index."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("dog", "dog"),
        ("A dog barks; in ÜBER-rain?", "a dog barks"),
        ("Rain rain: RAYN, barks!", "rain rain rain barks"),
        ("a supercalifragilistic dog", "a supercalifragilistic dog"),
    ],
)
def test_clips_are_ranked_by_the_defined_score(data, trial, plain_score, monkeypatch, query, words):
    search = ClipSearch.open(trial, "evaluation")
    monkeypatch.setitem(search.conf.text_cleaning.corrections, "rayn", "rain")
    expected = [plain_score(trial, data.log_mels[fid], words.split()) for fid in data.fids]
    assert min(expected) > 0 and len(set(np.round(expected, 6))) == len(ODD_NAMES)
    hits = search.by_text(query, top=4)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert [data.fids.index(hit.fid) for hit in hits] == by_rank(expected)[:4]
    for hit in hits:
        assert hit.score == pytest.approx(expected[data.fids.index(hit.fid)], abs=1e-6)
        assert hit.path == data.folder / data.names[hit.fid] and hit.path.is_file() and hit.seconds == 0.5
        assert hit.captions == data.captions["raw_text"][data.captions["fid"] == hit.fid].tolist()


def test_captions_are_ranked_by_the_defined_score(data, trial, plain_score):
    search = ClipSearch.open(trial)
    for name in (ODD_NAMES[0], ODD_NAMES[3]):
        sound, _ = soundfile.read(data.folder / name, dtype="float32")
        log_mel = log_mel_spectrogram(sound, RATE, data.conf.audio_logmel.config)
        expected = [plain_score(trial, log_mel, text.split()) for text in data.captions["text"]]
        hits = search.by_audio(data.folder / name, top=5)
        assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-6)
        for hit in hits:
            caption = data.captions["tid"].tolist().index(hit.tid)
            assert hit.score == pytest.approx(expected[caption], abs=1e-6)
            assert hit.text == data.captions["raw_text"][caption]


def test_unknown_words_do_not_count(trial):
    search = ClipSearch.open(trial)
    assert search.by_text("The xylophone, rain xylophone zither a") == search.by_text("rain a")
    assert search.unknown_words("A xylophone, rain xylophone zither") == ["xylophone", "zither"]
    with pytest.raises(UserError, match=r"no word of the query is known \(xylophone, zither\); .*vocab_info\.json"):
        search.by_text("xylophone zither")
    trained = load_conf(trial / CONF, ["CRNNWordModel.text_enc.trainable=true"])
    with pytest.raises(UserError, match=r"\(zither\); .* lists known words, it trained its word vectors"):
        ClipSearch(Trial(trial, trained)).by_text("zither")
    for query in ("", "  ", "?!", "<>", "– -"):
        with pytest.raises(UserError, match="holds no words"):
            search.by_text(query)
    assert search.unknown_words("<pad>") == ["pad"]  # the padding is no word


def test_equal_clips_keep_the_splits_order(data, trial):
    scores = data.scores.copy()
    scores[:, 4] = scores[:, 1]
    put_scores(trial, scores, data.fids)
    search = ClipSearch.open(sign(trial))
    for query in ("rain", "a dog barks über rain", "rain rain barks"):
        hits = {hit.fid: hit for hit in search.by_text(query, top=100)}
        twins = [hits[data.fids[clip]] for clip in (1, 4)]
        assert len(hits) == len(ODD_NAMES) and twins[0].score == twins[1].score
        assert twins[1].rank == twins[0].rank + 1


@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_best_equals_a_stable_sort(levels):
    rng = np.random.default_rng(levels)
    for size in (1, 2, 7, 200):
        scores = rng.integers(0, levels, size).astype(np.float32)
        for top in (1, 2, size, size + 5):
            assert best(scores, top).tolist() == by_rank(scores)[:top]


def test_a_split_of_a_single_clip_without_captions(data, trial, monkeypatch):
    monkeypatch.setattr(DatasetPaths, "text", lambda *_: trial / "absent")
    put_scores(trial, data.scores[:, 2:3], data.fids[2:3])
    (hit,) = ClipSearch.open(sign(trial)).by_text("rain", top=5)
    assert hit.fid == data.fids[2] and hit.captions == []
    assert hit.score == pytest.approx(data.scores[WORDS.index("rain"), 2], abs=1e-6)


def test_top_and_split_are_checked(trial):
    for top in (0, -1):
        with pytest.raises(UserError, match="must be at least 1"):
            ClipSearch.open(trial).by_text("rain", top)
    with pytest.raises(UserError, match=r"'\.\./x': not a split of .*development, evaluation"):
        ClipSearch.open(trial, "../x")
    (trial / SCORES).rename(trial / "development_word_scores.hdf5")
    record_files(trial, SCORING, [], [trial / "development_word_scores.hdf5"])
    with pytest.raises(UserError, match=r"no such file that postprocessing/1_xmodal_scores\.py recorded; run that"):
        ClipSearch.open(trial).by_text("rain")


# --- what is stored --------------------------------------------------------------------------------------


def test_only_the_querys_words_are_read(trial):
    path = trial / SCORES
    with h5py.File(path, "a") as store:
        assert store["scores"].chunks is None and store["scores"].dtype == np.float32
        store["scores"][WORDS.index("dog"), 1] = np.nan
    search = ClipSearch.open(sign(trial))
    assert all(math.isfinite(hit.score) for hit in search.by_text("a rain", top=6))
    with pytest.raises(UserError, match="scores are NaN"):
        search.by_text("a dog")


def test_stale_scores_are_refused(data, trial):
    put_scores(trial, data.scores, data.fids, epoch=0)
    with pytest.raises(UserError, match=r"evaluation_word_scores.* is not as .*1_xmodal_scores\.py wrote it; run that"):
        ClipSearch.open(trial).by_text("rain")
    with pytest.raises(UserError, match=r"evaluation_word_scores.* epoch 0, but the best .* 1; run .*1_xmodal_scores"):
        ClipSearch.open(sign(trial)).by_text("rain")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words", None, "words is not a data set of this file"),
        ("fids", [1.0], "fids holds float64, not texts"),
        ("scores", np.zeros((3, 5), np.float32), "do not belong together"),
        ("scores", np.zeros((len(WORDS), 5)), "do not belong together"),
    ],
)
def test_damaged_scores_are_refused(trial, name, content, message):
    with h5py.File(trial / SCORES, "a") as store:
        del store[name]
        if content is not None:
            store[name] = content
    with pytest.raises(UserError, match=message):
        ClipSearch.open(sign(trial)).by_text("rain")


@pytest.fixture
def info(data, monkeypatch):
    """The content of audio_info.json as searches read it, to be changed."""
    info = json.loads(data.paths.audio_info.read_text(encoding="utf-8"))
    monkeypatch.setattr("utils.dataset.index.read_json", lambda path, made_by: info)
    return info["evaluation"]["clips"]


@pytest.mark.parametrize("change", [{"file_name": "../x.wav"}, {"file_name": ""}, {"seconds": math.nan}, None])
def test_invalid_or_missing_clips_are_refused(data, trial, info, change):
    if change is None:
        del info[data.fids[1]]
    else:
        info[data.fids[1]] |= change
    refused = r"which was scored; run|leads out|not the name of|audio_info\.json: not as preprocessing"
    with pytest.raises(UserError, match=refused):
        ClipSearch.open(trial).by_text("rain", top=6)


# --- sounds that cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short.wav", "too short.*0.06 s"),
        ("text.wav", "unreadable audio"),
        ("absent.wav", r"no such file; name a \.wav, .* or \.caf file"),
        ("folder", "no such file"),
    ],
)
def test_unfit_sounds_are_refused(trial, tmp_path, name, message):
    soundfile.write(tmp_path / "short.wav", np.zeros(600), RATE)
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: .*{message}"):
        ClipSearch.open(trial).by_audio(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*holds nothing above")
def test_a_sound_finds_the_same_at_any_sample_rate(trial, tmp_path):
    sound = np.random.default_rng(0).normal(0, 0.1, RATE // 2)
    search, found = ClipSearch.open(trial), []
    for rate in (RATE, 22050, 44100, 96000):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, soxr.resample(sound, RATE, rate, quality="VHQ"), rate, subtype="FLOAT")
        found.append(sorted(search.by_audio(path, top=100), key=lambda hit: hit.tid))
    for hits in found[1:]:
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in found[0]], atol=0.01)


def test_a_sound_is_resampled_to_the_trials_rate_or_that_of_most_clips(data, trial, info, tmp_path):
    sound, config = np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32), data.conf.audio_logmel.config
    soundfile.write(tmp_path / "sound.wav", sound, RATE, subtype="FLOAT")

    def assert_read_at(rate, search):
        resampled = soxr.resample(sound, RATE, rate, quality="HQ")
        log_mel = search.scorer.sounds.read(tmp_path / "sound.wav")
        np.testing.assert_allclose(log_mel, log_mel_spectrogram(resampled, rate, config), atol=1e-4)

    for changed, rate in ((2, RATE), (4, 44100)):
        for entry in list(info.values())[:changed]:
            entry["sample_rate"] = 44100
        assert_read_at(rate, ClipSearch.open(trial))
    search = ClipSearch.open(trial)
    search.scorer.conf = load_conf(trial / CONF, ["audio_logmel.sample_rate=22050"])
    assert_read_at(22050, search)


def test_a_low_sample_rate_is_warned_of(trial, tmp_path):
    soundfile.write(tmp_path / "low.wav", np.random.default_rng(0).normal(0, 0.1, 9000), 8000)
    with pytest.warns(match=r"low\.wav: holds nothing above 4000 Hz, but log-mels go up to 8000 Hz"):
        assert len(ClipSearch.open(trial).by_audio(tmp_path / "low.wav")) == 5


def test_the_shortest_sound_that_is_accepted_gets_scores(data, trial, tmp_path):
    soundfile.write(tmp_path / "short.wav", 0.1 * np.ones(960), RATE)  # 0.06 s: 4 frames
    assert len(ClipSearch.open(trial).by_audio(tmp_path / "short.wav", top=100)) == len(data.captions)


# --- play lists ------------------------------------------------------------------------------------------


def test_play_list(data, trial, tmp_path, monkeypatch):
    monkeypatch.chdir(data.folder.parent)
    found = ClipSearch.open(trial).by_text("rain", top=6)
    hits = [hit._replace(path=hit.path.relative_to(data.folder.parent)) for hit in found]
    path = tmp_path / "lists" / "found.m3u8"
    write_play_list(path, hits)
    first, *lines = path.read_bytes().decode("utf-8").splitlines()
    assert first == "#EXTM3U" and len(lines) == 2 * len(hits)
    for hit, note, file in zip(hits, lines[::2], lines[1::2], strict=True):
        assert note == f"#EXTINF:{round(hit.seconds)},{hit.path.name}"
        assert file == str(data.folder / hit.path.name)
        assert soundfile.info(file).duration == pytest.approx(hit.seconds, abs=1e-6)
    write_play_list(path, hits[:1])
    assert len(path.read_text().splitlines()) == 3
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".found.m3u8.written.json", "found.m3u8"]


@pytest.mark.parametrize("name", ["a\nb.wav", "a\rb.wav", "a\u2028b.wav", "a\udc80.wav"])
def test_a_path_that_breaks_the_play_list_leaves_the_old_one(trial, tmp_path, name):
    path, hits = tmp_path / "list.m3u8", ClipSearch.open(trial).by_text("rain", top=2)
    write_play_list(path, hits)
    before = path.read_text()
    with pytest.raises(UserError, match="a play list cannot hold this path"):
        write_play_list(path, [hits[0], hits[1]._replace(path=hits[1].path.with_name(name))])
    assert path.read_text() == before


def test_a_play_list_replaces_only_an_earlier_one(trial, tmp_path):
    (tmp_path / "list.m3u8").write_text("#EXTM3U\nold\n")
    with pytest.raises(UserError, match=r"list\.m3u8: is not a play list of an earlier run.* and is not replaced"):
        write_play_list(tmp_path / "list.m3u8", ClipSearch.open(trial).by_text("rain"))
    assert (tmp_path / "list.m3u8").read_text() == "#EXTM3U\nold\n"


# --- the command, in this process ------------------------------------------------------------------------


@pytest.fixture
def command(trial, monkeypatch, capsys):
    """command(argument, ...) -> what 4_search.py prints on standard output and on standard error."""
    script = importlib.import_module("postprocessing.4_search")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["4_search.py", "--trial", str(trial), *map(str, arguments)])
        script.main()
        return capsys.readouterr()

    return run


def test_settings_are_recognised_by_their_section(data, command):
    settings = ("data_conf.eval_data=evaluation", f"data_conf.dataset={data.paths.root}")
    expected = command("a rain = x")
    assert expected.err == "unknown words, left out: x\n"
    assert command(settings[0], "a rain = x", settings[1]) == command("a rain = x", *settings) == expected
    with pytest.raises(UserError, match=r"data_conf\.eval_date: unknown key"):
        command("rain", "data_conf.eval_date=evaluation")


TO_RANK = ("--queries", "q.csv", "--clips", "x", "--csv", "o.csv")
NO_QUERY = "either one QUERY, in quotes, or --audio FILE is needed, but there are "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), f"{NO_QUERY}none"),
        (("a", "dog"), f"{NO_QUERY}2 texts: 'a', 'dog'"),
        (("rain", "--audio", "x.wav"), f"{NO_QUERY}1 text: 'rain'"),
        (("--top", "3"), NO_QUERY),
        (("data_conf.cache=disk",), NO_QUERY),
        (("no.section=1", "rain"), NO_QUERY),
        (("--audio", "x.wav", "--play-list", "x.m3u8"), "--play-list: a list of clips; --audio finds captions"),
        (TO_RANK[:4], "--csv is missing: --queries FILE, --clips DIR and --csv OUT go"),
        (TO_RANK[4:], "--queries is missing"),
        (("rain", *TO_RANK), "'rain': plays no part beside --queries"),
        (("--json", *TO_RANK), "--json: plays no part beside --queries"),
        (("--top", "0", *TO_RANK), "--top 0: must be at least 1"),
    ],
)
def test_the_options_go_together(command, arguments, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        command(*arguments)


def test_control_characters_are_escaped(data, command, info):
    info[data.fids[1]]["file_name"] = "\x1b[2J\r\nräin.wav"
    printed = command("rain", "--top", 6).out
    assert "  \\u001b[2J\\u000d\\u000aräin.wav  " in printed and len(printed.splitlines()) == 6
