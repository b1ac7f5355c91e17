"""Search on a small split of real sounds, against plain loops over the definition of the score."""

import importlib
import json
import math
import re
import shutil
import sys

import h5py
import numpy as np
import pytest
import soundfile
import soxr
import torch

from models.audio_encoders import CRNNEncoder
from models.core import CRNNWordModel
from models.text_encoders import WordEncoder
from tests.helpers import ROOT, matrix_of, of_all_words, record_files, record_preprocessing
from utils.common.errors import UserError
from utils.common.io import write_csv, write_json
from utils.common.steps import SCORING
from utils.conf.load import load_conf, save_conf
from utils.data_utils import Split
from utils.dataset.audio import probe_clip
from utils.dataset.index import TEXT_COLUMNS, clip_info
from utils.dataset.log_mel import log_mel_spectrogram
from utils.dataset.paths import DatasetPaths
from utils.evaluation_utils import score_split
from utils.search.clip_search import ClipSearch, write_play_list
from utils.search.text_search import best
from utils.trial.checkpoint import checkpoint_bytes
from utils.trial.identity import begin, identity
from utils.trial.names import BEST, CONF
from utils.trial.score_files import WordScores, save_word_scores

WORDS = ["<pad>", "a", "barks", "birds", "dog", "falls", "in", "rain", "the", "unused"]
# The last two clips sound the same; a name may hold anything that a file system takes.
FILES = [" a #1 & 100%.wav", "räin.wav", "<script>.wav", "bird's.wav", "same.wav", "same too.wav"]
RAW_TEXTS = [
    "A dog barks, in the rain.",
    "The rain falls; the rain falls!",
    "a dog barks",
    "Birdz",
    "rain",
    "in the rain",
]
TEXTS = ["a dog barks in the rain", "the rain falls the rain falls", "a dog barks", "birds", "rain", "in the rain"]
CLIPS = [0, 0, 1, 3, 4, 5]  # of each caption; clip 2 has none
SAMPLE_RATE = 16000
SCORES = "evaluation_word_scores.hdf5"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A trial of a model with random weights and its data set: settings, sounds, model and stored scores."""
    folder = tmp_path_factory.mktemp("search")
    paths, rng = DatasetPaths(str(folder / "data")), np.random.default_rng(0)
    paths.audio("evaluation").mkdir(parents=True)
    sounds = [rng.normal(0, 0.1, rng.integers(3000, 9000)).astype(np.float32) for _ in FILES[:-1]]
    sounds.append(sounds[-1])
    for name, sound in zip(FILES, sounds, strict=True):
        soundfile.write(paths.audio("evaluation") / name, sound, SAMPLE_RATE, subtype="FLOAT")
    overrides = [f"data_conf.dataset={paths.root}", "text_cleaning.corrections={birdz: birds}"]
    conf = load_conf(ROOT / "conf.yaml", overrides)
    torch.manual_seed(0)
    vectors = torch.randn(len(WORDS), 20)
    vectors[0] = 0
    model = CRNNWordModel(CRNNEncoder(64, 20), WordEncoder(vectors)).eval()
    config = conf.audio_logmel.config
    log_mels = [torch.from_numpy(log_mel_spectrogram(sound, SAMPLE_RATE, config)) for sound in sounds]
    with torch.no_grad():  # words near what the untrained CRNN makes of a sound: no score is 0
        model.text_enc.embedding.weight[1:] += 8 * model.audio_branch(log_mels[0][None])[0].mean(dim=0)
    split = Split(
        fids=[f"{i:016x}" for i in range(len(FILES))],
        audio=log_mels,
        tids=[f"tid{i}" for i in range(len(TEXTS))],
        captions=[torch.tensor([WORDS.index(word) for word in text.split()]) for text in TEXTS],
        caption_clips=np.array(CLIPS),
    )
    rows = []
    for tid, clip, raw_text, text in zip(split.tids, CLIPS, RAW_TEXTS, TEXTS, strict=True):
        rows.append([tid, split.fids[clip], FILES[clip], raw_text, text, json.dumps(text.split())])
    write_csv(paths.text("evaluation"), TEXT_COLUMNS, rows)
    clips = [probe_clip(paths.audio("evaluation") / name).clip for name in FILES]
    others = {"development": {}, "validation": {}}
    write_json(paths.audio_info, clip_info(others | {"evaluation": dict(zip(split.fids, clips, strict=True))}))
    record_preprocessing(conf)
    scores = of_all_words(model, split)
    assert (scores.by_word[1:] > 0.01).all()
    return {"conf": conf, "paths": paths, "model": model, "split": split, "scores": scores}


@pytest.fixture
def trial(data, tmp_path):
    """The trial directory, to be spoiled."""
    folder = tmp_path / "trial"
    folder.mkdir()
    save_conf(data["conf"], folder / CONF)
    begin(folder, data["conf"], {})
    content = {"model": data["model"].state_dict(), "words": WORDS, "conf": {}, "history": [], "epoch": 3}
    (folder / BEST).write_bytes(checkpoint_bytes(content | {"trial": identity(folder)}))
    stored = WordScores(data["scores"].by_word.numpy(), WORDS, data["split"].fids, epoch=3)
    save_word_scores(folder / SCORES, stored)
    return sign(folder)


def sign(trial):
    """Let the word scores, changed, pass for what was scored."""
    record_files(trial, SCORING, [trial / BEST], [trial / SCORES])
    return trial


@torch.no_grad()
def plain_score(data, clip, text):
    """S of a clip and a text, by its definition as published."""
    frames = data["model"].audio_branch(data["split"].audio[clip][None])[0]
    words = data["model"].text_branch(torch.tensor([[WORDS.index(word) for word in text.split()]]))[0]
    return sum(max(0.0, float(a @ w)) for a in frames for w in words) / (len(frames) * len(words))


def by_rank(scores):
    """Indices, highest score first, ties by index."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@pytest.mark.parametrize("text", ["dog", "a dog barks in the rain", "rain rain rain falls", "unused birds"])
