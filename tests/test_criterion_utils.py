"""The loss and its strategies against the golden values and against plain loops over the definition."""

import math

import numpy as np
import pytest
import torch

from utils.criterion_utils import InfoNCE, TripletLoss, negative_mask
from utils.sampling_utils import STRATEGIES, BatchScores
from utils.score_utils import score_matrix

DETERMINISTIC = [name for name in STRATEGIES if name != "random-NS"]


def first_max(values, among):
    """Index of the highest value among some indices; ties: first."""
    return max(among, key=lambda j: (values[j], -j))


def plain_picks(name, i, cross, text, audio, others):
    """The audio and the text negatives of anchor i; cross[i, j] = S(a_i, t_j)."""
    if name == "full-batch-NS":
        return others, others
    if name == "semi-hard-NS":
        return [first_max(-abs(cross[:, i] - cross[i, i]), others)], [first_max(-abs(cross[i] - cross[i, i]), others)]
    if name == "hard-NS":
        return [first_max(cross[:, i], others)], [first_max(cross[i], others)]
    within = text if "text" in name else audio
    picked = first_max(within[i] if name.startswith("hard") else -within[i], others)
    return [picked], [picked]


def plain_loss(name, margin, cross, text, audio, fids):
    """Loss of a batch by loops over anchors and negatives."""
    anchors = []
    for i in range(len(fids)):
        others = [j for j in range(len(fids)) if fids[j] != fids[i]]
        if others:
            audio_negatives, text_negatives = plain_picks(name, i, cross, text, audio, others)
            audio_terms = [max(0.0, cross[j, i] - cross[i, i] + margin) for j in audio_negatives]
            text_terms = [max(0.0, cross[i, k] - cross[i, i] + margin) for k in text_negatives]
            anchors.append(np.mean(audio_terms) + np.mean(text_terms))
    return float(np.mean(anchors)) if anchors else 0.0


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_golden_loss_and_gradient(golden, name):
    arrays = golden("loss")
    audio = torch.from_numpy(arrays["audio_embeds"]).requires_grad_()
    criterion = TripletLoss(float(arrays["margin"]), name)
    loss = criterion(audio, torch.from_numpy(arrays["text_embeds"]), torch.from_numpy(arrays["fid"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays[f"loss/{name}"]), abs=1e-6)
    np.testing.assert_allclose(audio.grad, arrays[f"grad_audio/{name}"], atol=1e-6)


def test_golden_mean_of_random_negatives(golden):
    arrays = golden("loss")
    audio, text = torch.from_numpy(arrays["audio_embeds"]), torch.from_numpy(arrays["text_embeds"])
    criterion = TripletLoss(float(arrays["margin"]), "random-NS")
    torch.manual_seed(0)
    draws = np.array([criterion(audio, text, arrays["fid"]).item() for _ in range(400)])
    mean, std = float(arrays["loss/random-NS/mean_of_400"]), float(arrays["loss/random-NS/std_of_400"])
    assert abs(draws.mean() - mean) < 5 * std * np.sqrt(2 / 400)
    assert draws.std() == pytest.approx(std, rel=0.25)
    assert abs(draws.mean() - float(arrays["loss/full-batch-NS"])) < 5 * std / np.sqrt(400)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("seed", range(5))
def test_strategies_are_their_plain_loops(make_batch, name, seed, masked):
    audio, text, fids, audio_lens, text_lens = make_batch(seed)
    criterion = TripletLoss(0.1, name, mask_words=masked, mask_frames=masked)
    loss = criterion(audio, text, fids, audio_lens, text_lens)
    lens = (audio_lens, text_lens) if masked else (None, None)
    cross = score_matrix(audio, text, *lens).double().numpy()
    within_text = score_matrix(text, text, lens[1], lens[1]).double().numpy()
    within_audio = score_matrix(audio, audio, lens[0], lens[0]).double().numpy()
    expected = plain_loss(name, 0.1, cross, within_text, within_audio, fids.tolist())
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_ties_go_to_the_first_index(name):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):  # coarse scores: ties everywhere
        cross, text, audio = (torch.randint(0, 3, (8, 8), generator=generator) / 4.0 for _ in range(3))
        fids = torch.randint(0, 5, (8,), generator=generator)
        scores = BatchScores(cross, lambda text=text: text, lambda audio=audio: audio)
        picks = STRATEGIES[name](scores, negative_mask(fids), None)
        for i in range(8):
            others = [j for j in range(8) if fids[j] != fids[i]]
            plain = plain_picks(name, i, cross.numpy(), text.numpy(), audio.numpy(), others)
            assert tuple(mask[i].nonzero().flatten().tolist() for mask in picks) == plain


