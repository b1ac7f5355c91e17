"""The average of weights against the mean of what training left at each epoch's end."""

import copy

import pytest
import torch

from tests.helpers import equal, random_model, random_split, state_of
from utils.criterion_utils import InfoNCE
from utils.data_utils import batches
from utils.evaluation_utils import evaluate
from utils.model_utils import seed_epoch, train_epoch
from utils.swa_utils import WeightAverage


def train(average_from, epochs=4):
    """Of each epoch: the weights that were trained, those that are kept, the temperature and the evaluation."""
    split, model = random_split(), random_model()
    average = None if average_from is None else WeightAverage(model, average_from)
    state, kept = state_of(model, InfoNCE(0.1), average=average), []
    for epoch in range(epochs + 1):
        draws = seed_epoch(0, epoch)
        if epoch > 0:
            train_epoch(state, batches(split, 6, shuffle=True), draws)
        if state.average:
            state.average.add(state.model, epoch)
        results = evaluate(state, split, {}, 6)
        parts = {name: copy.deepcopy(part.state_dict()) for name, part in state.checkpointables.items()}
        kept.append((parts.get("trained", parts["model"]), parts["model"], parts["criterion"], results))
    return kept


@pytest.mark.parametrize("first", [1, 3])
def test_from_its_first_epoch_on_the_mean_is_kept_and_training_goes_on_without_it(first):
    plain, averaged = train(None), train(first)
    for epoch, (before, after) in enumerate(zip(plain, averaged, strict=True)):
        assert equal(before[0], after[0]) and equal(before[2], after[2])  # as trained, to the bit; the temperature, too
        if epoch <= first:
            assert equal(after[1], after[0]) and before[3] == after[3]
            continue
        assert before[3] != after[3]
        for name, weight in after[1].items():
            ends = torch.stack([weights[0][name].double() for weights in averaged[first : epoch + 1]])
            if weight.is_floating_point():
                torch.testing.assert_close(weight.double(), ends.mean(dim=0), atol=1e-6, rtol=1e-5)
