"""Further right pairs: read, refused, and taken in by metrics, report and comparison."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from tests.helpers import Tags, call, matrix_of, write_trial
from utils.common.errors import UserError
from utils.common.steps import MEASURING
from utils.dataset.paths import DatasetPaths
from utils.report.comparison import read_result, require_same_data, write_comparison
from utils.report.groups import group_trials
from utils.report.rankings import load_rankings
from utils.report.report import write_report
from utils.sweep.points import create_sweep
from utils.trial.relevance import extra_relevant_pairs
from utils.trial.score_files import load_scores, word_scores_path
from utils.trial.start import load_training_data
from utils.trial.trial import Trial

MEASURE, REPORT = "postprocessing/2_xmodal_retrieval.py", "postprocessing/3_report.py"


@pytest.fixture
def trial(tmp_path):
    """A trial of five clips with three captions each: its directory, its configuration and its captions."""
    folder, conf = write_trial(tmp_path)
    return folder, conf, pd.read_csv(DatasetPaths(conf.data_conf.dataset).text("evaluation"), dtype=str)


def write_pairs(tmp_path, rows, header=("file_name", "caption")):
    path = tmp_path / "pairs.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def some_pairs(table):
    """Rows of a file: 2.8 right clips a caption; some that are right anyhow, one twice."""
    clips, rng = table["file_name"].unique().tolist(), np.random.default_rng(1)
    rows = [(name, text) for text in table["raw_text"] for name in rng.choice(clips, 2, replace=False)]
    return [*rows, rows[0]]


def relevance_of(table, rows):
    """(C, M) by loops over the rows."""
    clips = table["file_name"].unique().tolist()
    right = {*zip(table["file_name"], table["raw_text"], strict=True), *rows}
    return np.array([[(name, text) in right for text in table["raw_text"]] for name in clips])


def measured_with(conf, path):
    return conf.model_copy(update={"data_conf": conf.data_conf.model_copy(update={"relevance": str(path)})})


@pytest.fixture
def stored(trial):
    """The scores of the evaluation split."""
    return load_scores(word_scores_path(trial[0], "evaluation"), 1)


@pytest.fixture
def pairs_of(trial, stored, tmp_path):
    """pairs_of(rows) -> the pairs that a file of these rows adds to the scores of the evaluation split."""

    def pairs_of(rows, header=("file_name", "caption"), stored=stored):
        conf = measured_with(trial[1], write_pairs(tmp_path, rows, header))
        return extra_relevant_pairs(conf, "evaluation", stored).tolist()

    return pairs_of


def test_metrics_count_additional_relevant_pairs(trial, tmp_path):
    folder, _, table = trial
    call(MEASURE, "--trial", folder)
    alone = json.loads((folder / "retrieval_metrics.json").read_text())
    rows = some_pairs(table)
    path = write_pairs(tmp_path, rows)
    printed = call(MEASURE, "--trial", folder, f"data_conf.relevance={path}")
    metrics = json.loads((folder / "retrieval_metrics.json").read_text())
    assert metrics["development"] == alone["development"] and metrics["evaluation"] != alone["evaluation"]
    stored, right = load_scores(word_scores_path(folder, "evaluation"), 1), relevance_of(table, rows)
    assert printed.startswith(f"evaluation: {right.sum() / 15:.2f} right clips a caption, by {path}\n")
    assert right.sum(axis=0).mean() > 2
    for direction, scores, relevance in (
        ("text_to_audio", matrix_of(stored.scores).T, right.T),
        ("audio_to_text", matrix_of(stored.scores), right),
    ):
        assert all(len(set(row)) == len(row) for row in scores.tolist())  # no ties
        expected = np.mean([average_precision_score(*query) for query in zip(relevance, scores, strict=True)])
        assert metrics["evaluation"][direction]["mAP"] == pytest.approx(expected, abs=1e-9)
        values = {"mAP10": [], "mAP16": [], "R1": [], "HR1": [], "R5": []}
        for one, wanted in zip(scores, relevance, strict=True):
            hits = wanted[np.argsort(-one)]
            for k in (10, 16):
                precisions = [hits[:rank].mean() for rank in range(1, min(k, len(hits)) + 1) if hits[rank - 1]]
                values[f"mAP{k}"].append(sum(precisions) / min(wanted.sum(), k))
            values["HR1"].append(hits[0])
            for k in (1, 5):
                values[f"R{k}"].append(hits[:k].sum() / wanted.sum())
        for name, numbers in values.items():
            assert metrics["evaluation"][direction][name] == pytest.approx(np.mean(numbers), abs=1e-9), name
    chance = {tuple(row.split()[:2]): float(row.split()[2]) for row in printed.splitlines()[-5:-1]}
    rng = np.random.default_rng(0)
    draws = [average_precision_score(query, rng.random(5)) for query in right.T for _ in range(200)]
    assert chance["evaluation", "text-to-audio"] == pytest.approx(np.mean(draws), abs=0.02)


def test_names_and_captions_are_matched_to_the_character(trial, stored, pairs_of, tmp_path):
    _, conf, table = trial
    name, text = table["file_name"][0], table["raw_text"][4]
    assert pairs_of([(name, text)]) == [[0, 4]]
    with pytest.raises(UserError, match=r"pairs\.csv: holds no pairs"):
        pairs_of([])
    assert extra_relevant_pairs(measured_with(conf, tmp_path / "absent.csv"), "development", stored) is None
    assert extra_relevant_pairs(conf, "evaluation", stored) is None
    for row in ((name.strip().upper(), text), (name, text.upper()), (name, f" {text}")):
        with pytest.raises(UserError, match=r"pairs\.csv: line 2: .*evaluation_text\.csv has no"):
            pairs_of([row])


def test_lists_of_clips_for_queries_name_the_same_pairs(trial, pairs_of):
    """The form of DCASE 2025: a query's clips are a list as Python writes it."""
    rows, by_query = some_pairs(trial[2]), {}
    for name, text in rows:
        by_query.setdefault(text, []).append(str(name))
    lists = [(text, str(names)) for text, names in by_query.items()]
    assert any('"' in cell and "'" in cell for _, cell in lists)  # the names of this trial hold quotes
    found = pairs_of([*lists, (rows[0][1], "[]")], header=("query", "audio_filenames"))
    assert sorted(found) == sorted(pairs_of(rows))