def test_clips_are_ranked_by_the_defined_score(data, trial, text):
    expected = [plain_score(data, clip, text) for clip in range(len(FILES))]
    hits = ClipSearch.open(trial, "evaluation").by_text(text, top=4)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert [int(hit.fid, 16) for hit in hits] == by_rank(np.round(expected, 6))[:4]
    for hit in hits:
        clip = int(hit.fid, 16)
        assert hit.score == pytest.approx(expected[clip], abs=1e-6)
        assert hit.path == data["paths"].audio("evaluation") / FILES[clip] and hit.path.is_file()
        assert hit.seconds == pytest.approx(soundfile.info(hit.path).duration, abs=1e-6)
        assert hit.captions == [text for text, owner in zip(RAW_TEXTS, CLIPS, strict=True) if owner == clip]


def test_a_caption_of_the_split_gets_its_stored_scores(data, trial):
    search = ClipSearch.open(trial)
    for caption, raw_text in enumerate(RAW_TEXTS):
        for hit in search.by_text(raw_text, top=len(FILES)):
            assert hit.score == pytest.approx(matrix_of(data["scores"])[int(hit.fid, 16), caption], abs=1e-6)
        assert search.unknown_words(raw_text) == []


def test_scores_of_all_words_leave_the_captions_scores_as_they_are(data):
    own_words = score_split(data["model"], data["split"]).cross
    assert own_words.by_word.shape == (8, 6) and data["scores"].by_word.shape == (len(WORDS), 6)
    np.testing.assert_allclose(matrix_of(data["scores"]), matrix_of(own_words), atol=1e-7)


def test_captions_are_ranked_by_the_defined_score(data, trial):
    search = ClipSearch.open(trial)
    for clip in (0, 3):
        expected = [plain_score(data, clip, text) for text in TEXTS]
        hits = search.by_audio(data["paths"].audio("evaluation") / FILES[clip], top=5)
        assert [int(hit.tid[3:]) for hit in hits] == by_rank(expected)[:5]
        for hit in hits:
            caption = int(hit.tid[3:])
            assert hit.score == pytest.approx(expected[caption], abs=1e-6)
            assert hit.score == pytest.approx(matrix_of(data["scores"])[clip, caption], abs=1e-6)
            assert hit.text == RAW_TEXTS[caption]


