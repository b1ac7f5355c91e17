"""A folder's sounds ranked for a file of captions, by the real command, against plain loops over the score."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers import RATE, ROOT, SEARCH, WORDS, call
from tests.search.conftest import encoded_sounds, files_of
from utils.common.digests import file_digest
from utils.dataset.log_mel import log_mel_spectrogram
from utils.trial.checkpoint import checkpoint_bytes
from utils.trial.identity import identity
from utils.trial.names import BEST

CAPTIONS = ["A dog barks, barks!", "rain", "über a dog", "rain"]
SOUNDS = ["a.wav", "b same.wav", "c same.wav", " räin, & more.flac", "z.ogg"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of sounds that the trial has not seen, of which two are the same. Not to be changed."""
    sounds = tmp_path_factory.mktemp("challenge") / "sounds"
    (sounds / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(SOUNDS):
        samples = rng.normal(0, 0.02 * (i + 1), int(rng.integers(4000, 12000)))
        soundfile.write(sounds / name, samples, RATE)
    shutil.copy(sounds / "b same.wav", sounds / "c same.wav")
    shutil.copy(sounds / "a.wav", sounds / "deeper" / "not looked at.wav")
    (sounds / "notes.txt").write_text("no sound")
    return sounds


@pytest.fixture
def sounds(given, tmp_path):
    """A copy of these sounds, to be changed."""
    return shutil.copytree(given, tmp_path / "sounds")


@pytest.fixture(scope="module")
def trial(made):
    return made[0]


@pytest.fixture
def ranked(trial, given, tmp_path, monkeypatch):
    """ranked(captions, sounds, arguments) -> the rows of the ranking; `.encoded` are the sounds encoded for it."""
    def rank(captions=CAPTIONS, sounds=given, *arguments, status=0, out="out.csv", column="caption", room=None):
        with (tmp_path / "queries.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["file_name", column], *(["unknown.wav", text] for text in captions)])
        rank.encoded.clear()
        command = ["--trial", trial, "--queries", tmp_path / "queries.csv", "--clips", sounds]
        with files_of(room):
            rank.said = call(SEARCH, *command, "--csv", tmp_path / out, *arguments, status=status)
        if status == 0:
            with (tmp_path / out).open(newline="", encoding="utf-8") as stream:
                return list(csv.reader(stream))
        return None

    def apart(*script, sounds=given):
        """The same, in a process of its own, for the captions of before."""
        files = ["--queries", tmp_path / "queries.csv", "--clips", sounds, "--csv", tmp_path / "out.csv"]
        command = [sys.executable, *script, "--trial", trial, *files]
        return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)

    rank.apart, rank.encoded = apart, encoded_sounds(monkeypatch)
    return rank


@pytest.fixture
def plain_order(trial, plain_score):
    """plain_order(sounds, words) -> the names of a folder's sounds by their scores, by the definition; ties by name."""

    def order(sounds, words):
        scores = {}
        for path in sounds.iterdir():
            if path.suffix in (".wav", ".flac", ".ogg"):
                log_mel = log_mel_spectrogram(*soundfile.read(path, dtype="float32"))
                scores[path.name] = round(plain_score(trial, log_mel, words), 6)
        assert min(scores.values()) > 0 and len(set(scores.values())) == len(scores) - 1  # the two that are the same
        return sorted(scores, key=lambda name: (-scores[name], name))

    return order


def parts(tmp_path):
    return sorted(path.name for path in (tmp_path / "out_word_scores").glob("*") if path.name != ".lock")


def test_a_folder_is_ranked_by_the_defined_score(given, ranked, plain_order, tmp_path):
    rows = ranked(CAPTIONS, given, "--top", 3)
    assert rows[0] == ["caption_query", "file_name_1", "file_name_2", "file_name_3"]
    words = [["a", "dog", "barks", "barks"], ["rain"], ["über", "a", "dog"], ["rain"]]
    assert rows[1:] == [[text, *plain_order(given, known)[:3]] for text, known in zip(CAPTIONS, words, strict=True)]
    assert sorted(ranked.encoded) == sorted({*SOUNDS} - {"c same.wav"})  # which sounds as one that is encoded
    assert f"4 captions, 5 sounds -> {tmp_path / 'out.csv'}" in ranked.said
    every = ranked()  # ten, or as many as there are
    assert every[0] == ["caption_query", *(f"file_name_{k}" for k in range(1, 6))]
    assert [row[:4] for row in every[1:]] == rows[1:] and not ranked.encoded
    again = ranked(column="caption_query")
    assert again == every and "5 kept from an earlier run" in ranked.said


def test_sounds_are_sorted_by_name_for_a_caption_of_unknown_words(ranked, tmp_path):
    rows = ranked(["zorgly blip", "rain", "zorgly rain"])
    assert rows[1] == ["zorgly blip", *sorted(SOUNDS)]
    assert rows[3][1:] == rows[2][1:] != rows[1][1:]
    done = ranked.apart(SEARCH)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "warning: unknown words, left out: zorgly, blip",
        f"warning: {tmp_path / 'queries.csv'}: line 2: no word of 'zorgly blip' is known: the sounds are "
        "sorted by name",
    ]