def test_a_pair_names_every_row_of_its_caption(trial, stored, pairs_of):
    _, conf, table = trial
    paths = DatasetPaths(conf.data_conf.dataset)
    table.loc[7, "raw_text"] = table.loc[4, "raw_text"]
    table.to_csv(paths.text("evaluation"), index=False, lineterminator="\n")
    row = (table["file_name"][0], table["raw_text"][4])
    assert pairs_of([row]) == [[0, 4], [0, 7]]
    with pytest.raises(UserError, match=r"evaluation_text\.csv: not the captions that were scored"):
        pairs_of([row], stored=stored._replace(tids=stored.tids[:-1]))


def test_many_unknown_rows_are_counted(trial, pairs_of, tmp_path):
    with pytest.raises(UserError) as error:
        pairs_of([(f"{i}.wav", trial[2]["raw_text"][0]) for i in range(30)])
    path, lines = tmp_path / "pairs.csv", str(error.value).splitlines()
    assert len(lines) == 21 and lines[19].startswith(f"{path}: line 21: ") and "'19.wav'" in lines[19]
    assert lines[20] == f"{path}: 10 more names and captions are unknown"


def test_the_report_marks_all_relevant_items(trial, tmp_path):
    folder, conf, table = trial
    everything = [(name, text) for name in table["file_name"].unique() for text in table["raw_text"]]
    plain = write_report(Trial(folder, conf)).read_text()
    path = write_pairs(tmp_path, everything)
    page = write_report(Trial(folder, measured_with(conf, path)))
    cards = [tag for tag in Tags(page).of("li") if "card" in tag.get("class", "")]
    assert len(cards) > 20 and all("relevant" in card["class"] for card in cards)
    assert f"the pairs of {path}" in page.read_text() and "the pairs of" not in plain
    assert 0 < plain.count("✓ relevant") < page.read_text().count("✓ relevant")
    measured = Trial(folder, measured_with(conf, write_pairs(tmp_path, some_pairs(table))))
    ranking = load_rankings(measured, "evaluation", 1)
    expected = relevance_of(table, some_pairs(table))
    for one, relevance in ((ranking["audio_to_text"], expected), (ranking["text_to_audio"], expected.T)):
        assert all((one.of_query(query)[1] == right).all() for query, right in enumerate(relevance))
        assert one.relevant.tolist() == relevance.sum(axis=1).tolist()


