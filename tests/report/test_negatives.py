"""The section on negatives: its batches, its numbers, and its part of the page."""

import re

import numpy as np
import pytest
import torch

from tests.helpers import Tags, embedding_scores, random_model, random_split, write_trial
from utils.conf.load import load_conf
from utils.criterion_utils import TripletLoss, negative_mask
from utils.data_utils import batches, collate
from utils.model_utils import seed_epoch
from utils.negative_utils import pick_statistics
from utils.report.negatives import BATCHES, Negatives, drawn_captions, gaps_of_picks, terms_of_strategies
from utils.report.page import Page
from utils.report.report import write_report
from utils.sampling_utils import STRATEGIES
from utils.score_utils import Score
from utils.trial.checkpoint import Trained, load_model
from utils.trial.trial import Trial


@pytest.fixture
def negatives(report, tmp_path):
    """What the section shows of the report's trial, whose best epoch is 1: two clips of three captions each."""
    trial, conf, _ = report
    return Negatives(load_model(trial / "checkpoint_best.pt"), conf, Page(tmp_path))


def rows_of(page):
    """The rows of a page's tables, each the texts of its cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", page.read_text(encoding="utf-8"), re.DOTALL)
    cells = ([cell for _, cell in re.findall(r"<(t[hd])\b.*?>(.*?)</\1>", row, re.DOTALL)] for row in rows)
    return [[re.sub("<.*?>", "", cell).strip() for cell in row] for row in cells]


def test_batches_and_random_negatives_equal_those_of_training(report):
    """Of epochs of three batches, the last one short, from epoch 5 on."""
    conf = load_conf(report[0] / "conf.yaml", ["param_conf.batch_size=7", "param_conf.seed=3"])
    split, drawn, expected = random_split(), [], []
    for captions, generator in drawn_captions(split, conf, 5):
        drawn.append((collate(split, captions), torch.rand(2, 7, 7, generator=generator)))
    for epoch in range(5, 12):
        generator = seed_epoch(3, epoch)
        expected += [(batch, torch.rand(2, 7, 7, generator=generator)) for batch in batches(split, 7, shuffle=True)]
    assert len(drawn) == BATCHES == 20 and len(expected) == 21
    for (ours, draws), (theirs, their_draws) in zip(drawn, expected, strict=False):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert torch.equal(draws, their_draws)


@pytest.mark.parametrize("masks", [{}, {"mask_words": True, "mask_frames": True}])
def test_picks_use_the_scores_of_training(masks):
    """Over the padded batch, unless the trial masks; the same batch for all strategies."""
    split, model = random_split(), random_model().eval()
    batch = collate(split, list(range(0, 18, 2)))
    best = Trained(model, Score(**masks), [], 0)
    found = terms_of_strategies(best, batch, 0.1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeds = model(batch.audio, batch.text)
    lens = (batch.audio_lens, batch.text_lens) if masks else ()
    for name, terms in found.items():
        expected = TripletLoss(0.1, name)(
            embedding_scores(*embeds, *lens), negative_mask(batch.clips), torch.Generator().manual_seed(0)
        )
        if "audio" not in name:  # a clip ties with itself, and rounding decides which of its captions it is
            assert torch.equal(terms.picked.text, expected.picked.text), name
            assert torch.equal(terms.picked.audio, expected.picked.audio), name
        torch.testing.assert_close(terms.loss, expected.loss, atol=1e-5, rtol=0)
    assert list(found) == list(STRATEGIES)


def test_gaps_of_picks_by_hand():
    scores = torch.tensor([[0.5, 0.1, 0.7], [0.2, 0.4, 0.3], [0.0, 0.6, 0.9]])
    terms = TripletLoss(0.5, "hard-NS")(embedding_scores(torch.rand(3, 1, 2), torch.rand(3, 1, 2))._replace(
        audio_text=scores), ~torch.eye(3, dtype=torch.bool))  # fmt: skip
    audio, text = gaps_of_picks(terms)
    assert audio == pytest.approx([0.5 - 0.2, 0.4 - 0.6, 0.9 - 0.7]) and text == pytest.approx([-0.2, 0.1, 0.3])


def test_the_page_shows_the_numbers_of_every_strategy(report, negatives):
    page = report[2] / "report.html"
    rows = [row for row in rows_of(page) if row and row[0] in STRATEGIES]
    table, matrix = rows[:8], rows[8:16]
    assert [row[0] for row in table] == [row[0] for row in matrix] == list(STRATEGIES)
    for name, *shown in table:
        terms, false = [each.terms[name] for each in negatives.drawn], []
        for each in negatives.drawn:
            picks = [mask.numpy() for mask in each.terms[name].picked[2:]]
            false.append(sum((each.likely_false & mask).sum() for mask in picks) / sum(mask.sum() for mask in picks))
        numbers = pick_statistics([term.picked for term in terms])
        expected = [
            f"{np.mean([term.loss for term in terms]):.3f}",
            f"{numbers['negative_gap']:.4f}",
            f"{np.mean([term.active for term in terms]):.3f}",
            f"{numbers['negatives_above']:.3f}",
            f"{numbers['hubness']:.3f}",
            f"{numbers['effective_negatives']:.1f}",
            f"{np.mean(false):.3f}",
        ]
        assert shown == expected, name
    assert [matrix[i][i + 1] for i in range(8)] == ["1.00"] * 8
    text = Tags(page).text
    assert "20 batches of up to 6 pairs" in text and "(epoch 2 to 21)" in text  # one batch an epoch


def test_anchors_are_shown_with_what_was_picked_for_them(negatives):
    anchors, first = negatives.anchors(), negatives.drawn[0]
    assert len(anchors) == 2  # of two clips
    for anchor in anchors:
        i = [negatives.split.captions[caption] for caption in first.captions].index(anchor["caption"])
        own = negatives.data.caption_clips[first.captions[i]]
        assert anchor["clip"]["name"] == negatives.split.files[own].name and len(anchor["others"]) == 2
        assert anchor["picks"]["full-batch-NS"] == (3, 3)
        for name, sides in anchor["picks"].items():
            picked = first.terms[name].picked
            for item, mask, scores in zip(sides, picked[2:], (picked.scores.T, picked.scores), strict=True):
                if name != "full-batch-NS":
                    (j,) = mask[i].nonzero().flatten().tolist()
                    assert item["caption"] == negatives.split.captions[first.captions[j]]
                    assert item["clip"] != anchor["clip"]
                    assert item["score"] == scores[i, j] and item["above"] == bool(scores[i, j] > scores[i, i])
                    assert item["likely_false"] == first.likely_false[i, j]


def test_a_page_plays_its_anchors_and_their_negatives(report):
    page = Tags(report[2] / "report.html")
    names = [player["aria-label"] for player in page.of("audio")]
    assert names.count("one.wav") >= 7 and names.count("two.wav") >= 7
    assert page.text.count("all 3 of other clips") == 4


def test_batches_of_one_clip_are_left_out(report, tmp_path):
    trial, *_ = report
    best = load_model(trial / "checkpoint_best.pt")
    conf = load_conf(trial / "conf.yaml", ["param_conf.batch_size=2"])
    found = Negatives(best, conf, Page(tmp_path))
    assert 0 < len(found.drawn) < BATCHES
    for each in found.drawn:
        assert len(set(found.data.caption_clips[each.captions])) == 2


def test_a_page_without_negatives_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Negatives, "_draw", lambda *_: [])
    page = write_report(Trial(*write_trial(tmp_path, names=["one.wav"], captions_each=1)))
    assert "so there is nothing to pick" in Tags(page).text