# --- what is kept ----------------------------------------------------------------------------------------


def test_only_new_sounds_are_encoded(sounds, ranked, plain_order, tmp_path):
    first = ranked(CAPTIONS, sounds)
    kept = parts(tmp_path)
    assert len(kept) == 4
    shutil.move(sounds / "a.wav", sounds / "renamed.wav")
    assert ranked(["a dog barks", "rain"], sounds)[2][1:] == [
        {"a.wav": "renamed.wav"}.get(name, name) for name in first[2][1:]
    ]
    assert not ranked.encoded
    soundfile.write(sounds / "new.wav", np.random.default_rng(9).normal(0, 0.1, 5000), RATE)
    soundfile.write(sounds / "z.ogg", np.random.default_rng(8).normal(0, 0.1, 5000), RATE)
    assert ranked(CAPTIONS, sounds)[2][1:] == plain_order(sounds, ["rain"])
    assert sorted(ranked.encoded) == ["new.wav", "z.ogg"] and set(kept) < set(parts(tmp_path))
    (damaged,) = (tmp_path / "out_word_scores").glob(f"*-{file_digest(sounds / 'renamed.wav')}.npy")
    content = bytearray(damaged.read_bytes())
    content[140] ^= 1
    damaged.write_bytes(content)
    assert ranked(CAPTIONS, sounds)[2][1:] == plain_order(sounds, ["rain"])
    assert ranked.encoded == ["renamed.wav"]


def test_scores_of_another_model_are_dropped(trial, given, ranked, plain_order, tmp_path):
    ranked()
    before = parts(tmp_path)
    best, content = trial / BEST, (trial / BEST).read_bytes()
    try:
        other = torch.load(best, weights_only=True) | {"epoch": 2}
        words = other["model"]["text_enc.embedding.weight"]
        words[WORDS.index("rain")] = words[WORDS.index("dog")]
        best.write_bytes(checkpoint_bytes(other))
        assert other["trial"] == identity(trial)
        assert ranked()[2][1:] == plain_order(given, ["rain"])
    finally:
        best.write_bytes(content)
    assert "scores of 4 sounds by another model, or other settings, are dropped" in ranked.said
    assert len(ranked.encoded) == 4 and not set(before) & set(parts(tmp_path))
    (tmp_path / "out_word_scores" / "mine.npy").write_text("not of this command")
    ranked()
    assert before == [name for name in parts(tmp_path) if name != "mine.npy"]
    assert (tmp_path / "out_word_scores" / "mine.npy").read_text() == "not of this command"


