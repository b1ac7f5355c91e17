"""The study: which variant it chooses, on which split, and what its tables show."""

import sys

import numpy as np
import pytest

from benchmarks.studies import study
from tests.helpers import write_finished
from utils.report.bootstrap import BOTH, differences
from utils.report.groups import highest


def scores_of(rng, strength):
    """Scores of 12 clips with five captions each; `strength` is added to a clip's own captions."""
    return rng.random((12, 60)) + strength * np.repeat(np.eye(12), 5, axis=1)


@pytest.fixture
def trials(tmp_path):
    """Two seeds of three variants. The first is neither the best nor the first in the alphabet."""
    rng, variants = np.random.default_rng(0), (("random-NS", 0.3), ("semi-hard-NS", 0.6), ("full-batch-NS", 0.1))
    on_validation = ("data_conf.val_data=evaluation",)  # the split that these trials have scores of
    return [
        write_finished(tmp_path, f"{name}{seed}", name, seed, scores=scores_of(rng, strength), settings=on_validation)
        for name, strength in variants
        for seed in (0, 1)
    ]


def test_the_variant_with_the_highest_mean_map_is_chosen_and_compared_with_the_first(trials):
    groups = study.groups_on(trials, "evaluation")
    assert groups[0].label == "random-NS" and len(groups) == 3
    chosen = highest(groups)
    assert chosen.label == "semi-hard-NS"
    header, _, *rows = study.variants_table(groups, chosen)
    assert header.startswith("| validation mAP | seeds | epochs | Text-to-audio |")
    assert rows[0].startswith("| random-NS | 2 | 2, 2 | ") and rows[0].endswith(" | |")
    (row,) = [row for row in rows if row.startswith("| **sampling=semi-hard-NS** |")]
    apart = differences(chosen.queries, groups[0].queries)[BOTH]
    assert apart.low > 0 and f"| +{apart.value:.3f} [+{apart.low:.3f}, +{apart.high:.3f}] |" in row


def test_evaluate_scores_only_the_chosen_and_the_published_variant(trials, monkeypatch, capsys):
    scored = []
    monkeypatch.setattr(study, "score_on", lambda trial, split: scored.append((trial.name, split)))
    monkeypatch.setattr(sys, "argv", ["study", *map(str, trials), "--evaluate", "evaluation"])
    study.main()
    names = ("random-NS0", "random-NS1", "semi-hard-NS0", "semi-hard-NS1")
    assert scored == [(name, "evaluation") for name in names]  # and nothing of the variant that lost
    printed = capsys.readouterr().out
    before, after = (study.groups_on(some, "evaluation")[0] for some in (trials[:2], trials[2:4]))
    ratio = after.mean(BOTH, "mAP") / before.mean(BOTH, "mAP")
    assert "| evaluation mAP |" in printed and f" {ratio:.2f} |" in printed
    assert "| seeds in which it is better | 2 of 2 | 2 of 2 | |" in printed


def test_a_best_published_setting_is_not_compared_with_itself(trials, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", *map(str, trials[2:]), "--evaluate", "evaluation"])
    study.main()
    printed = capsys.readouterr().out
    assert "| **semi-hard-NS** |" in printed and "evaluation mAP" not in printed