def test_unknown_words_do_not_count(trial):
    search = ClipSearch.open(trial)
    assert search.by_text("The xylophone, rain xylophone zither") == search.by_text("the rain")
    assert search.unknown_words("The xylophone, rain xylophone zither") == ["xylophone", "zither"]
    with pytest.raises(UserError, match=r"no word of the query is known \(xylophone, zither\); .*vocab_info\.json"):
        search.by_text("xylophone zither")
    for query in ("", "  ", "?!", "<>", "– -"):
        with pytest.raises(UserError, match="holds no words"):
            search.by_text(query)
    assert search.unknown_words("<pad>") == ["pad"]  # the padding is no word


def test_equal_clips_keep_the_splits_order(trial):
    for query in ("rain", "a dog barks in the rain", "the the falls"):
        hits = {hit.fid: hit for hit in ClipSearch.open(trial).by_text(query, top=100)}
        assert len(hits) == len(FILES) and hits[f"{4:016x}"].score == hits[f"{5:016x}"].score
        assert hits[f"{5:016x}"].rank == hits[f"{4:016x}"].rank + 1


@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_best_equals_a_stable_sort(levels):
    rng = np.random.default_rng(levels)
    for size in (1, 2, 7, 200):
        scores = rng.integers(0, levels, size).astype(np.float32)
        for top in (1, 2, size, size + 5):
            assert best(scores, top).tolist() == by_rank(scores)[:top]


def test_a_split_of_a_single_clip(data, trial):
    stored = WordScores(data["scores"].by_word[:, 2:3].numpy(), WORDS, [f"{2:016x}"], epoch=3)
    save_word_scores(trial / SCORES, stored)
    (hit,) = ClipSearch.open(sign(trial)).by_text("rain", top=5)
    assert hit.fid == f"{2:016x}" and hit.captions == []
    assert hit.score == pytest.approx(plain_score(data, 2, "rain"), abs=1e-6)


def test_top_and_split_are_checked(trial):
    for top in (0, -1):
        with pytest.raises(UserError, match="must be at least 1"):
            ClipSearch.open(trial).by_text("rain", top)
    with pytest.raises(UserError, match=r"'\.\./x': not a split of .*development, validation, evaluation"):
        ClipSearch.open(trial, "../x")
    with pytest.raises(UserError, match=r"no such file that postprocessing/1_xmodal_scores\.py recorded; run that"):
        ClipSearch.open(trial, "validation").by_text("rain")


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
    stored = WordScores(data["scores"].by_word.numpy(), WORDS, data["split"].fids, epoch=2)
    save_word_scores(trial / SCORES, stored)
    with pytest.raises(UserError, match=r"evaluation_word_scores.* is not as .*1_xmodal_scores\.py wrote it; run that"):
        ClipSearch.open(trial).by_text("rain")
    with pytest.raises(UserError, match=r"evaluation_word_scores.* epoch 2, but the best .* 3; run .*1_xmodal_scores"):
        ClipSearch.open(sign(trial)).by_text("rain")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def replace(name, content):
    def change(path):
        with h5py.File(path, "a") as store:
            del store[name]
            if content is not None:
                store[name] = content

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "not a readable HDF5 file"),
        (replace("words", None), "words is not a data set of this file"),
        (replace("fids", [1.0]), "fids holds float64, not texts"),
        (replace("scores", np.zeros((3, 6), np.float32)), "do not belong together"),
        (replace("scores", np.zeros((len(WORDS), 6))), "do not belong together"),
    ],
)
def test_damaged_scores_are_refused(trial, spoil, message):
    spoil(trial / SCORES)
    with pytest.raises(UserError, match=message):
        ClipSearch.open(sign(trial)).by_text("rain")


@pytest.mark.parametrize(
    "change",
    [
        *({"file_name": name} for name in ("../x.wav", "/x.wav", "..", "", "a/b.wav", 3)),
        *({"seconds": seconds} for seconds in (float("nan"), -1, "long", None)),
        None,
    ],
)
def test_invalid_or_missing_clips_are_refused(data, trial, monkeypatch, change):
    info = json.loads(data["paths"].audio_info.read_text(encoding="utf-8"))
    clips = info["evaluation"]["clips"]
    if change is None:
        del clips[f"{1:016x}"]
    else:
        clips[f"{1:016x}"].update(change)
    monkeypatch.setattr("utils.dataset.index.read_json", lambda path, made_by: info)
    refused = r"which was scored; run|leads out|not the name of|audio_info\.json: not as preprocessing"
    with pytest.raises(UserError, match=refused):
        ClipSearch.open(trial).by_text("rain", top=6)