def test_trials_measured_by_different_pairs_are_not_compared(trial, tmp_path):
    folder, _, table = trial
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    call(MEASURE, "--trial", folder)
    path = write_pairs(tmp_path, some_pairs(table))
    call(MEASURE, "--trial", other, f"data_conf.relevance={path}")
    with pytest.raises(UserError, match=r"other: relevant pairs differ from those of .*trial"):
        write_comparison([folder, other], tmp_path / "comparison")


def test_trials_measured_by_the_same_pairs_are_one_row(trial, tmp_path):
    """In two files, and in another order: they are one experiment, of two seeds."""
    folder, _, table = trial
    rows = some_pairs(table)
    (tmp_path / "again").mkdir()
    files = write_pairs(tmp_path, rows), write_pairs(tmp_path / "again", rows[::-1])
    results = []
    for seed, path in enumerate(files):
        other = tmp_path / f"seed{seed}"
        shutil.copytree(folder, other)
        call(MEASURE, "--trial", other, f"data_conf.relevance={path}")
        result = read_result(other)
        conf = result.conf.model_copy(update={"param_conf": result.conf.param_conf.model_copy(update={"seed": seed})})
        results.append(replace(result, conf=conf))
    require_same_data(*results)
    assert [group.label for group in group_trials(results)] == ["semi-hard-NS"]


# --- what the report shows beside the metrics ------------------------------------------------------------


@pytest.fixture
def measured(trial, tmp_path):
    """The trial, measured with further pairs, and their file."""
    folder, _, table = trial
    path = write_pairs(tmp_path, some_pairs(table))
    call(MEASURE, "--trial", folder, f"data_conf.relevance={path}")
    return folder, path


def page_of(folder):
    return (folder / "report" / "report.html").read_text()


def test_a_report_uses_the_pairs_of_the_metrics(measured, tmp_path):
    folder, path = measured
    call(REPORT, "--trial", folder)
    assert f"the pairs of {path}" in page_of(folder)
    copy = tmp_path / "copy.csv"
    shutil.copy(path, copy)
    call(REPORT, "--trial", folder, f"data_conf.relevance={copy}")
    assert f"the pairs of {copy}" in page_of(folder)
    call(MEASURE, "--trial", folder)
    call(REPORT, "--trial", folder, "data_conf.relevance=null")
    assert "the pairs of" not in page_of(folder)


def test_a_report_refuses_other_pairs_than_those_of_the_metrics(measured, trial, tmp_path):
    folder, path = measured
    for wanted in ("null", write_pairs(tmp_path / "null", some_pairs(trial[2])[:3])):
        complaint = call(REPORT, "--trial", folder, f"data_conf.relevance={wanted}", status=2)
        expected = f"measured with data_conf.relevance {path}, but it is now {wanted}; leave the setting out, or run"
        assert complaint == f"error: {folder}: {expected} {MEASURING} again with it\n"
    call(MEASURE, "--trial", folder)
    complaint = call(REPORT, "--trial", folder, f"data_conf.relevance={path}", status=2)
    assert f"measured with data_conf.relevance null, but it is now {path}; leave" in complaint
    assert not (folder / "report").exists()


def test_a_report_refuses_a_relevance_file_that_changed_after_measuring(measured, tmp_path):
    folder, path = measured
    path.write_text("\n".join(path.read_text().splitlines()[:3]) + "\n")
    report, comparison = ("--trial", folder), ("--compare", folder, "--out", tmp_path / "comparison")
    for command, again in ((report, " for X"), ((*report, f"data_conf.relevance={path}"), " for X"), (comparison, "")):
        complaint = call(REPORT, *command, status=2).replace(str(folder), "X")
        assert complaint == f"error: {path}: has changed since {MEASURING} read it{again}; run that again\n"
    path.unlink()
    for command in (report, comparison):
        complaint = call(REPORT, *command, status=2)
        assert complaint == f"error: {path}: no such file; put it back, or run {MEASURING} again for {folder}\n"


def test_an_unusable_relevance_file_is_refused_before_training(trial, tmp_path):
    _, conf, _ = trial
    for path, what in ((tmp_path / "absent.csv", "no such file"), (write_pairs(tmp_path, [("x", "y")]), "no clip 'x'")):
        with pytest.raises(UserError, match=what):
            load_training_data(measured_with(conf, path))
        swept = measured_with(conf, path).model_copy(update={"sweep_conf": {"param_conf.seed": [0, 1]}})
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match=what):
            create_sweep(swept)
        assert sorted(tmp_path.iterdir()) == before
