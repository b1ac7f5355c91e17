import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers import ODD_NAMES, Tags, record_preprocessing, results_of, write_trial
from utils.common.digests import KEPT
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.report.report import write_report
from utils.trial.trial import Trial


def test_a_report_holds_only_the_files_that_it_shows(report):
    _, conf, folder = report
    page = Tags(folder / "report.html")
    shown = {item["src"] for tag in ("img", "audio") for item in page.of(tag)}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == shown | {"report.html", ".written.json"}
    played = ("evaluation", "development")  # the examples, and the anchors with their negatives
    originals = {path.read_bytes() for split in played for path in Path(conf.data_conf.dataset, split).iterdir()}
    copies = [folder / source for source in shown if source.startswith("clips/")]
    assert len(copies) == len(ODD_NAMES) + 2 and {copy.read_bytes() for copy in copies} == originals
    assert all(re.fullmatch(r"clips/[0-9a-f]{16}\.(wav|flac)", str(copy.relative_to(folder))) for copy in copies)


def test_odd_names_and_captions_are_escaped(report):
    page = Tags(report[2] / "report.html")
    assert not page.of("script") and not page.of("b ") and {"x"}.isdisjoint(item.get("src") for item in page.of("img"))
    for name in ODD_NAMES:
        assert name in page.text
        assert name in {item["aria-label"] for item in page.of("audio")}
    assert "<b>loud</b>" in page.text and "<2>" in page.text and "inputs.a&b" in page.text


def test_a_report_is_accessible(report):
    page = Tags(report[2] / "report.html")
    assert page.of("html") == [{"lang": "en"}]
    for image in page.of("img"):
        assert len(image["alt"]) > 40 and not {"nan", "inf"} & set(re.findall(r"\w+", image["alt"])), image["alt"]
    assert all(header["scope"] in {"row", "col", "rowgroup"} for header in page.of("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {link["href"] for link in page.of("a")} <= {f"#{item.get('id')}" for _, item in page.tags}


def test_the_report_has_the_metrics_of_the_metrics_file(report):
    trial, _, folder = report
    text = Tags(folder / "report.html").text
    metrics = json.loads((trial / "retrieval_metrics.json").read_text())
    for directions in metrics.values():
        for values in directions.values():
            assert f"{values['mAP']:.3f}" in text and f"{values['R5']:.3f}" in text
    assert text.index("evaluation") < text.index("development")  # the split of the results comes first


@pytest.fixture
def moved(report, tmp_path):
    """A copy of the trial and of its data set, to be spoiled."""
    trial, conf, _ = report
    shutil.copytree(trial, tmp_path / "trial")
    shutil.copytree(conf.data_conf.dataset, tmp_path / "data")
    settings = [f"data_conf.dataset={tmp_path / 'data'}"]
    return Trial(tmp_path / "trial", load_conf(tmp_path / "trial" / "conf.yaml", settings))


@pytest.mark.parametrize("split", ["evaluation", "development"])
def test_only_a_finished_report_replaces_an_old_one(report, moved, split):
    next((Path(moved.conf.data_conf.dataset) / split).iterdir()).unlink()
    with pytest.raises(UserError, match=r"no such audio file; put it back"):
        write_report(moved)
    assert (moved.path / "report" / "report.html").read_bytes() == (report[2] / "report.html").read_bytes()
    assert not [path for path in moved.path.glob(".*") if path.name != KEPT]


def test_scores_of_other_captions_are_refused(moved):
    captions = Path(moved.conf.data_conf.dataset) / "evaluation_text.csv"
    captions.write_text("".join(captions.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"evaluation_text\.csv: is not as preprocessing/2_clotho_dataset.py wrote it"):
        write_report(moved)
    record_preprocessing(moved.conf)
    with pytest.raises(UserError, match=r"evaluation_text\.csv: has changed since .*1_xmodal_scores\.py read it for"):
        write_report(moved)


@pytest.mark.parametrize(
    ("content", "message"), [("{\n", "not the epochs that main.py wrote"), ('{"epoch": 0}\n', "epoch 0 is")]
)
def test_a_damaged_history_is_named(moved, content, message):
    shutil.rmtree(moved.path / "report")
    (moved.path / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        write_report(moved)
    assert not (moved.path / "report").exists()


def test_a_report_of_one_clip_warns_of_a_collapse_and_shows_negatives_if_its_history_has_them(tmp_path):
    """Epochs of an earlier version have none."""
    trial, conf = write_trial(tmp_path, names=["one.wav"], captions_each=1)

    def page_of(**last):
        history = [results_of(0), results_of(1) | {"train_loss": 1.0, "score_std": 0.0} | last]
        (trial / "metrics.jsonl").write_text("".join(json.dumps(results) + "\n" for results in history))
        page = Tags(write_report(Trial(trial, conf)))
        return page, " ".join(image["alt"] for image in page.of("img"))

    page, alts = page_of()
    assert "the features have collapsed under semi-hard-NS" in page.text
    assert "Hubness" not in alts and "the trial itself picked" not in page.text
    page, alts = page_of(negative_gap=0.1, negatives_above=0.2, hubness=0.3, effective_negatives=4.5)
    assert "Hubness of the negatives by epoch. Hubness of the negatives: 0.3 at epoch 1" in alts
    assert all(f"{value} at epoch 1" in alts for value in (0.1, 0.2, 4.5)) and "the trial itself picked" in page.text
