import html
import json
import re
import shutil
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.report_trial import ODD_NAMES, write_finished, write_trial
from utils.analysis_utils import (
    DRAWS,
    METRICS,
    TrialResult,
    best_groups,
    choose_queries,
    estimates,
    group_trials,
    positives_and_negatives,
    rank_shares,
)
from utils.conf_utils import load_conf
from utils.index_utils import DatasetPaths
from utils.io_utils import UserError
from utils.metric_utils import per_query_both_directions, retrieval_metrics
from utils.plot_utils import COLOURS, Line, alignment, curves, score_histogram
from utils.report_utils import (
    Gallery,
    Page,
    clip_files,
    comparison_csv,
    comparison_markdown,
    load_rankings,
    read_result,
    write_comparison,
    write_report,
)
from utils.score_utils import alignment_map, load_scores, score_matrix
from utils.trial_utils import load_model

# --- intervals -------------------------------------------------------------------------------------------


def collection(clips=12, seed=0):
    """Scores of clips (C, M) with 1 to 5 captions each, and the captions' clips."""
    rng = np.random.default_rng(seed)
    caption_clips = np.repeat(np.arange(clips), rng.integers(1, 6, clips))
    return rng.integers(0, 9, (clips, len(caption_clips))) / 9, caption_clips  # with ties


@pytest.mark.parametrize("direction", ["text_to_audio", "audio_to_text"])
def test_intervals_are_those_of_metrics_recomputed_for_every_draw(direction):
    scores, caption_clips = collection()
    if direction == "text_to_audio":
        ranked, query_clips, item_clips = scores.T, caption_clips, np.arange(12)
    else:
        ranked, query_clips, item_clips = scores, np.arange(12), caption_clips
    values = per_query_both_directions(scores, caption_clips)[direction]
    found = estimates(values, query_clips, 12, seed=3)
    relevance = query_clips[:, None] == item_clips[None, :]
    point = retrieval_metrics(ranked, relevance)
    recomputed = {name: [] for name in METRICS}
    for times in np.random.default_rng(3).multinomial(12, [1 / 12] * 12, size=DRAWS):
        queries = [q for clip in range(12) for _ in range(times[clip]) for q in np.flatnonzero(query_clips == clip)]
        metrics = retrieval_metrics(ranked[queries], relevance[queries])
        for name in METRICS:
            recomputed[name].append(metrics[name])
    for name in METRICS:
        assert found[name].value == point[name]
        expected = np.percentile(recomputed[name], [2.5, 97.5])
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-9), name


def test_an_interval_of_one_clip_is_its_value():
    values = per_query_both_directions(np.array([[0.5, 0.2]]), np.array([0, 0]))["text_to_audio"]
    assert set(estimates(values, np.array([0, 0]), 1)["mAP"]) == {1.0}


# --- ranks, margins, queries -----------------------------------------------------------------------------


def test_rank_shares_add_up_and_chance_is_that_of_shuffled_rankings():
    rng = np.random.default_rng(0)
    relevant = np.array([1, 3, 5, 5])
    draws = np.array([[rng.permutation(60)[:number].min() + 1 for number in relevant] for _ in range(20000)])
    labels, observed, chance = rank_shares(draws.ravel(), np.tile(relevant, 20000), 60)
    assert labels == ["1", "2", "3", "4", "5", "6–10", "11–20", "21–50", "51–60"]
    assert observed.sum() == pytest.approx(1) and chance.sum() == pytest.approx(1)
    assert chance == pytest.approx(observed, abs=0.01)


def test_rank_bins_by_hand():
    labels, observed, chance = rank_shares(np.array([1, 1, 2, 6]), np.ones(4, int), 6)
    assert labels == ["1", "2", "3", "4", "5", "6"] and observed.tolist() == [0.5, 0.25, 0, 0, 0, 0.25]
    assert chance == pytest.approx(np.full(6, 1 / 6))
    assert rank_shares(np.array([1.0]), np.ones(1, int), 1)[0] == ["1"]


def test_positives_and_negatives_by_loops():
    scores, caption_clips = collection()
    relevance = np.arange(12)[:, None] == caption_clips
    positive, negative = positives_and_negatives(scores, relevance)
    for query in range(12):
        assert positive[query] == max(s for s, right in zip(scores[query], relevance[query], strict=True) if right)
        assert negative[query] == max(s for s, right in zip(scores[query], relevance[query], strict=True) if not right)
    assert positives_and_negatives(np.array([[0.3]]), np.array([[True]]))[1] == 0


