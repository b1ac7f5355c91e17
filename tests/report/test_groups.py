from pathlib import Path

from tests.helpers import ROOT, queries_of, some_scores
from utils.conf.load import load_conf
from utils.report.groups import TrialResult, best_groups, group_trials
from utils.report.numbers import METRICS


def result(sampling, seed=0, settings=(), value=0.5):
    """A trial that has every metric at this value."""
    overrides = (f"criteria.TripletLoss.sampling={sampling}", f"param_conf.seed={seed}", *settings)
    conf = load_conf(ROOT / "conf_demo.yaml", overrides)
    metrics, queries = {"text_to_audio": dict.fromkeys(METRICS, value)}, queries_of(*some_scores())
    return TrialResult(Path(f"{sampling}{seed}"), conf, metrics, [], {}, queries)


def test_the_best_groups_tie_to_the_digits_shown():
    def groups(*means):
        strategies = ["random-NS", "hard-NS", "semi-hard-NS"]
        return group_trials(result(name, value=mean) for name, mean in zip(strategies, means, strict=False))

    assert best_groups(groups(0.5001, 0.4999, 0.3), "text_to_audio", "mAP") == {"random-NS", "hard-NS"}
    assert best_groups(groups(0.5, 0.4, 0.3), "text_to_audio", "MedR") == {"semi-hard-NS"}
    assert best_groups(groups(0.5), "text_to_audio", "mAP") == set()


def test_settings_that_change_no_result_do_not_split_a_group():
    around = ("log_tensorboard=true", "ray_conf.trial_resources.cpu=2", "sweep_conf={param_conf.seed: [0, 1]}")
    idle = ("criteria.InfoNCE.temperature=1", "data_conf.dataset=x")
    (group,) = group_trials([result("hard-NS", seed=1, settings=(*around, *idle)), result("hard-NS")])
    assert group.label == "hard-NS" and [member.seed for member in group.results] == [0, 1]


def test_labels_have_whole_keys_where_two_settings_end_alike():
    def settings(of_loss, of_metric):
        metric = f"metrics={{other: {{margin: {of_metric}, sampling: random-NS}}}}"
        return (f"criteria.TripletLoss.margin={of_loss}", metric)

    values = ((0.4, 0.4), (0.4, 0.5), (0.5, 0.4))
    labels = [group.label for group in group_trials(result("hard-NS", settings=settings(*pair)) for pair in values)]
    assert labels == [f"hard-NS, criteria.TripletLoss.margin={a}, metrics.other.margin={b}" for a, b in values]
