"""The grid of a sweep: every combination of its values, and what may not be swept."""

import sys
from collections import Counter

import pytest

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.conf import grid
from utils.conf.grid import grid_confs, grid_points
from utils.conf.load import checked, load_conf
from utils.sampling_utils import STRATEGIES

CONF = ROOT / "conf.yaml"


def refusal(*overrides):
    """The message by which grid_confs refuses a configuration that is valid without its grid."""
    conf = load_conf(CONF, overrides)
    with pytest.raises(UserError) as error:
        grid_confs(conf)
    return str(error.value)


def test_the_grid_has_every_combination():
    conf = load_conf(CONF)
    points, confs = grid_points(conf), grid_confs(conf)
    settings = [(point.criteria.TripletLoss.sampling, point.param_conf.seed) for point in confs]
    assert settings == [(strategy, seed) for strategy in STRATEGIES for seed in range(3)]
    assert load_conf(CONF, [f"{key}={value}" for key, value in points[4].items()]) == confs[4]


def test_a_key_may_be_written_in_sections():
    conf = load_conf(CONF, ["sweep_conf={param_conf: {seed: [7]}, AdamOptimizer.lr: [1e-3]}"])
    assert grid_points(conf) == [{"param_conf.seed": 7, "AdamOptimizer.lr": "1e-3"}]
    assert grid_confs(conf)[0].AdamOptimizer.lr == 1e-3
    conf = load_conf(CONF, ["sweep_conf.param_conf.seed=[5]"])  # replaces the dotted key of the file
    assert [point["param_conf.seed"] for point in grid_points(conf)] == [5] * 8


def test_settings_are_varied_together():
    pair = "{score: {frames: max}, AdamOptimizer.lr: 1e-3}"
    conf = load_conf(CONF, [f"sweep_conf={{settings: [{{}}, {pair}], param_conf.seed: [0, 1]}}"])
    assert [len(point) for point in grid_points(conf)] == [1, 1, 3, 3]
    confs = grid_confs(conf)
    points = [(point.score.frames, point.AdamOptimizer.lr, point.param_conf.seed) for point in confs]
    assert points == [(frames, 1e-3, seed) for frames in ("mean", "max") for seed in (0, 1)]
    tables = "{metrics: {}}, {metrics: {a: {margin: 1, sampling: hard-NS}}}"
    conf = load_conf(CONF, [f"sweep_conf={{settings: [{tables}]}}"])
    assert [len(point.metrics) for point in grid_confs(conf)] == [0, 1]


@pytest.mark.parametrize(
    ("grid", "key", "what"),
    [
        ("{settings: [random-NS]}", "settings", "holds 'random-NS'; each value must be a {key: value} mapping"),
        ("{settings: [{param_conf.seed: 1}], param_conf.seed: [0]}", "param_conf.seed", "set beside param_conf.seed"),
        ("{settings: [{score: {frames: max}, score.frames: mean}]}", "score.frames", "beside score.frames at one"),
        ("{score: [{}], settings: [{score.frames: max}]}", "score.frames", "is set beside score at one"),
        ("{settings: [{score.sharpness: 3}]}", "score.sharpness", "has no effect with score.frames=mean"),
        ("{settings: [{score.frame: max}]}", "score.frame", "did you mean score.frames?"),
        ("{settings: [{'1': 2}]}", "1", "unknown key"),
        ("{param_conf.sed: [1]}", "param_conf.sed", "did you mean param_conf.seed?"),
        ("{param_conf.seed: [0, -1]}", "param_conf.seed", "is -1"),
        ("{param_conf.seed.x: [0]}", "param_conf.seed.x", "seed is a value"),
        ("{param_conf: [1]}", "param_conf", "is 1"),
        ("{audio_logmel.fmin: [12, 9000]}", "audio_logmel", "fmin (9000 Hz)"),
        ("{audio_logmel.backend: [librosa]}", "audio_logmel.backend", "changes no result; leave it out"),
        ("{trial_base.x: [1]}", "trial_base.x", "changes no result"),
        ("{sweep_conf.param_conf.seed: [[1]]}", "sweep_conf.param_conf.seed", "changes no result"),
        ("{data_conf.eval_data: [evaluation, test]}", "data_conf.eval_data", "evaluation, not the training"),
        ("{settings: [{data_conf: {relevance: a.csv}}]}", "data_conf.relevance", "changes the evaluation"),
        ("{data_conf: [{eval_data: x, train_data: a, val_data: b}]}", "data_conf.eval_data", "changes the evaluation"),
        ("{criteria.InfoNCE.temperature: [0.1]}", "criteria.InfoNCE.temperature", "param_conf.criterion=TripletLoss"),
        (
            "{param_conf.criterion: [TripletLoss, InfoNCE], criteria.InfoNCE.temperature: [0.1]}",
            "criteria.InfoNCE.temperature",
            "has no effect with param_conf.criterion=TripletLoss",
        ),
        ("{word2vec_embeddings.train.window: [3]}", "word2vec_embeddings.train.window", "word2vec-google-news-300"),
        (
            "{word2vec_embeddings.train: [{vector_size: 4, window: 3, epochs: 1}]}",
            "word2vec_embeddings.train",
            "has no effect with word2vec_embeddings.source=word2vec-google-news-300",
        ),
    ],
)
def test_a_key_that_may_not_be_swept_is_refused_by_name(grid, key, what):
    message = refusal(f"sweep_conf={grid}")
    assert message.startswith(f"sweep_conf: {key}: ") and what in message and "\n" not in message