def test_chosen_queries_are_of_different_clips():
    first_rank, margin = np.array([1, 1, 1, 2, 3, 9, 9.0]), np.array([0.1, 0.3, 0.2, 0, -0.1, -0.2, -0.3])
    clips = np.array([0, 0, 1, 2, 3, 4, 4])
    assert choose_queries(first_rank, margin, clips, 1) == {"best": [1], "typical": [3], "worst": [6]}
    assert choose_queries(first_rank, margin, clips, 2) == {"best": [1, 2], "typical": [3], "worst": [6, 4]}
    assert choose_queries(np.ones(1), np.zeros(1), np.zeros(1, int), 2) == {"best": [], "typical": [], "worst": [0]}


def test_the_mean_of_an_alignment_map_is_the_score(report):
    trial, conf, _ = report
    model, words, epoch = load_model(trial / "checkpoint_best.pt")
    stored = load_scores(trial / "evaluation_xmodal_scores.hdf5", epoch)
    ranking = load_rankings(trial, "evaluation", epoch)["text_to_audio"]
    gallery = Gallery(model, words, conf, ranking, Page(trial))
    for clip, caption in ((0, 0), (3, 7)):
        similarities = gallery._alignment(clip, caption)
        assert similarities.shape == (26, len(gallery.split.captions[caption]))
        assert similarities.mean() == pytest.approx(stored.scores[clip, caption], abs=1e-6)
    audio, text = torch.randn(4, 3), torch.randn(2, 3)
    expected = [[max(0.0, float(a @ e)) for e in text] for a in audio]
    assert alignment_map(audio, text).tolist() == pytest.approx(np.array(expected))
    assert alignment_map(audio, text).mean().item() == pytest.approx(score_matrix(audio[None], text[None]).item())


# --- the report ------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(folder, name="report.html"):
    return Tags((folder / name).read_text(encoding="utf-8"))


def test_a_report_holds_what_it_shows_and_nothing_else(report):
    _, conf, folder = report
    page = page_of(folder)
    shown = {item["src"] for tag in ("img", "audio") for item in page.of(tag)}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == shown | {"report.html"}
    originals = {path.read_bytes() for path in Path(conf.data_conf.dataset, "evaluation").iterdir()}
    copies = [folder / source for source in shown if source.startswith("clips/")]
    assert len(copies) == len(ODD_NAMES) and {copy.read_bytes() for copy in copies} == originals
    assert all(re.fullmatch(r"clips/[0-9a-f]{16}\.(wav|flac)", str(copy.relative_to(folder))) for copy in copies)


def test_odd_names_and_captions_are_text(report):
    page = page_of(report[2])
    assert not page.of("script") and not page.of("b ") and {"x"}.isdisjoint(item.get("src") for item in page.of("img"))
    for name in ODD_NAMES:
        assert name in page.text
        assert name in {item["aria-label"] for item in page.of("audio")}
    assert "<b>loud</b>" in page.text and "<2>" in page.text and "inputs.a&b" in page.text


