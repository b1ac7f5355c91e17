import html
import re

import numpy as np
import pandas as pd
import pytest

from tests.helpers import Tags, record_files, write_finished, write_history
from utils.common.errors import UserError
from utils.common.steps import MEASURING, SCORING
from utils.metric_utils import AVERAGED
from utils.report.bootstrap import differences
from utils.report.comparison import read_result, write_comparison
from utils.report.numbers import METRICS, signed
from utils.report.tables import SIDES


@pytest.fixture
def finished(tmp_path):
    """Seven trials: three seeds of two strategies, and one with masked words."""
    metrics = {"semi-hard-NS": (0.5, 0.6, 0.7), "random-NS": (0.2, 0.2, 0.5)}
    trials = [
        write_finished(tmp_path, f"{name}{seed}", name, seed, {"text_to_audio": value, "audio_to_text": 0.3})
        for name, values in metrics.items()
        for seed, value in enumerate(values)
    ]
    masked = ("score.mask_words=true",)
    return [*trials, write_finished(tmp_path, "masked", "random-NS", 0, settings=masked)]


def test_means_and_deviations_equal_those_of_pandas(finished, tmp_path):
    page = write_comparison(finished, tmp_path / "out")
    assert page == tmp_path / "out" / "comparison.html"
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index(["trials", "direction"])
    values = pd.DataFrame({"semi": [0.5, 0.6, 0.7], "random": [0.2, 0.2, 0.5]})
    for label, column in (("semi-hard-NS", "semi"), ("random-NS, mask_words=false", "random")):
        row = table.loc[label, "text_to_audio"]
        assert row["seeds"] == 3
        for metric in METRICS:
            assert row[f"{metric}_mean"] == pytest.approx(values[column].mean())
            assert row[f"{metric}_std"] == pytest.approx(values[column].std())
    one = table.loc["random-NS, mask_words=true", "audio_to_text"]
    assert one["seeds"] == 1 and one["mAP_mean"] == 0.25 and np.isnan(one["mAP_std"])
    both = table.loc["semi-hard-NS", "both"]
    assert both["R5_mean"] == pytest.approx((values["semi"] + 0.3).mean() / 2) and np.isnan(both["MedR_mean"])
    assert both["R5_std"] == pytest.approx(((values["semi"] + 0.3) / 2).std())
    assert table.index.get_level_values("trials").unique().tolist() == [
        "random-NS, mask_words=false",
        "random-NS, mask_words=true",
        "semi-hard-NS",
        "chance",
    ]


def test_comparison_page_and_markdown(finished, tmp_path):
    folder = write_comparison(finished, tmp_path / "out").parent
    lines = (folder / "comparison.md").read_text().splitlines()
    assert lines[0] == "**Text-to-audio**" and lines[2].startswith("| | seeds | mAP | mAP10 |")
    assert lines[4].startswith(r"| random-NS, mask\_words=false | 3 | 0.300 ± 0.173 | 0.300 ± 0.173 |")
    assert lines[5].startswith(r"| random-NS, mask\_words=true | 1 | 0.500 | ")
    assert lines[6].startswith("| semi-hard-NS | 3 | **0.600 ± 0.100** | ") and lines[6].endswith(" | 0.6 ± 0.1 |")
    assert lines[4].endswith(" | **0.3 ± 0.2** |")  # the lowest median rank is the best
    of_two_clips = (0.75, 0.75, 0.75, *(0.5, 1, 1) * 2)
    assert lines[7] == f"| chance | | {' | '.join(f'{value:.3f}' for value in of_two_clips)} | – |"
    assert {line.count("|") for line in lines[2:8]} == {len(METRICS) + 3}
    page = Tags(folder / "comparison.html")
    assert all(header["scope"] in {"row", "col"} for header in page.of("th"))
    assert len(page.of("img")) == 6 and all((folder / image["src"]).is_file() for image in page.of("img"))
    assert "0.600 ± 0.100" in page.text and all(str(trial) in page.text for trial in finished)
    (bold,) = re.findall(r"random-NS, mask_words=true</th>.*?</tr>", (folder / "comparison.html").read_text(), re.S)[:1]
    assert bold.count("<strong>") == 0


def test_one_trial_has_no_deviation_and_no_bold(tmp_path):
    trial = write_finished(tmp_path, "one", "hard-NS", 4)
    folder = write_comparison([trial, trial / ".." / "one"], tmp_path / "out").parent
    markdown = (folder / "comparison.md").read_text()
    assert "| hard-NS | 1 | 0.500 | " in markdown and "±" not in markdown and "0.500**" not in markdown