def test_two_points_that_are_the_same_experiment_are_refused():
    assert "are the same experiment; remove one" in refusal("sweep_conf={settings: [{}, {score.frames: mean}]}")


def test_each_problem_is_one_line_up_to_twenty():
    grid = "{param_conf.seed: [-1, 0, -2], criteria.TripletLoss.sampling: [semihard, hard-NS]}"
    assert len(refusal(f"sweep_conf={grid}").splitlines()) == 3
    lines = refusal(f"sweep_conf={{param_conf.seed: {list(range(-3000, 0))}}}").splitlines()
    assert len(lines) == 21 and lines[0].startswith("sweep_conf: param_conf.seed: is -3000;")
    assert lines[-1] == "sweep_conf: there are more problems"
    assert refusal(f"sweep_conf={{param_conf.sed: {list(range(3000))}}}").endswith("did you mean param_conf.seed?")


def test_the_work_to_check_a_grid_is_linear_in_its_points(monkeypatch):
    """Calls are counted, and the size of what each point's check is given: seconds vary with the machine."""
    sizes = []
    monkeypatch.setattr(grid, "checked", lambda tree, source: sizes.append(len(repr(tree))) or checked(tree, source))
    for key, value in (("param_conf.seed", "{}"), ("settings", "{{param_conf.seed: {}}}")):
        calls = {}
        for count in (100, 1000):
            values = ", ".join(value.format(seed) for seed in range(1000, 1000 + count))
            conf = load_conf(CONF, [f"sweep_conf={{{key}: [{values}], score.frames: [mean, max]}}"])
            assert grid_confs(conf)  # what the first call caches is not counted
            counter = Counter()
            sys.setprofile(lambda frame, event, argument, counter=counter: counter.update([event]))
            try:
                assert len(grid_confs(conf)) == 2 * count
            finally:
                sys.setprofile(None)
            calls[count] = counter["call"] + counter["c_call"]
        assert calls[1000] < 11 * calls[100]
    assert len(sizes) == 2 * 2 * 2 * (100 + 1000) and max(sizes) - min(sizes) < 20


def test_a_grid_that_is_too_large_is_refused_before_it_is_made():
    numbers = list(range(1, 1001))
    message = refusal(f"sweep_conf={{param_conf.seed: {numbers}, param_conf.batch_size: {numbers}}}")
    assert message == "sweep_conf: has 1000000 points, but a sweep takes 100000 at most; shorten its lists"


def test_the_grid_of_conf_yaml_is_checked_only_in_a_sweep():
    """python main.py param_conf.criterion=InfoNCE works, although that grid varies the triplet loss."""
    assert load_conf(CONF, ["param_conf.criterion=InfoNCE"]).objective == "InfoNCE"
    message = refusal("param_conf.criterion=InfoNCE")
    assert message.startswith("sweep_conf: criteria.TripletLoss.sampling: has no effect with param_conf.criterion=")
    conf = load_conf(CONF, ["param_conf.criterion=InfoNCE", "sweep_conf={param_conf.seed: [0, 1, 2]}"])
    assert [point.objective for point in grid_confs(conf)] == ["InfoNCE"] * 3
