"""The real commands never mix trials, data sets or word vectors."""

import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tests.helpers import (
    ROOT,
    SEARCH,
    STAGES,
    call,
    call_both,
    only_trial,
    read_until,
    run_pipeline,
    started,
    tiny_conf,
)
from utils.conf.load import load_conf
from utils.trial.dataset_provenance import sources

STEPS, (SCORE, MEASURE, REPORT) = STAGES[1:5], STAGES[6:]
EXPLORE = "postprocessing/5_explore.py"
RANDOM = "criteria.TripletLoss.sampling=random-NS"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of semi-hard-NS. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    conf = tiny_conf(folder)
    settings = yaml.safe_load(conf.read_text()) | {"param_conf": {"num_epoch": 1, "batch_size": 8}}
    conf.write_text(yaml.safe_dump(settings))
    run_pipeline(conf)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, whose trial goes by the copy of the data."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for conf in (tmp_path / "conf.yaml", only_trial(tmp_path) / "conf.yaml"):
        conf.write_text(conf.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path


def refused(script, *arguments):
    """The one error line that a command ends with."""
    message = call(script, *arguments, status=2)
    assert len(message.splitlines()) == 1 and message.startswith("error: "), message
    return message


def warned(script, *arguments):
    """What a command that succeeds says on standard error."""
    return call_both(script, *arguments)[1]


# --- which trial -----------------------------------------------------------------------------------------


def test_settings_choose_the_newest_trial_run_with_them(folder):
    conf, first = folder / "conf.yaml", only_trial(folder)
    call("main.py", "--conf", conf, RANDOM, "param_conf.num_epoch=0")
    (second,) = set((folder / "output" / "demo").iterdir()) - {first}
    assert second.name.endswith("random-NS_seed0")
    assert str(second) in call(SCORE, "--conf", conf)  # the newest, where nothing says otherwise
    semi_hard = "criteria.TripletLoss.sampling=semi-hard-NS"
    assert str(first / "retrieval_metrics.json") in call(MEASURE, "--conf", conf, semi_hard)
    assert str(second / "retrieval_metrics.json") in call(MEASURE, "--conf", conf, RANDOM, "data_conf.cache=disk")
    call(REPORT, "--conf", conf, semi_hard, "param_conf.seed=0")
    assert "<h1>semi-hard-NS, seed 0</h1>" in (first / "report" / "report.html").read_text()
    for script in (SCORE, MEASURE, REPORT):
        message = refused(script, "--conf", conf, "param_conf.seed=77")
        assert "no trained trial has these settings" in message
        assert f"{second} was run with param_conf.seed 0, not 77" in message
    message = refused(SEARCH, "rain", "--conf", conf, "AdamOptimizer.lr=0.5")
    assert "AdamOptimizer.lr 0.001, not 0.5" in message


@pytest.mark.parametrize(("setting", "key"), [(RANDOM, "sampling"), ("param_conf.num_epoch=9", "num_epoch 1, not 9")])
def test_a_named_trial_refuses_other_settings(finished, setting, key):
    for script in (SCORE, MEASURE, REPORT):
        message = refused(script, "--trial", only_trial(finished), setting)
        assert key in message and "leave the setting out" in message


def test_a_warning_says_how_the_newest_trial_differs_from_an_edited_file(folder):
    conf = folder / "conf.yaml"
    settings = yaml.safe_load(conf.read_text())
    conf.write_text(yaml.safe_dump(settings | {"AdamOptimizer": {"lr": 0.5}}))
    message = warned(MEASURE, "--conf", conf)
    assert f"{only_trial(folder)} was run with AdamOptimizer.lr 0.001, not 0.5 as {conf} has" in message


# --- which data set, in a comparison ---------------------------------------------------------------------


def test_trials_of_different_data_sets_are_not_compared(folder, tmp_path_factory):
    """The other data set has as many clips and captions, by the same settings."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    conf, zero = tiny_conf(elsewhere), "param_conf.num_epoch=0"
    for script in STAGES[:5]:
        call(script, "--conf", conf, "demo_dataset.seed=1")
    call("main.py", "--conf", conf, "param_conf.seed=1", zero)
    for script in (SCORE, MEASURE):
        call(script, "--conf", conf)
    message = refused(REPORT, "--compare", only_trial(folder), only_trial(elsewhere), "--out", folder / "comparison")
    assert str(only_trial(elsewhere)) in message and "compare trials of one data set" in message
    assert not (folder / "comparison").exists()


# --- which captions and sounds ---------------------------------------------------------------------------


def correct_a_caption(data):
    path = data / "clotho_captions_evaluation.csv"
    table = pd.read_csv(path, dtype=str, na_filter=False)
    table.loc[0, "caption_1"] = table.loc[1, "caption_1"]
    table.to_csv(path, index=False)
    return path


def correct_a_sound(data):
    one, other = sorted((data / "evaluation").iterdir())[:2]
    shutil.copyfile(other, one)
    return one


@pytest.mark.parametrize("correct", [correct_a_caption, correct_a_sound])
def test_scores_of_data_that_were_corrected_are_refused(folder, correct):
    conf, trial = folder / "conf.yaml", only_trial(folder)
    path = correct(folder / "data")
    readers = [(MEASURE, "--trial", trial), (REPORT, "--trial", trial), (SEARCH, "rain", "--trial", trial)]
    for command in (("main.py", "--conf", conf), (SCORE, "--trial", trial), *readers):
        message = refused(*command)
        assert f"{path}: has changed since preprocessing/" in message and "run that again" in message
    for step in STEPS:
        call(step, "--conf", conf)
    for command in readers:
        message = refused(*command)
        assert f"has changed since {SCORE} read it for {trial}; run that again" in message
    call(SCORE, "--trial", trial)
    for command in readers:
        call(*command)


def test_scores_of_an_earlier_scoring_are_refused(folder):
    """Scored again, on fewer splits: of what lies there from before nothing tells which checkpoint made it."""
    trial, few = only_trial(folder), "data_conf.eval_data=validation"
    call(SCORE, "--trial", trial, few)
    message = refused(MEASURE, "--trial", trial)
    assert f"evaluation_word_scores.hdf5: no such file that {SCORE} recorded; run that (again)" in message
    call(MEASURE, "--trial", trial, few)


# --- which word vectors ----------------------------------------------------------------------------------


def test_word_vectors_are_identified_by_their_content(folder):
    words = json.loads((folder / "data" / "vocab_info.json").read_text())["vocabulary"]
    vectors, conf = folder / "vectors.txt", folder / "conf.yaml"

    def write(path, seed):
        rows = np.random.default_rng(seed).normal(size=(len(words), 4)).round(3)
        lines = [" ".join(map(str, [word, *row])) for word, row in zip(words, rows, strict=True)]
        path.write_text("\n".join([f"{len(words)} 4", *lines]) + "\n")

    def source(path):
        return ("word2vec_embeddings.source=file", f"word2vec_embeddings.file={path}")

    message = refused("main.py", "--conf", conf, f"word2vec_embeddings.file={vectors}")
    assert "source is 'train' but file is " in message
    write(vectors, seed=0)
    call(STEPS[2], "--conf", conf, *source(vectors))
    call("main.py", "--conf", conf, *source(vectors), "param_conf.num_epoch=0")
    for other in (folder / "absent.txt", folder / "other.txt"):
        message = refused("main.py", "--conf", conf, *source(other))
        assert f"made with word2vec_embeddings.file {vectors}, but it is now {other}" in message
        write(folder / "other.txt", seed=1)
    write(vectors, seed=1)
    message = refused("main.py", "--conf", conf, *source(vectors))
    assert f"{vectors}: has changed since {STEPS[2]} read it; run that again" in message

    told = []
    for place in (vectors, folder / "data" / "vectors.txt"):  # wherever the file lies
        for seed in (1, 2):
            write(place, seed)
            call(STEPS[2], "--conf", conf, *source(place))
            told.append(sources(load_conf(conf, source(place)))["word vectors"])
    assert told[0] == told[2] != told[1] == told[3]


# --- what is a trial -------------------------------------------------------------------------------------


def test_commands_refuse_a_directory_that_is_not_a_trial(folder):
    before = (ROOT / "conf.yaml").read_bytes()
    for option in ("--resume", "--trial"):
        script = "main.py" if option == "--resume" else SCORE
        assert "a path on the command line is empty text" in refused(script, option, "")
        assert "not a trial directory" in refused(script, option, ".")
        assert "there is no such folder" in refused(script, option, folder / "nowhere")
        assert "not a trial directory" in refused(script, option, folder)  # it has a conf.yaml
    assert (ROOT / "conf.yaml").read_bytes() == before and not (ROOT / "train.log").exists()


def test_commands_refuse_a_sweep_in_place_of_a_trial(folder):
    sweep = only_trial(folder).with_name("sweep")
    (sweep / "points").mkdir(parents=True)
    shutil.copy(folder / "conf.yaml", sweep)
    for command in (("main.py", "--resume", sweep), (SCORE, "--trial", sweep)):
        assert "a sweep, not a trial" in refused(*command)
    assert {path.name for path in sweep.iterdir()} == {"points", "conf.yaml"}


LAST, BEST = "checkpoint_last.pt", "checkpoint_best.pt"


@pytest.mark.parametrize("lost", [[LAST], [LAST, BEST, "metrics.jsonl"]])
def test_resume_refuses_a_trial_without_its_last_checkpoint(folder, lost):
    trial = only_trial(folder)
    for name in lost:
        (trial / name).unlink()
    before = {path: path.read_bytes() for path in trial.iterdir() if path.is_file()}
    message = refused("main.py", "--resume", trial, "param_conf.num_epoch=2")
    assert "checkpoint_last.pt: is gone" in message and "put it back, or start a new trial" in message
    assert {path: path.read_bytes() for path in trial.iterdir() if path in before} == before


def test_a_checkpoint_of_another_trial_is_refused(folder):
    """Though it has the same settings, and the same data."""
    trial = only_trial(folder)
    call("main.py", "--conf", folder / "conf.yaml", "param_conf.num_epoch=0")
    (other,) = set(trial.parent.iterdir()) - {trial}
    for name, command in (("best", (SCORE, "--trial", trial)), ("last", ("main.py", "--resume", trial))):
        shutil.copy(other / f"checkpoint_{name}.pt", trial)
        message = refused(*command)
        assert f"checkpoint_{name}.pt: of another trial; put this trial's own back" in message


# --- which files a report may replace --------------------------------------------------------------------


def test_a_report_replaces_only_an_earlier_report(folder):
    trial = only_trial(folder)
    report, notes = trial / "report", trial / "report" / "notes.txt"
    call(REPORT, "--trial", trial)
    notes.write_text("mine")
    assert f"{notes}: is not what an earlier run wrote there" in refused(REPORT, "--trial", trial)
    assert notes.read_text() == "mine"
    notes.unlink()
    report.rename(folder / "moved")
    report.symlink_to(folder / "moved")
    assert f"{report}: is a link; it is not replaced" in refused(REPORT, "--trial", trial)
    assert (folder / "moved" / "report.html").is_file()


# --- one process at a time -------------------------------------------------------------------------------


def test_a_second_process_cannot_train_the_same_trial(folder):
    trial = only_trial(folder)
    with started("main.py", "--resume", trial, "param_conf.num_epoch=500") as first:
        read_until(first, "40 pairs")
        assert "another process is training it" in refused("main.py", "--resume", trial, "param_conf.num_epoch=3")
    epochs = len((trial / "metrics.jsonl").read_text().splitlines())
    call("main.py", "--resume", trial, f"param_conf.num_epoch={epochs}")


# --- divergence ------------------------------------------------------------------------------------------


@pytest.fixture
def diverge(monkeypatch):
    """diverge(argument, ...): main.py, whose first gradient is not finite."""

    def diverge(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr("torch.nn.utils.get_total_norm", lambda gradients: gradients[0].new_tensor(torch.nan))
            return call("main.py", *arguments, status=2)

    return diverge


def test_divergence_is_reported_until_a_resumed_trial_passes_it(folder, diverge):
    trial = only_trial(folder)
    assert "diverged in epoch 2" in diverge("--resume", trial, "param_conf.num_epoch=2")
    assert "diverged in epoch 2: the loss is" in (trial / "train.log").read_text().splitlines()[-1]
    assert "diverged in epoch 2" in warned("main.py", "--resume", trial, "param_conf.num_epoch=1")
    out = folder / "comparison"
    for command in ((SCORE, "--trial", trial), (MEASURE, "--trial", trial), (REPORT, "--compare", trial, "--out", out)):
        message = warned(*command)
        assert message.startswith(f"{trial}: diverged in epoch 2") and len(message.splitlines()) == 1
    call(REPORT, "--trial", trial)
    for page in (trial / "report" / "report.html", out / "comparison.html", out / "comparison.md"):
        assert "diverged in epoch 2" in page.read_text()
    call("main.py", "--resume", trial, "param_conf.num_epoch=2")
    assert "diverged" not in (trial / "provenance.json").read_text()


def test_a_trial_that_diverged_untrained_is_not_scored(folder, diverge):
    diverge("--conf", folder / "conf.yaml", RANDOM)
    (folder / "queries.csv").write_text("caption\nrain\n")
    rank = ("--queries", folder / "queries.csv", "--clips", folder / "data" / "evaluation", "--csv", folder / "out.csv")
    for command in ((SCORE,), (SEARCH, *rank)):
        message = call(*command, "--conf", folder / "conf.yaml", RANDOM, status=2)
        assert "diverged in epoch 1" in message and "epoch 0, which is untrained; there is nothing to score" in message
    assert not list(folder.glob("out[._]*"))


# --- unfinished trials -----------------------------------------------------------------------------------


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_unfinished_trial_is_marked_until_it_is_resumed(folder, monkeypatch):
    """Killed after epoch 0, scored and measured as if it were trained, and compared with a finished one."""
    finished, conf, out = only_trial(folder), folder / "conf.yaml", folder / "comparison"
    with monkeypatch.context() as patch:
        patch.setattr("utils.model_utils.train_epoch", interrupt)
        call("main.py", "--conf", conf, "param_conf.seed=1", status=130)
    (trial,) = set(finished.parent.iterdir()) - {finished}
    line = f"{trial}: unfinished: epoch 0 of 1 is its last"
    for command in ((SCORE,), (MEASURE,), (REPORT,), (SEARCH, "rain"), (EXPLORE, "--clips", "link")):
        _, message = call_both(*command, "--trial", trial)
        assert message.splitlines()[-1].startswith(line) and message.count(": unfinished") == 1
    compare = (REPORT, "--compare", finished, trial, "--out", out)
    message = refused(*compare)
    assert line in message and "resume it, leave it out, or include it with --unfinished" in message
    assert not out.exists()
    assert call_both(*compare, "--unfinished")[1].startswith(line)
    assert "semi-hard-NS (1 of 2 unfinished) | 2 |" in (out / "comparison.md").read_text()
    assert set(pd.read_csv(out / "comparison.csv")["mark"].dropna()) == {"1 of 2 unfinished"}
    for page in (trial / "report" / "report.html", trial / "explore" / "index.html", out / "comparison.html"):
        assert line in page.read_text()
    assert "unfinished" not in (trial / "retrieval_metrics.json").read_text()
    call("main.py", "--resume", trial)
    for command in ((SCORE, "--trial", trial), (MEASURE, "--trial", trial), compare):
        assert "unfinished" not in call_both(*command)[1]
    assert "unfinished" not in (out / "comparison.md").read_text()


# --- epochs ----------------------------------------------------------------------------------------------


def test_a_report_refuses_metrics_that_differ_from_the_last_checkpoint(folder):
    trial = only_trial(folder)
    path = trial / "metrics.jsonl"
    content = path.read_bytes()
    for spoilt in (content.replace(b'"val_obj": ', b'"val_obj": 1'), b"[]\n"):
        path.write_bytes(spoilt)
        for command in ((REPORT, "--trial", trial), (REPORT, "--compare", trial, "--out", folder / "comparison")):
            message = refused(*command)
            assert f"{path}: line 1 is not as checkpoint_last.pt" in message and "resume the trial" in message
    call("main.py", "--resume", trial)
    assert path.read_bytes() == content
    call(REPORT, "--trial", trial)


# --- data and trials of earlier versions -----------------------------------------------------------------


def test_log_mels_without_a_record_are_recomputed(folder):
    data, conf = folder / "data", folder / "conf.yaml"
    path = data / "evaluation_audio_logmels.hdf5"
    before = path.read_bytes()
    with h5py.File(path, "a") as store:
        store[sorted(store)[0]][0, 0] = np.nan
    assert f"{path}: is not as {STEPS[3]} wrote it; run that again" in refused("main.py", "--conf", conf)
    (data / "provenance.json").unlink()
    for step in STEPS:
        assert f"no record of {step}; run it" in refused("main.py", "--conf", conf)
        printed = call(step, "--conf", conf)
    assert f"{path}: not as {STEPS[3]} recorded it" in printed and path.read_bytes() == before


def test_a_trial_of_an_earlier_format_is_refused(folder):
    trial = only_trial(folder)
    made = json.loads((trial / "provenance.json").read_text())
    del made["main.py"]["format"]
    made["main.py"]["runs"][-1]["commit"] = "c0ffee"
    (trial / "provenance.json").write_text(json.dumps(made))
    conf = yaml.safe_load((trial / "conf.yaml").read_text())
    del conf["audio_logmel"]["sample_rate"]  # which came later
    (trial / "conf.yaml").write_text(yaml.safe_dump(conf))
    for command in (("main.py", "--resume", trial), (SCORE, "--trial", trial), (REPORT, "--compare", trial)):
        message = refused(*command)
        assert f"{trial}: a trial of format 1, but this version reads format 2" in message
        assert "the version that wrote it (commit c0ffee)" in message
    assert "format 1" in refused(SCORE, "--conf", folder / "conf.yaml")