def test_labels_and_cells_are_escaped(tmp_path):
    source = "word2vec_embeddings.source=file"
    trials = [
        write_finished(tmp_path, f"t{i}", "hard-NS", 0, settings=(source, f"word2vec_embeddings.file='{name}'"))
        for i, name in enumerate(["a|b<i>", "c*d"])
    ]
    folder = write_comparison(trials, tmp_path / "out").parent
    markdown, page = (folder / "comparison.md").read_text(), (folder / "comparison.html").read_text()
    assert r"| hard-NS, file=a\|b\<i\> | 1 |" in markdown and r"file=c\*d" in markdown
    assert html.escape("file=a|b<i>") in page and "<i>" not in page


def test_trials_that_cannot_be_compared_are_refused(finished, tmp_path):
    sources = {"captions of evaluation": "1f", "word vectors": "2e"}
    other = write_finished(tmp_path, "other", "hard-NS", 0, sources=sources | {"captions of evaluation": "0"})
    vectors = write_finished(tmp_path, "vectors", "semi-hard-NS", 3, sources=sources | {"word vectors": "0"})
    split = write_finished(tmp_path, "split", "hard-NS", 0, settings=("data_conf.eval_data=validation",))
    unmeasured = write_finished(tmp_path, "unmeasured", "hard-NS", 1)
    (unmeasured / "retrieval_metrics.json").unlink()
    edited = write_finished(tmp_path, "edited", "hard-NS", 3)
    metrics = (edited / "retrieval_metrics.json").read_text()
    (edited / "retrieval_metrics.json").write_text(metrics.replace("0.5", "0.9"))
    unscored = write_finished(tmp_path, "unscored", "hard-NS", 4)
    (unscored / "evaluation_word_scores.hdf5").unlink()
    unrecorded = write_finished(tmp_path, "unrecorded", "hard-NS", 5)
    record_files(unrecorded, SCORING, [], [])
    trained_on = write_finished(tmp_path, "trained_on", "hard-NS", 6)
    write_history(trained_on, epochs=5)
    smaller = write_finished(tmp_path, "smaller", "hard-NS", 7, scores=np.zeros((1, 5)))
    partly = write_finished(tmp_path, "partly", "hard-NS", 2)
    (partly / "retrieval_metrics.json").write_text('{"evaluation": {"text_to_audio": {"mAP": 1}}}')
    record_files(partly, MEASURING, [], [partly / "retrieval_metrics.json"])
    again = write_finished(tmp_path, "again", "semi-hard-NS", 2)
    for trial, message in (
        (other, "other: captions of evaluation differ from those of .*semi-hard-NS0; compare trials of one data set"),
        (vectors, "vectors: word vectors differ from those of .*semi-hard-NS2, but not the settings"),
        (split, "split: measured on validation, but .*semi-hard-NS0 on evaluation; compare one split"),
        (edited, "retrieval_metrics.json: is not as postprocessing/2_xmodal_retrieval.py wrote it"),
        (unmeasured, "retrieval_metrics.json: no such file; postprocessing/2_xmodal_retrieval.py makes it"),
        (unscored, "evaluation_word_scores.hdf5: no such file; postprocessing/1_xmodal_scores.py makes it"),
        (unrecorded, "evaluation_word_scores.hdf5: no such file that postprocessing/1_xmodal_scores.py recorded"),
        (trained_on, "scores of epoch 2, but the best epoch is now 4; run postprocessing/1_xmodal_scores.py again"),
        (smaller, "smaller: scored other clips or captions than .*semi-hard-NS0; score both again"),
        (partly, "lacks metrics of the split evaluation; run postprocessing/2_xmodal_retrieval.py again"),
        (again, "same settings and seed as .*semi-hard-NS2; leave one out"),
        (tmp_path, "not a trial directory"),
    ):
        with pytest.raises(UserError, match=message) as refusal:
            write_comparison([*finished, trial], tmp_path / "out")
        assert len(str(refusal.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_comparison_replaces_only_a_comparison(finished, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis.tex: is not what an earlier run wrote there; nothing in"):
        write_comparison(finished, folder)
    assert (folder / "thesis.tex").read_text() == "years of work"
    write_comparison(finished[:1], tmp_path / "out")
    write_comparison(finished, tmp_path / "out")
    assert "semi-hard-NS" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Six trials with scores: random-NS and easy-text-NS are equal, semi-hard-NS is better, hard-NS collapsed."""
    folder = tmp_path_factory.mktemp("scored")
    relevant = np.arange(40)[:, None] == np.repeat(np.arange(40), 5)

    def trial(strategy, seed, strength):
        noise = np.random.default_rng([seed, len(strategy)]).normal(size=relevant.shape)
        return write_finished(folder, f"{strategy}{seed}", strategy, seed, scores=relevant * strength + noise)

    return [
        *(trial("random-NS", seed, 1) for seed in range(2)),
        *(trial("semi-hard-NS", seed, 2) for seed in range(2)),
        trial("easy-text-NS", 0, 1),
        write_finished(folder, "hard-NS0", "hard-NS", 0, scores=np.ones(relevant.shape)),
    ]


def test_groups_are_compared_with_the_best_and_with_the_first(scored, tmp_path):
    folder = write_comparison(scored, tmp_path / "out").parent
    table = pd.read_csv(folder / "comparison.csv", keep_default_na=False).set_index(["trials", "direction"])
    trials = {}
    for result in map(read_result, scored):
        trials.setdefault(result.conf.objective, []).append(result.queries)
    markdown, page = (folder / "comparison.md").read_text(), Tags(folder / "comparison.html").text
    for name, reference in (("best", "semi-hard-NS"), ("first", "random-NS")):
        assert set(table.loc[reference, f"mAP_minus_{name}_verdict"]) == {f"the {name}"}
        assert f"**mAP less that of {reference}, the {name}**" in markdown
        assert f"mAP less that of {reference}, the {name}." in page
        for label in trials.keys() - {reference}:
            cells = []
            for side, estimate in differences(trials[label], trials[reference]).items():
                row = table.loc[label, side]
                written = [float(row[f"mAP_minus_{name}{end}"]) for end in ("", "_low", "_high")]
                assert written == pytest.approx(estimate)
                means = [float(table.loc[trial, side]["mAP_mean"]) for trial in (label, reference)]
                assert written[0] == pytest.approx(means[0] - means[1])
                equals = {label, reference} == {"easy-text-NS", "random-NS"}
                assert row[f"mAP_minus_{name}_verdict"] == ("not told apart" if equals else "told apart")
                value, low, high = map(signed, estimate)
                cells.append(f"{value} [{low}, {high}]" + " ≈ not told apart" * equals)
                marked = label + " (collapsed)" * (label == "hard-NS")
                assert f"{value} {low} to {high}" + " ≈ not told apart" * equals in page
            assert f"| {marked} | {' | '.join(cells)} |" in markdown


def test_references_are_titled_by_what_they_are(scored, tmp_path):
    for trials, titles in (
        (scored[::-1], ["semi-hard-NS, the best", "hard-NS, the first"]),
        (scored[3:1:-1], ["semi-hard-NS, the only one"]),
        (scored[2:], ["semi-hard-NS, the best and the first"]),
    ):
        markdown = (write_comparison(trials, tmp_path / "out").parent / "comparison.md").read_text()
        assert re.findall(r"less that of (.*)\*\*", markdown) == titles


def test_a_collapsed_group_is_marked_also_in_part_and_has_chance_metrics(scored, tmp_path):
    folder = write_comparison(scored, tmp_path / "out").parent
    table = pd.read_csv(folder / "comparison.csv").set_index(["trials", "direction"])
    for side in SIDES:
        for metric in AVERAGED:
            chance = table.loc["chance", side][f"{metric}_mean"]
            assert table.loc["hard-NS", side][f"{metric}_mean"] == pytest.approx(chance)
    assert set(table.loc["hard-NS", "mark"]) == {"collapsed"} and table["mark"].notna().sum() == len(SIDES)
    assert (folder / "comparison.md").read_text().count("| hard-NS (collapsed) | 1 |") == len(SIDES)
    page = Tags(folder / "comparison.html").text
    assert page.count("hard-NS (collapsed)") == len(SIDES) + 2 and "Collapsed: for every query" in page
    other = write_finished(tmp_path, "other", "hard-NS", 1, scores=np.random.default_rng(0).random((40, 200)))
    markdown = (write_comparison([*scored, other], tmp_path / "partly").parent / "comparison.md").read_text()
    assert "| hard-NS (1 of 2 collapsed) | 2 |" in markdown
