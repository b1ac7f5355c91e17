"""Evaluation on a CUDA device: a real one, or the pretend one, on which a child process runs this file again."""

import copy
import sys

import numpy as np
import pytest
import torch

from tests.helpers import (
    CPU,
    ON_PRETEND_CUDA,
    call,
    matrix_of,
    needs_pretend_cuda,
    random_model,
    random_split,
    state_of,
)
from utils import fast_score_utils
from utils.criterion_utils import InfoNCE, TripletLoss
from utils.device_utils import Diverged
from utils.evaluation_utils import evaluate, score_split
from utils.metric_utils import relevant_pairs
from utils.retrieval_utils import rank_counts
from utils.sampling_utils import STRATEGIES

CUDA = torch.device("cuda")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_pretend_cuda
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_all_of_this_holds_on_the_pretend_device():
    out = call(*ON_PRETEND_CUDA, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_evaluation_counts.py")
    assert " passed, 1 skipped" in out, out  # itself


@on_cuda
@pytest.mark.parametrize("name", ["semi-hard-NS", "hard-text-NS", "easy-audio-NS"])
def test_an_evaluation_of_64_clips_is_few_kernels_and_one_wait(name):
    if "tests.pretend_cuda.pretend" not in sys.modules:
        pytest.skip("only the pretend device counts")
    from tests.pretend_cuda.counts import OBJECTIVES, of_evaluation

    watch = of_evaluation(OBJECTIVES[name])
    assert watch.kernels.total() <= 330, watch.report()  # of which each of two batches of the objective takes 20 to 40
    assert watch.syncs.total() <= 3 and not watch.pageable, watch.report()


@on_cuda
@pytest.mark.parametrize("at_once", [1, 2000, 2**27])  # similarities: clip by clip, in several products, in one
@pytest.mark.parametrize("name", ["InfoNCE", *STRATEGIES])
def test_evaluation_on_cuda_is_that_of_the_cpu(monkeypatch, name, at_once):
    monkeypatch.setattr(fast_score_utils, "AT_ONCE", at_once)
    criterion = InfoNCE(0.07) if name == "InfoNCE" else TripletLoss(0.5, name)
    results = []
    for device in (CPU, CUDA):
        state = state_of(random_model().to(device), copy.deepcopy(criterion).to(device), device)
        results.append(evaluate(state, random_split(), {"x": TripletLoss(0.1, "full-batch-NS")}, 5))
    assert results[1] == pytest.approx(results[0], abs=1e-5)


@on_cuda
def test_scores_on_cuda_are_those_of_the_cpu():
    ours, theirs = (score_split(random_model().to(each).eval(), random_split()).cross for each in (CUDA, CPU))
    assert ours.by_word.is_cuda
    np.testing.assert_allclose(matrix_of(ours), matrix_of(theirs), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.by_word.cpu(), theirs.by_word, rtol=0, atol=1e-5)
    pairs = relevant_pairs(random_split().caption_clips)
    by_cuda = rank_counts(theirs.to(CUDA), pairs).cpu()
    torch.testing.assert_close(by_cuda, rank_counts(theirs, pairs), rtol=0, atol=1e-6)


@on_cuda
def test_scores_on_cuda_that_are_not_finite_end_the_evaluation():
    model = random_model().to(CUDA)
    with torch.no_grad():
        model.audio_enc.gru.bias_ih_l0[0] = torch.nan
    with pytest.raises(Diverged, match="validation scores are not finite"):
        evaluate(state_of(model, TripletLoss(0.5, "hard-audio-NS"), CUDA), random_split(), {}, 5)