def test_a_report_can_be_read_without_seeing_it(report):
    page = page_of(report[2])
    assert page.of("html") == [{"lang": "en"}]
    for image in page.of("img"):
        assert len(image["alt"]) > 40 and not {"nan", "inf"} & set(re.findall(r"\w+", image["alt"])), image["alt"]
    assert all(header["scope"] in {"row", "col", "rowgroup"} for header in page.of("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {link["href"] for link in page.of("a")} <= {f"#{item.get('id')}" for _, item in page.tags}


def test_the_metrics_are_those_of_the_metrics_file(report):
    trial, _, folder = report
    text = page_of(folder).text
    metrics = json.loads((trial / "retrieval_metrics.json").read_text())
    for directions in metrics.values():
        for values in directions.values():
            assert f"{values['mAP']:.3f}" in text and f"{values['R5']:.3f}" in text
    assert text.index("evaluation") < text.index("development")  # the split for the results comes first


def test_a_second_report_is_the_same_to_the_byte(report, tmp_path):
    trial, conf, folder = report
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shutil.copytree(trial, tmp_path / "trial", ignore=shutil.ignore_patterns("report"))
    again = write_report(tmp_path / "trial", conf).parent
    after = {folder / path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}
    assert before == after


def test_only_a_finished_report_replaces_an_old_one(report, tmp_path):
    trial, conf, folder = report
    shutil.copytree(trial, tmp_path / "trial")
    data = tmp_path / "data"
    shutil.copytree(conf.data_conf.dataset, data)
    moved = load_conf(tmp_path / "trial" / "conf.yaml", [f"data_conf.dataset={data}"])
    next(path for path in (data / "evaluation").iterdir()).unlink()
    with pytest.raises(UserError, match=r"no such audio file; the report plays copies"):
        write_report(tmp_path / "trial", moved)
    assert (tmp_path / "trial" / "report" / "report.html").read_bytes() == (folder / "report.html").read_bytes()
    assert not [path for path in (tmp_path / "trial").iterdir() if path.name.startswith(".")]


def test_scores_of_other_captions_are_refused(report, tmp_path):
    trial, conf, _ = report
    data = tmp_path / "data"
    shutil.copytree(conf.data_conf.dataset, data)
    lines = (data / "evaluation_text.csv").read_text().splitlines(keepends=True)
    (data / "evaluation_text.csv").write_text("".join(lines[:-1]))
    shutil.copytree(trial, tmp_path / "trial")
    moved = load_conf(tmp_path / "trial" / "conf.yaml", [f"data_conf.dataset={data}"])
    with pytest.raises(UserError, match="not the captions that were scored; run postprocessing"):
        write_report(tmp_path / "trial", moved)


FID = "0123456789abcdef"


def write_info(folder, fid, name):
    clip = {"file": name, "seconds": 1.0, "sample_rate": 8000, "channels": 1, "sha256": "0" * 64}
    (folder / "audio_info.json").write_text(json.dumps({"evaluation": {"clips": {fid: clip}}}))
    return DatasetPaths(str(folder))


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/secret.wav", "..", "", "a/b.wav", "passwd", None, 3])
def test_a_file_name_never_leads_out_of_the_splits_folder(tmp_path, name):
    paths = write_info(tmp_path, FID, name)
    with pytest.raises(UserError, match=r"is not the name of an audio file|leads out of the data set"):
        clip_files(paths, "evaluation", [FID])


def test_a_clip_id_never_leads_out_of_the_report(tmp_path):
    with pytest.raises(UserError, match="not as preprocessing"):
        clip_files(write_info(tmp_path, "../x", "a.wav"), "evaluation", ["../x"])
    with pytest.raises(UserError, match="lists no clip 00"):
        clip_files(write_info(tmp_path, FID, "a.wav"), "evaluation", ["00"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("provenance.json", "[]", "not as its step writes it"),
        ("metrics.jsonl", "", "not the epochs that main.py wrote"),
        ("metrics.jsonl", "{\n", "not the epochs that main.py wrote"),
    ],
)
def test_damaged_files_of_a_trial_are_named(report, tmp_path, name, content, message):
    trial, conf, _ = report
    shutil.copytree(trial, tmp_path / "trial", ignore=shutil.ignore_patterns("report"))
    (tmp_path / "trial" / name).write_text(content)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path / "trial", conf)
    assert not (tmp_path / "trial" / "report").exists()


def test_a_collapse_is_said_and_a_report_of_one_clip_is_written(tmp_path):
    trial, conf = write_trial(tmp_path, names=["one.wav"], captions_each=1)
    history = [{"epoch": 0, "score_std": 0.0}, {"epoch": 1, "train_loss": 1.0, "score_std": 0.0, "lr": 0.001}]
    (trial / "metrics.jsonl").write_text("".join(json.dumps(results) + "\n" for results in history))
    text = page_of(write_report(trial, conf).parent).text
    assert "the features have collapsed under semi-hard-NS" in text


# --- figures ---------------------------------------------------------------------------------------------


def test_figures_follow_the_readers_colours_and_say_what_they_show():
    picture = curves("Loss", [Line("loss", [0, 1, 2], [3.0, 1.0, 2.0])], best_epoch=1)
    assert not [colour for colour in COLOURS if f": {colour}" in picture.svg] and "var(--1d2329)" in picture.svg
    assert "prefers-color-scheme:dark" in picture.svg and "best epoch: 1" in picture.svg
    assert picture.alt == (
        "Loss by epoch. loss: 3 at epoch 0, 2 at epoch 2, lowest 1 at epoch 1, highest 3 at epoch 0."
    )


def test_figures_stand_what_a_broken_run_brings():
    nothing = curves("Loss", [Line("loss", (), ())], log=True, best_epoch=0)
    zeros = curves("Spread", [Line("spread", [0, 1], [0.01, 0.0])], log=True)
    equal = score_histogram("Scores", np.full(5, 0.2), np.full(5, 0.2))
    silent = alignment(np.full((1700, 64), -36.0), np.zeros((1700, 1)), ["$a_b$"], 0.02, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the font of matplotlib has no such signs, the reader's has
        assert ">雨<" in alignment(np.zeros((9, 64)), np.ones((9, 1)), ["雨"], 0.02, 1.0).svg
    assert nothing.alt == "Loss by epoch." and "lowest 0 at epoch 1" in zeros.alt and "0.200 to 0.200" in equal.alt
    assert ">$a_b$<" in silent.svg and "34.0 s" in silent.alt


# --- the comparison --------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """Seven trials: three seeds of two strategies, and one with masked words."""
    metrics = {"semi-hard-NS": (0.5, 0.6, 0.7), "random-NS": (0.2, 0.2, 0.5)}
    trials = [
        write_finished(tmp_path, f"{name}{seed}", name, seed, {"text_to_audio": value, "audio_to_text": 0.3})
        for name, values in metrics.items()
        for seed, value in enumerate(values)
    ]
    masked = ("criteria.TripletLoss.mask_words=true",)
    return [*trials, write_finished(tmp_path, "masked", "random-NS", 0, settings=masked)]


def test_comparison_is_that_of_pandas(finished, tmp_path):
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
    assert table.index.get_level_values("trials").unique().tolist() == [
        "random-NS, mask_words=false",
        "random-NS, mask_words=true",
        "semi-hard-NS",
    ]


def test_comparison_page_and_markdown(finished, tmp_path):
    folder = write_comparison(finished, tmp_path / "out").parent
    lines = (folder / "comparison.md").read_text().splitlines()
    assert lines[0] == "**Text-to-audio**" and lines[2].startswith("| | seeds | mAP | mAP10 |")
    assert lines[4].startswith(r"| random-NS, mask\_words=false | 3 | 0.300 ± 0.173 | 0.300 ± 0.173 |")
    assert lines[5].startswith(r"| random-NS, mask\_words=true | 1 | 0.500 | ")
    assert lines[6].startswith("| semi-hard-NS | 3 | **0.600 ± 0.100** | ") and lines[6].endswith(" | 0.6 ± 0.1 |")
    assert lines[4].endswith(" | **0.3 ± 0.2** |")  # the lowest median rank is the best
    assert {line.count("|") for line in lines[2:7]} == {len(METRICS) + 3}
    page = page_of(folder, "comparison.html")
    assert all(header["scope"] in {"row", "col"} for header in page.of("th"))
    assert len(page.of("img")) == 6 and all((folder / image["src"]).is_file() for image in page.of("img"))
    assert "0.600 ± 0.100" in page.text and all(str(trial) in page.text for trial in finished)
    (bold,) = re.findall(r"random-NS, mask_words=true</th>.*?</tr>", (folder / "comparison.html").read_text(), re.S)[:1]
    assert bold.count("<strong>") == 0


def test_best_is_what_the_table_shows_as_best():
    def groups(*means):
        return group_trials(
            [
                read_like(name, {"text_to_audio": mean})
                for name, mean in zip(["random-NS", "hard-NS", "semi-hard-NS"], means, strict=False)
            ]
        )

    def read_like(name, values):
        settings = {"criteria.TripletLoss.sampling": name, "param_conf.criterion": "TripletLoss", "param_conf.seed": 0}
        metrics = {side: dict.fromkeys(METRICS, value) for side, value in values.items()}
        return TrialResult(Path(name), settings, metrics, [])

    assert best_groups(groups(0.5001, 0.4999, 0.3), "text_to_audio", "mAP") == {"random-NS", "hard-NS"}
    assert best_groups(groups(0.5, 0.4, 0.3), "text_to_audio", "MedR") == {"semi-hard-NS"}
    assert best_groups(groups(0.5), "text_to_audio", "mAP") == set()


def test_one_trial_is_a_comparison_without_deviation_and_bold(tmp_path):
    trial = write_finished(tmp_path, "one", "hard-NS", 4)
    folder = write_comparison([trial, trial / ".." / "one"], tmp_path / "out").parent
    markdown = (folder / "comparison.md").read_text()
    assert "| hard-NS | 1 | 0.500 | " in markdown and "±" not in markdown and "0.500**" not in markdown


def test_labels_and_cells_are_escaped(tmp_path):
    trials = [
        write_finished(tmp_path, f"t{i}", "hard-NS", 0, settings=(f"word2vec_embeddings.file='{name}'",))
        for i, name in enumerate(["a|b<i>", "c*d"])
    ]
    folder = write_comparison(trials, tmp_path / "out").parent
    markdown, page = (folder / "comparison.md").read_text(), (folder / "comparison.html").read_text()
    assert r"| hard-NS, file=a\|b\<i\> | 1 |" in markdown and r"file=c\*d" in markdown
    assert html.escape("file=a|b<i>") in page and "<i>" not in page


def test_what_a_trial_was_run_beside_does_not_split_its_group(tmp_path):
    beside = ("log_tensorboard=true", "ray_conf.trial_resources.cpu=2", "sweep_conf={param_conf.seed: [0, 1]}")
    first = write_finished(tmp_path, "t0", "hard-NS", 0)
    second = write_finished(tmp_path, "t1", "hard-NS", 1, settings=beside)
    markdown = (write_comparison([first, second], tmp_path / "out").parent / "comparison.md").read_text()
    assert "| hard-NS | 2 |" in markdown


def test_settings_of_one_name_are_told_apart(tmp_path):
    sampling = "metrics.triplet_loss.mask_words"
    trials = [
        write_finished(tmp_path, "a", "hard-NS", 0),
        write_finished(tmp_path, "b", "hard-NS", 0, settings=("criteria.TripletLoss.mask_words=true",)),
        write_finished(tmp_path, "c", "hard-NS", 0, settings=(f"{sampling}=true",)),
    ]
    labels = [group.label for group in group_trials(map(read_result, trials))]
    assert labels[0] == "hard-NS, criteria.TripletLoss.mask_words=false, metrics.triplet_loss.mask_words=false"
    assert len(set(labels)) == 3


def test_trials_that_cannot_be_compared_are_refused(finished, tmp_path):
    other = write_finished(tmp_path, "other", "hard-NS", 0, queries=(20, 4))
    unmeasured = write_finished(tmp_path, "unmeasured", "hard-NS", 1)
    (unmeasured / "retrieval_metrics.json").unlink()
    partly = write_finished(tmp_path, "partly", "hard-NS", 2)
    (partly / "retrieval_metrics.json").write_text('{"evaluation": {"text_to_audio": {"mAP": 1}}}')
    again = write_finished(tmp_path, "again", "semi-hard-NS", 2)
    for trial, message in (
        (other, r"other: measured on evaluation \(4 clips, 20 captions\), but .*semi-hard-NS0 on .*one data set"),
        (unmeasured, "retrieval_metrics.json: no such file; postprocessing/2_xmodal_retrieval.py makes it"),
        (partly, "not all metrics of the split evaluation; run postprocessing/2_xmodal_retrieval.py again"),
        (again, "the same settings and the same seed as .*semi-hard-NS2; leave one out"),
        (tmp_path, "not a trial directory"),
    ):
        with pytest.raises(UserError, match=message) as refusal:
            write_comparison([*finished, trial], tmp_path / "out")
        assert len(str(refusal.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_comparison_is_left_alone(finished, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"mine: exists and holds no comparison.html; it is not replaced"):
        write_comparison(finished, mine)
    assert (mine / "thesis.tex").read_text() == "years of work"
    write_comparison(finished[:1], tmp_path / "out")
    write_comparison(finished, tmp_path / "out")
    assert "semi-hard-NS" in (tmp_path / "out" / "comparison.md").read_text()


def test_markdown_and_csv_have_a_row_for_each_group(finished):
    groups = group_trials(map(read_result, finished))
    best = {(side, metric): set() for side in ("text_to_audio", "audio_to_text") for metric in METRICS}
    assert comparison_markdown(groups, best).count("| 3 |") == 4
    header, rows = comparison_csv(groups)
    assert len(rows) == 6 and all(len(row) == len(header) for row in rows)
