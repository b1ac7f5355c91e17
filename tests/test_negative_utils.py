"""Statistics of negatives, compared with plain loops over anchors."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from tests.helpers import CPU, embedding_scores, random_model, random_split, state_of
from utils.criterion_utils import InfoNCE, Picked, TripletLoss, negative_mask
from utils.data_utils import Split, batches
from utils.model_utils import train_epoch
from utils.negative_utils import (
    FUNCTION_WORDS,
    STATISTICS,
    CaptionLikeness,
    agreement,
    both_sides,
    gaps,
    pick_statistics,
    share_of_picks,
)
from utils.sampling_utils import STRATEGIES
from utils.score_utils import BatchScores


def picked_by(name, scores, clips):
    return TripletLoss(0.5, name)(scores, negative_mask(clips), torch.Generator().manual_seed(0)).picked


def coarse_batches():
    """Scores and clips of four batches, of two sizes, with ties everywhere; clips repeat."""
    generator, found = torch.Generator().manual_seed(0), []
    for n in (8, 8, 5, 8):
        cross, text, audio = (torch.randint(0, 4, (n, n), generator=generator) / 4 for _ in range(3))
        scores = BatchScores(cross, lambda text=text: text, lambda audio=audio: audio)
        found.append((scores, torch.randint(0, n - 2, (n,), generator=generator)))
    return found


def plain_picks(picked):
    """Of each side, the negatives of each anchor."""
    return [[[j for j, is_picked in enumerate(row) if is_picked] for row in side.tolist()] for side in picked[2:]]


def plain_gap(picked, side, i, j):
    scores = picked.scores.tolist()
    return scores[i][i] - (scores[j][i] if side == 0 else scores[i][j])


def plain_statistics(picked):
    sides, negatives = plain_picks(picked), picked.negatives.tolist()
    found = [plain_gap(picked, side, i, j) for side in (0, 1) for i, row in enumerate(sides[side]) for j in row]
    hubness, effective = [], []
    for rows in sides:
        times = Counter(j for row in rows for j in row)
        hubness.append(max(times[j] / sum(row[j] for row in negatives) for j in times))
        shares = [count / times.total() for count in times.values()]
        effective.append(math.exp(-sum(share * math.log(share) for share in shares)))
    return [np.mean(found), np.mean([gap < 0 for gap in found]), np.mean(hubness), np.mean(effective)]


# --- how hard, and how many ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_statistics_equal_plain_loops(name):
    """Of batches of two sizes, with ties, which are not above the positive."""
    picked = [picked_by(name, *batch) for batch in coarse_batches()]
    expected = np.mean([plain_statistics(each) for each in picked], axis=0)
    found = pick_statistics(picked)
    assert list(found) == list(STATISTICS)
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    for each in picked:
        for side in (0, 1):
            for i, j in both_sides(each)[side].nonzero().tolist():
                assert gaps(each)[side, i, j] == pytest.approx(plain_gap(each, side, i, j))


def test_after_a_collapse_all_pick_one_item():
    """All scores are equal: the first item of another clip is everyone's, and the first anchor's is the second."""
    scores = BatchScores(torch.full((32, 32), 0.2), None, None)
    found = pick_statistics([picked_by("hard-NS", scores, torch.arange(32))])
    assert found["hubness"] == 1 and found["negative_gap"] == found["negatives_above"] == 0
    shares = np.array([31, 1]) / 32
    assert found["effective_negatives"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=1e-5)
    one_of_them = torch.zeros(32, 32, dtype=torch.bool)
    one_of_them[1:, 0] = True  # the first anchor has no negatives
    picks = Picked(scores.audio_text, one_of_them, one_of_them, one_of_them)
    assert pick_statistics([picks]) == {"negative_gap": 0, "negatives_above": 0, "hubness": 1, "effective_negatives": 1}


def test_no_batches_have_no_statistics():
    assert pick_statistics([]) == {}


def test_agreement_equals_plain_loops():
    batches_of = {name: [picked_by(name, *batch) for batch in coarse_batches()] for name in STRATEGIES}
    found = agreement(list(batches_of.values()))
    for one, name in enumerate(STRATEGIES):
        for other, other_name in enumerate(STRATEGIES):
            shares = []
            for ours, theirs in zip(batches_of[name], batches_of[other_name], strict=True):
                for rows, other_rows in zip(plain_picks(ours), plain_picks(theirs), strict=True):
                    for row, other_row in zip(rows, other_rows, strict=True):
                        if row:
                            shares.append(len({*row} & {*other_row}) / len({*row} | {*other_row}))
            assert found[one, other] == pytest.approx(np.mean(shares), abs=1e-6)
    assert found.diagonal() == pytest.approx(np.ones(8)) and np.array_equal(found, found.T)


def test_anchors_without_negatives_do_not_agree_on_anything():
    clips = torch.tensor([0, 0, 0, 1])
    scores = BatchScores(torch.rand(4, 4), None, None)
    negatives = negative_mask(clips)
    negatives[0] = False
    terms = [TripletLoss(0.5, name)(scores, negatives).picked for name in ("hard-NS", "semi-hard-NS")]
    assert agreement([[terms[0]], [terms[0]]]) == pytest.approx(np.ones((2, 2)))
    assert np.isfinite(agreement([[terms[0]], [terms[1]]])).all()


# --- likely false negatives ------------------------------------------------------------------------------

WORDS = ["<pad>", "a", "dog", "barks", "while", "rain", "falls", "hound", "is", "the"]


def likeness(captions, clips):
    vectors = np.eye(len(WORDS), dtype=np.float32)
    vectors[WORDS.index("hound")] = 0.95 * vectors[2] + np.sqrt(1 - 0.95**2) * vectors[7]
    ids = [np.array([WORDS.index(word) for word in caption.split()]) for caption in captions]
    return CaptionLikeness(ids, np.array(clips), WORDS, vectors)


@pytest.mark.parametrize(
    ("caption", "is_like"),
    [
        ("a dog barks", True),  # all of its content words
        ("the dog is the dog", True),  # each word counts once
        ("rain falls while a dog barks", True),  # two of its four
        ("rain falls the dog", False),  # one of three
        ("a hound barks", True),  # one of two
        ("hound", True),  # no word in common, but a cosine of 0.95 with what the clip's other caption says
        ("hound rain", False),
        ("while the", False),  # nothing that could be shared
    ],
)
def test_a_caption_like_one_of_the_clips_captions_is_likely_false(caption, is_like):
    found = likeness(["a dog barks", "the dog", caption], [0, 0, 1]).likely_false(np.array([0, 2]))
    assert found[0, 1] == is_like


def test_likely_false_negatives_by_loops():
    rng = np.random.default_rng(0)
    split, vectors = random_split(), rng.normal(size=(12, 20)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = ["<pad>", "the", "of", *(f"w{i}" for i in range(9))]
    captions = [ids.tolist() for ids in split.captions]
    like = CaptionLikeness([ids.numpy() for ids in split.captions], split.caption_clips, words, vectors)
    batch = rng.permutation(18)[:9]
    found = like.likely_false(batch)
    content = [{word for word in ids if words[word] not in FUNCTION_WORDS} for ids in captions]
    means = [sum((vectors[word] for word in some), np.zeros(20)) for some in content]
    for row, anchor in enumerate(batch):
        for column, item in enumerate(batch):
            expected = False
            for own in np.flatnonzero(split.caption_clips == split.caption_clips[anchor]):
                if content[item] and len(content[item] & content[own]) >= len(content[item]) / 2:
                    expected = True
                length = np.linalg.norm(means[item]) * np.linalg.norm(means[own])
                expected |= bool(length > 0 and means[item] @ means[own] / length >= 0.9)
            assert found[row, column] == expected
    assert 0 < found.mean() < 1
    picked = picked_by("full-batch-NS", BatchScores(torch.rand(9, 9), None, None), torch.arange(9))
    assert share_of_picks(picked, found) == pytest.approx(found[~np.eye(9, dtype=bool)].mean())
    assert share_of_picks(picked, np.zeros((9, 9), bool)) == 0


# --- while training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["semi-hard-NS", "hard-text-NS", "full-batch-NS"])
def test_an_epoch_reports_the_picks_of_its_strategy(name):
    """Of six pairs in batches of 4 and 2; the batches' scores are made once more, from the embeddings."""
    split, model = random_split(), random_model()
    one_each = split.captions[::3], split.caption_clips[::3]  # of one clip they tie, and rounding decides
    split = Split(split.fids, split.audio, split.tids[::3], *one_each)
    model.audio_enc.cnn[-1].p = 0.0  # dropout
    state = state_of(model, TripletLoss(0.5, name))
    state.optimizer.param_groups[0]["lr"] = 0.0
    results = train_epoch(state, batches(split, 4))
    expected = []
    for batch in batches(split, 4):
        with torch.no_grad():
            scores = embedding_scores(*model(batch.audio, batch.text))
        expected.append(plain_statistics(picked_by(name, scores, batch.clips)))
    assert [results[key] for key in STATISTICS] == pytest.approx(np.mean(expected, axis=0).tolist(), abs=1e-5)


def test_a_loss_without_a_strategy_reports_none():
    state = state_of(random_model(), InfoNCE(0.1))
    assert set(train_epoch(state, batches(random_split(), 6))) == {"train_loss", "active"}


def test_picks_are_kept_without_gradient():
    audio = torch.rand(4, 3, 5, requires_grad=True)
    picked = TripletLoss(0.5, "hard-NS")(embedding_scores(audio, torch.rand(4, 2, 5)), ~torch.eye(4, dtype=bool)).picked
    assert not any(part.requires_grad for part in picked) and picked.scores.device == CPU