def test_random_negatives_are_uniform_and_drawn_apart():
    fids = torch.tensor([0, 1, 2, 0, 3])
    negatives = negative_mask(fids)
    scores = BatchScores(torch.zeros(5, 5), None, None)
    generator = torch.Generator().manual_seed(0)
    draws = [STRATEGIES["random-NS"](scores, negatives, generator) for _ in range(3000)]
    audio, text = (torch.stack(picks).float() for picks in zip(*draws, strict=True))
    expected = negatives / negatives.sum(1, keepdim=True)
    assert (audio.sum(2) == 1).all() and (text.sum(2) == 1).all()
    assert (audio.mean(0) - expected).abs().max() < 0.05
    assert (text.mean(0) - expected).abs().max() < 0.05
    assert 0.2 < (audio * text).sum(2).mean() < 0.4  # the same one by chance only: 1/3 or 1/4


@pytest.mark.parametrize("name", STRATEGIES)
def test_anchors_without_negatives_are_left_out(make_batch, name):
    audio, text, _, _, _ = make_batch(0, n=3)
    criterion = TripletLoss(0.5, name)
    for size, fids in [(1, [7]), (3, [7, 7, 7])]:
        batch = audio[:size].clone().requires_grad_()
        loss = criterion(batch, text[:size], fids)
        loss.backward()
        assert loss.item() == 0 and batch.grad.abs().max() == 0


def test_fids_may_be_names(make_batch):
    audio, text, fids, _, _ = make_batch(0)
    criterion = TripletLoss(0.5, "hard-NS")
    assert criterion(audio, text, fids) == criterion(audio, text, [f"clip {fid}" for fid in fids])


def test_active_is_the_share_of_violated_triplets():
    cross = torch.tensor([[0.9, 0.1], [0.5, 0.6]])
    terms = TripletLoss(0.3, "full-batch-NS").of_scores(BatchScores(cross, None, None), [0, 1])
    # of the four terms S - S_ii + 0.3 only anchor 1's text negative violates: S_10 - S_11 + 0.3 = 0.2
    assert terms.active.item() == pytest.approx(1 / 4)
    assert terms.loss.item() == pytest.approx(0.2 / 2)


def test_unknown_strategy_lists_the_eight():
    with pytest.raises(ValueError, match="semi-soft") as error:
        TripletLoss(0.5, "semi-soft")
    assert all(name in str(error.value) for name in STRATEGIES)


def test_masking_without_lengths_is_an_error(make_batch):
    audio, text, fids, _, _ = make_batch(0)
    with pytest.raises(ValueError, match="mask_words"):
        TripletLoss(0.5, "hard-NS", mask_words=True)(audio, text, fids)


# --- InfoNCE ---------------------------------------------------------------------------------------------


def plain_info_nce(scores, fids, temperature):
    """The definition, pair by pair."""
    losses = []
    for i in range(len(scores)):
        others = [j for j in range(len(scores)) if fids[j] != fids[i]]
        if others:
            texts = [scores[i][k] / temperature for k in [i, *others]]
            audios = [scores[j][i] / temperature for j in [i, *others]]
            losses.append(sum(math.log(sum(map(math.exp, row))) - row[0] for row in (texts, audios)) / 2)
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("masks", [{}, {"mask_words": True, "mask_frames": True}])
def test_info_nce_is_its_definition(make_batch, masks):
    audio, text, fids, audio_lens, text_lens = make_batch(0)
    criterion = InfoNCE(0.07, **masks)
    lens = (audio_lens, text_lens) if masks else (None, None)
    scores = score_matrix(audio, text, *lens)
    expected = plain_info_nce(scores.tolist(), fids.tolist(), 0.07)
    assert criterion(audio, text, fids, audio_lens, text_lens).item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_learns_its_temperature(make_batch):
    audio, text, fids, *_ = make_batch(1)
    scores = score_matrix(audio, text).tolist()
    criterion = InfoNCE(0.2)
    criterion(audio, text, fids).backward()
    step = 1e-5
    numeric = plain_info_nce(scores, fids.tolist(), 0.2 * math.exp(step))
    numeric = (numeric - plain_info_nce(scores, fids.tolist(), 0.2 * math.exp(-step))) / (2 * step)
    assert criterion.log_temperature.grad.item() == pytest.approx(numeric, rel=1e-3)


@pytest.mark.parametrize("fids", [[0], [3, 3, 3]])
def test_info_nce_without_negatives_is_0_with_zero_gradients(make_batch, fids):
    audio, text, *_ = make_batch(0, n=len(fids) + 2)
    audio = audio[: len(fids)].requires_grad_()
    criterion = InfoNCE(0.07)
    loss = criterion(audio, text[: len(fids)], fids)
    loss.backward()
    assert loss.item() == 0 and not audio.grad.any() and criterion.log_temperature.grad.item() == 0


def test_info_nce_counts_the_anchors_that_are_outscored():
    scores = torch.tensor([[0.3, 0.5, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.4]])
    terms = InfoNCE(0.07).of_scores(BatchScores(scores, None, None), [0, 1, 2])
    assert terms.active.item() == pytest.approx(2 / 6)  # the first text anchor and the second audio anchor