KILLED = """
import os, runpy, signal, sys
from utils.search import folder_search as challenge
save_part = challenge.save_part
def save(part, scores):
    save_part(part, scores)
    if len(list(part.parent.glob("*.npy"))) == 2:
        part.with_suffix(".99.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
challenge.save_part = save
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_killed_ranking_resumes_to_the_same_result(ranked, tmp_path):
    ranked(out="undisturbed.csv")
    done = ranked.apart("-c", KILLED, SEARCH)
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out.csv").exists()
    assert len(parts(tmp_path)) == 3
    ranked()
    assert len(ranked.encoded) == 2 and "(3 kept from an earlier run)" in ranked.said  # two sounds share a part
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    assert len(parts(tmp_path)) == 4 and not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_leaves_nothing_half_written(ranked, tmp_path):
    ranked(status=2, room=64)
    assert "_word_scores/" in ranked.said and "is the disk full" in ranked.said and len(ranked.said.splitlines()) == 1
    assert not parts(tmp_path) and not (tmp_path / "out.csv").exists()
    ranked()
    before = (tmp_path / "out.csv").read_bytes()
    ranked(["rain"] * 20, status=2, room=64)
    assert f"{tmp_path / 'out.csv'}: could not be written" in ranked.said
    assert (tmp_path / "out.csv").read_bytes() == before and not list(tmp_path.rglob("*.tmp"))


def test_one_process_at_a_time_fills_the_scores(ranked, tmp_path):
    (tmp_path / "out_word_scores").mkdir()
    code = "import sys; from utils.common.lock import held\nwith held(sys.argv[1], ''): print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "out_word_scores" / ".lock")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        ranked(status=2)
        other.stdin.close()
    assert "another process is filling it; wait for that" in ranked.said


# --- what cannot be used ---------------------------------------------------------------------------------


def test_broken_sounds_are_refused_or_left_out_by_name(sounds, ranked, tmp_path):
    expected = ranked(CAPTIONS, sounds)
    (sounds / "m text.wav").write_text("no sound")
    soundfile.write(sounds / "m short.wav", np.zeros(600), RATE)
    (sounds / "m.m4a").write_bytes(b"")
    soundfile.write(sounds / "m new.wav", np.zeros(9000), RATE)
    before = (tmp_path / "out.csv").read_bytes()
    ranked(CAPTIONS, sounds, status=2)
    names = (("m.m4a", "convert it"), ("m short.wav", "too short"), ("m text.wav", "unreadable audio"))
    lines = ranked.said.splitlines()
    for line, (name, what) in zip(lines, names, strict=False):
        assert line.startswith(f"error: {sounds / name}: ") and what in line
    assert lines[3:] == [
        f"error: {sounds}: 3 sounds cannot be ranked: correct or remove them, or set "
        "clotho_dataset.on_bad_data=skip"
    ]
    assert (tmp_path / "out.csv").read_bytes() == before
    rows = ranked(CAPTIONS, sounds, "clotho_dataset.on_bad_data=skip")
    assert [[name for name in row if name != "m new.wav"] for row in rows[1:]] == [row[:6] for row in expected[1:]]
    assert "m new.wav" not in ranked.encoded  # nor was what is sound encoded in vain
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.wav").write_text("no sound")
    ranked(CAPTIONS, tmp_path / "empty", "clotho_dataset.on_bad_data=skip", status=2)
    assert f"{tmp_path / 'empty'}: no sound is left to be ranked" in ranked.said
    assert f"left out: {tmp_path / 'empty' / 'x.wav'}: unreadable audio" in ranked.said


def test_links_folders_and_pipes_are_refused_or_left_out_by_name(sounds, ranked):
    expected = ranked(CAPTIONS, sounds)
    (sounds / "annex.wav").symlink_to("../.git/annex/objects/x.wav")
    (sounds / "folder.ogg").mkdir()
    os.mkfifo(sounds / "pipe.flac")
    (sounds / "._a.wav").write_bytes(b"\0\5\x16\7" + bytes(99))  # macOS's own
    ranked(CAPTIONS, sounds, status=2)
    said = [("annex.wav", "is a broken link"), ("folder.ogg", "is a folder"), ("pipe.flac", "is a pipe")]
    *lines, last = ranked.said.splitlines()
    for line, (name, what) in zip(lines, said, strict=True):
        assert line.startswith(f"error: {sounds / name}: {what}")
    assert "3 sounds cannot be ranked" in last
    assert ranked(CAPTIONS, sounds, "clotho_dataset.on_bad_data=skip") == expected
    done = ranked.apart(SEARCH, "clotho_dataset.on_bad_data=skip", sounds=sounds)
    assert [f"warning: left out: {sounds / name}: {what}" in done.stderr for name, what in said] == [True] * 3


def test_a_tag_before_a_sound_does_not_change_its_scores(given, ranked, tmp_path):
    for name, before in (("alone.wav", b""), ("tagged.wav", b"ID3\4\0\0\0\0\2\x2c" + bytes(300))):
        (tmp_path / name).write_bytes(before + (given / "a.wav").read_bytes())
    assert ranked(["rain"], tmp_path)[1] == ["rain", "alone.wav", "tagged.wav"]  # a tie
    scores = [np.load(part) for part in (tmp_path / "out_word_scores").glob("*.npy")]
    assert len(scores) == 2 and np.array_equal(*scores)


def test_low_sample_rates_are_one_warning(ranked, tmp_path):
    for name in ("x.wav", "y.wav"):
        soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 4000), 8000)
    assert ranked(["rain"], tmp_path)[1] == ["rain", "x.wav", "y.wav"]
    (line,) = ranked.apart(SEARCH, sounds=tmp_path).stderr.splitlines()
    assert f"{tmp_path}: 2 sounds of a low sample rate, e.g. 'x.wav': nothing up to the 8000 Hz that" in line


def test_a_ranking_replaces_only_an_earlier_one(ranked, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("caption_query,file_name_1\nrain,somebody.wav\n")
    ranked(status=2)
    assert f"{out}: is not a ranking of an earlier run, or has changed since" in ranked.said
    assert out.read_text().endswith("somebody.wav\n") and not ranked.encoded
    out.unlink()
    ranked()
    ranked(["rain"])  # its own
    edited = out.read_text() + "rain,mine.wav\n"
    out.write_text(edited)
    ranked(status=2)
    assert f"{out}: is not a ranking" in ranked.said and out.read_text() == edited


def test_the_captions_are_not_replaced_by_their_ranking(trial, sounds, ranked, tmp_path, monkeypatch):
    """Not even where they are a ranking of ours, by whatever path they are named."""
    ranked()
    own, text = tmp_path / "out.csv", (tmp_path / "out.csv").read_text()
    (tmp_path / "hard.csv").hardlink_to(own)
    (tmp_path / "soft.csv").symlink_to(own)
    monkeypatch.chdir(tmp_path)
    for queries in (own, "./out.csv", "hard.csv", "soft.csv", sounds / ".." / "out.csv"):
        said = call(SEARCH, "--trial", trial, "--queries", queries, "--clips", sounds, "--csv", own, status=2)
        assert f"{own}: is the input {Path(queries)}; write the ranking elsewhere" in said
        assert own.read_text() == text


@pytest.mark.parametrize(
    "put",
    [
        lambda path, _: os.mkfifo(path),
        lambda path, elsewhere: path.symlink_to(elsewhere),
        lambda path, _: path.write_text("mine"),
    ],
)
def test_links_and_pipes_are_not_read_as_kept_scores(given, ranked, tmp_path, put):
    """For their folder it is refused; for those of a sound they are computed anew, and nothing is waited for."""
    folder, elsewhere = tmp_path / "out_word_scores", tmp_path / "elsewhere"
    put(folder, elsewhere)
    ranked(status=2)
    assert f"{folder}: is a link or not a folder" in ranked.said and not elsewhere.exists()
    folder.unlink()
    expected = ranked()
    part = next(folder.glob(f"*-{file_digest(given / 'a.wav')}.npy"))
    scores = np.load(part, allow_pickle=False)  # of the whole vocabulary, by id: what other captions will ask for
    assert scores.shape == (len(WORDS),) and scores.dtype == np.float32 and scores[0] == 0
    assert all(scores[WORDS.index(word)] > 0 for word in ("dog", "rain", "über"))
    part.replace(elsewhere)
    kept = elsewhere.read_bytes()
    put(part, elsewhere)
    assert ranked() == expected and ranked.encoded == ["a.wav"]
    assert part.read_bytes() == kept == elsewhere.read_bytes() and not part.is_symlink()
