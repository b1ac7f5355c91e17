"""Data of one's own, end to end: one caption a clip in training, any number elsewhere, in the wide or long form."""

import csv
import json
import random

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from tests.helpers import SEARCH, STAGES, call, only_trial, tiny_conf
from utils.dataset.captions import read_captions
from utils.dataset.demo import plan_split, write_split
from utils.dataset.index import clip_id
from utils.dataset.paths import DatasetPaths

_, CLEAN, INDEX, *_, MEASURE, _ = STAGES
SPLIT = "preprocessing/0_split_dataset.py"
CLIPS = {"development": 8, "validation": 4, "evaluation": 4}
EACH = [1, 2, 7, 3]  # captions of the evaluation split's clips, in order
FRACTIONS = ["--fractions", "0.5", "0.25", "0.25"]
SPARE = "a spare bell rings"


def rewrite(paths, split, header, rows):
    with paths.raw_captions(split).open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def texts_of(paths, split):
    """{clip: its captions} of a split."""
    texts = {}
    for caption in read_captions(paths.raw_captions(split)):
        texts.setdefault(caption.file_name, []).append(caption.raw_text)
    return texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A divided folder with other captions in each split, and a trial on it. Returns paths, trial, printed."""
    folder = tmp_path_factory.mktemp("own")
    conf, source, paths = tiny_conf(folder), DatasetPaths(folder / "source"), DatasetPaths(folder / "data")
    list(write_split(source, "all", plan_split("all", 16, 0), 16000, 0))
    call(SPLIT, source.raw_captions("all"), source.audio("all"), "--conf", conf, *FRACTIONS)
    rows = [(name, texts[0]) for name, texts in texts_of(paths, "development").items()]
    rewrite(paths, "development", ["file_name", "caption_1"], rows)
    rows = [(name, text) for name, texts in texts_of(paths, "validation").items() for text in texts]
    random.Random(0).shuffle(rows)
    rewrite(paths, "validation", ["file_name", "caption"], rows)
    header, rows = ["file_name", *(f"caption_{2 * k}" for k in range(1, 8))], []
    for each, (name, texts) in zip(EACH, texts_of(paths, "evaluation").items(), strict=True):
        rows.append([name, *[""] * (7 - each), *[*texts, SPARE, f"{SPARE} twice"][:each]])
    rewrite(paths, "evaluation", header, rows)
    printed = {script: call(script, "--conf", conf) for script in STAGES[1:]}
    return paths, only_trial(folder), printed


def test_captions_are_indexed_by_their_numbers_and_empty_cells_are_counted(trained):
    paths, _, printed = trained
    counts = {"development": 8, "validation": 20, "evaluation": sum(EACH)}
    for split, count in counts.items():
        assert f"{split}: {count} captions -> " in printed[CLEAN]
        assert f"{split}: {CLIPS[split]} clips" in printed[INDEX] and f" {count} captions," in printed[INDEX]
        table = pd.read_csv(paths.text(split), dtype=str)
        columns = {"development": [1], "validation": [1, 2, 3, 4, 5]}
        numbers = table.groupby("file_name", sort=False)["tid"].agg(list)
        for clip, (name, tids) in enumerate(numbers.items()):
            expected = columns.get(split) or range(16 - 2 * EACH[clip], 15, 2)
            assert tids == [f"{clip_id(split, name)}-{k}" for k in expected]
    assert printed[CLEAN].count("empty cell") == 1 and f"  {4 * 7 - sum(EACH)} empty cells left out" in printed[CLEAN]
    assert not paths.bad_data.exists()


def test_metrics_of_any_number_of_captions_are_those_of_plain_loops(trained):
    paths, trial, printed = trained
    metrics = json.loads((trial / "retrieval_metrics.json").read_text())
    rows = (row.split() for row in printed[MEASURE].splitlines() if "-to-" in row)
    chance = {(split, side): float(value) for split, side, value, *_ in rows}
    for split, clips in CLIPS.items():
        table = pd.read_csv(paths.text(split), dtype=str)
        with h5py.File(trial / f"{split}_xmodal_scores.hdf5") as store:
            scores, fids, tids = store["scores"][()], store["fids"].asstr()[()], store["tids"].asstr()[()]
        assert tids.tolist() == table["tid"].tolist() and len(fids) == clips
        right = np.array([[fid == of for of in table["fid"]] for fid in fids])
        for side, values, relevance in (("text_to_audio", scores.T, right.T), ("audio_to_text", scores, right)):
            assert all(len(set(row)) == len(row) for row in values.tolist())  # no ties
            expected = {name: [] for name in ("mAP", "R1", "R5", "R10", "HR1", "MedR")}
            for row, wanted in zip(values, relevance, strict=True):
                hits = wanted[np.argsort(-row)]
                expected["mAP"].append(average_precision_score(wanted, row))
                expected["HR1"].append(hits[0])
                expected["MedR"].append(1 + hits.argmax())
                for k in (1, 5, 10):
                    expected[f"R{k}"].append(hits[:k].sum() / wanted.sum())
            assert metrics[split][side]["queries"] == len(values)
            for name, numbers in expected.items():
                mean = np.median(numbers) if name == "MedR" else np.mean(numbers)
                assert metrics[split][side][name] == pytest.approx(mean, abs=1e-9), (split, side, name)
            rng = np.random.default_rng(0)
            drawn = [
                average_precision_score(wanted, rng.random(len(wanted))) for wanted in relevance for _ in range(150)
            ]
            assert chance[split, side.replace("_", "-")] == pytest.approx(np.mean(drawn), abs=0.04)


def test_search_report_and_live_page_take_any_number_of_captions(trained):
    paths, trial, _ = trained
    sound = min(paths.audio("evaluation").iterdir())
    hits = json.loads(call(SEARCH, "--trial", trial, "--audio", sound, "--top", 99, "--json"))
    assert sorted(hit["tid"] for hit in hits) == sorted(pd.read_csv(paths.text("evaluation"))["tid"])
    hits = json.loads(call(SEARCH, "--trial", trial, SPARE, "--json"))
    assert sorted(len(hit["captions"]) for hit in hits) == sorted(EACH)
    call("postprocessing/5_explore.py", "--trial", trial)
    assert (trial / "explore" / "index.html").exists() and (trial / "report" / "report.html").exists()