# --- sounds that cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(600), SAMPLE_RATE, "too short.*0.06 s"),
        (np.zeros(9000), 10, "a sample rate of 10 Hz is too low to be resampled"),
        (np.zeros(0), SAMPLE_RATE, "no samples"),
        (np.full(9000, np.nan), SAMPLE_RATE, "NaN"),
    ],
)
def test_unfit_sounds_are_refused(trial, tmp_path, samples, rate, message):
    path = tmp_path / "unfit.wav"
    soundfile.write(path, samples, rate, subtype="FLOAT")
    with pytest.raises(UserError, match=rf"^{path}: .*{message}"):
        ClipSearch.open(trial).by_audio(path)


@pytest.mark.filterwarnings("ignore:.*holds nothing above")
@pytest.mark.parametrize("clip", [0, 3])
def test_a_sound_finds_the_same_at_any_sample_rate(data, trial, tmp_path, clip):
    sound, _ = soundfile.read(data["paths"].audio("evaluation") / FILES[clip], dtype="float32")
    search = ClipSearch.open(trial)
    expected = search.by_audio(data["paths"].audio("evaluation") / FILES[clip])
    for rate in (22050, 44100, 96000):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, soxr.resample(sound, SAMPLE_RATE, rate, quality="VHQ"), rate, subtype="FLOAT")
        hits = search.by_audio(path)
        assert [hit.tid for hit in hits] == [hit.tid for hit in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=0.01)


def test_a_sound_is_resampled_to_the_trials_rate_or_that_of_most_clips(data, trial, monkeypatch):
    config, info = data["conf"].audio_logmel.config, json.loads(data["paths"].audio_info.read_text(encoding="utf-8"))
    path = data["paths"].audio("evaluation") / FILES[0]
    sound, _ = soundfile.read(path, dtype="float32")
    monkeypatch.setattr("utils.dataset.index.read_json", lambda path, made_by: info)
    clips = list(info["evaluation"]["clips"].values())
    for changed, rate in ((2, SAMPLE_RATE), (4, 44100)):
        for entry in clips[:changed]:
            entry["sample_rate"] = 44100
        resampled = soxr.resample(sound, SAMPLE_RATE, rate, quality="HQ")
        log_mel = ClipSearch.open(trial).scorer.sounds.read(path)
        np.testing.assert_allclose(log_mel, log_mel_spectrogram(resampled, rate, config), atol=1e-4)
    search = ClipSearch.open(trial)
    search.scorer.conf = load_conf(trial / CONF, ["audio_logmel.sample_rate=22050"])
    resampled = soxr.resample(sound, SAMPLE_RATE, 22050, quality="HQ")
    log_mel = search.scorer.sounds.read(path)
    np.testing.assert_allclose(log_mel, log_mel_spectrogram(resampled, 22050, config), atol=1e-4)


def test_a_low_sample_rate_is_warned_of(trial, tmp_path):
    soundfile.write(tmp_path / "low.wav", np.random.default_rng(0).normal(0, 0.1, 9000), 8000)
    with pytest.warns(match=r"low\.wav: holds nothing above 4000 Hz, but log-mels go up to 8000 Hz"):
        assert len(ClipSearch.open(trial).by_audio(tmp_path / "low.wav")) == 5


def test_other_files_are_refused(trial, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "x.m4a").write_text("no sound")
    for name, message in (
        ("text.wav", "unreadable audio"),
        ("x.m4a", r"convert it to \.wav or \.flac"),
        ("absent.wav", r"no such file; name a \.wav, .* or \.caf file"),
        (".", "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            ClipSearch.open(trial).by_audio(tmp_path / name)


def test_the_shortest_sound_that_is_accepted_gets_scores(trial, tmp_path):
    soundfile.write(tmp_path / "short.wav", 0.1 * np.ones(960), SAMPLE_RATE)  # 0.06 s: 4 frames
    assert len(ClipSearch.open(trial).by_audio(tmp_path / "short.wav", top=100)) == len(TEXTS)


# --- play lists ------------------------------------------------------------------------------------------


def test_play_list(data, trial, tmp_path, monkeypatch):
    folder = data["paths"].audio("evaluation")
    monkeypatch.chdir(folder.parent)
    found = ClipSearch.open(trial).by_text("rain", top=6)
    hits = [hit._replace(path=hit.path.relative_to(folder.parent)) for hit in found]
    path = tmp_path / "lists" / "found.m3u8"
    write_play_list(path, hits)
    first, *lines = path.read_bytes().decode("utf-8").splitlines()
    assert first == "#EXTM3U"
    assert len(lines) == 12
    for hit, note, file in zip(hits, lines[::2], lines[1::2], strict=True):
        assert note == f"#EXTINF:{round(hit.seconds)},{hit.path.name}"
        assert file == str(folder / hit.path.name)
        assert soundfile.info(file).duration == pytest.approx(hit.seconds, abs=1e-6)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".found.m3u8.written.json", "found.m3u8"]


@pytest.mark.parametrize("name", ["a\nb.wav", "a\rb.wav", "a\u2028b.wav", "a\udc80.wav"])
def test_a_path_that_breaks_the_play_list_leaves_the_old_one(trial, tmp_path, name):
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\nold\n")
    hits = ClipSearch.open(trial).by_text("rain", top=2)
    with pytest.raises(UserError, match="a play list cannot hold this path"):
        write_play_list(path, [hits[0], hits[1]._replace(path=hits[1].path.with_name(name))])
    assert path.read_text() == "#EXTM3U\nold\n"


def test_a_play_list_replaces_only_an_earlier_one(data, trial, tmp_path):
    hits, clip = ClipSearch.open(trial).by_text("rain", top=2), tmp_path / "clip.wav"
    shutil.copy(data["paths"].clip("evaluation", hits[0].path.name), clip)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\nold\n")
    (tmp_path / "link.m3u8").symlink_to("list.m3u8")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "folder").mkdir()
    before = clip.read_bytes()
    for name, what in (
        ("clip.wav", "is not a play list of an earlier run"),
        ("notes.txt", "is not a play list of an earlier run"),
        ("list.m3u8", "is not a play list of an earlier run"),  # but somebody's
        ("link.m3u8", "is not a plain file"),
        ("folder", "is not a plain file"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path / name))}: {what}.* and is not replaced"):
            write_play_list(tmp_path / name, hits)
    assert clip.read_bytes() == before and (tmp_path / "notes.txt").read_text() == "notes"
    assert (tmp_path / "link.m3u8").is_symlink() and (tmp_path / "list.m3u8").read_text() == "#EXTM3U\nold\n"
    own = tmp_path / "own.m3u8"
    write_play_list(own, hits)
    write_play_list(own, hits[:1])
    assert len(own.read_text().splitlines()) == 3
    own.write_text(own.read_text() + "mine.wav\n")
    with pytest.raises(UserError, match=r"own\.m3u8: is not a play list .*has changed since"):
        write_play_list(own, hits)
    assert own.read_text().endswith("mine.wav\n")


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


def test_settings_are_recognised_by_their_section(data, trial, command):
    settings = ("data_conf.eval_data=evaluation", f"data_conf.dataset={data['paths'].root}")
    expected = command("the rain = x")
    assert expected.err == "unknown words, left out: x\n"
    assert command(settings[0], "the rain = x", settings[1]) == command("the rain = x", *settings) == expected
    with pytest.raises(UserError, match=r"data_conf\.eval_date: unknown key"):
        command("rain", "data_conf.eval_date=evaluation")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a", "dog"),
        ("rain", "--audio", "x.wav"),
        ("--top", "3"),
        ("data_conf.cache=disk",),
        ("no.section=1", "rain"),
    ],
)
def test_one_query_or_one_sound(command, arguments):
    with pytest.raises(UserError, match=r"either one QUERY, in quotes, or --audio FILE is needed, but there are"):
        command(*arguments)


def test_a_play_list_of_captions_is_refused(command, tmp_path):
    with pytest.raises(UserError, match="--play-list"):
        command("--audio", "x.wav", "--play-list", tmp_path / "x.m3u8")


def test_control_characters_are_escaped(data, command, monkeypatch):
    info = json.loads(data["paths"].audio_info.read_text(encoding="utf-8"))
    info["evaluation"]["clips"][f"{1:016x}"]["file_name"] = "\x1b[2J\r\nräin.wav"
    monkeypatch.setattr("utils.dataset.index.read_json", lambda path, made_by: info)
    printed = command("rain", "--top", 6).out
    assert "  \\u001b[2J\\u000d\\u000aräin.wav  " in printed and len(printed.splitlines()) == 7
