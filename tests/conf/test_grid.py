"""The grid of a sweep: every combination of its values, and what may not be swept over."""

import time

import pytest

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.conf.grid import grid_confs, grid_points
from utils.conf.load import load_conf
from utils.sampling_utils import STRATEGIES

CONF = ROOT / "conf.yaml"


def complaint(*overrides):
    """What grid_confs says of a configuration that itself is fine."""
    conf = load_conf(CONF, overrides)
    with pytest.raises(UserError) as error:
        grid_confs(conf)
    return str(error.value)


def test_the_grid_is_every_combination():
    conf = load_conf(CONF)
    points, confs = grid_points(conf), grid_confs(conf)
    settings = [(point.criteria.TripletLoss.sampling, point.param_conf.seed) for point in confs]
    assert settings == [(strategy, seed) for strategy in STRATEGIES for seed in range(3)]
    assert load_conf(CONF, [f"{key}={value}" for key, value in points[4].items()]) == confs[4]


def test_a_key_may_be_written_in_sections():
    conf = load_conf(CONF, ["sweep_conf={param_conf: {seed: [7]}, AdamOptimizer.lr: [1e-3]}"])
    assert grid_points(conf) == [{"param_conf.seed": 7, "AdamOptimizer.lr": "1e-3"}]
    assert grid_confs(conf)[0].AdamOptimizer.lr == 1e-3


def test_a_key_on_the_command_line_takes_the_place_of_the_files():
    # The dotted key of the file and the section of the command line are one key.
    points = grid_points(load_conf(CONF, ["sweep_conf.param_conf.seed=[5]"]))
    assert [point["param_conf.seed"] for point in points] == [5] * 8


def test_settings_go_together():
    both = "{score: {frames: max}, AdamOptimizer.lr: 1e-3}"
    conf = load_conf(CONF, [f"sweep_conf={{settings: [{{}}, {both}], param_conf.seed: [0, 1]}}"])
    assert [len(point) for point in grid_points(conf)] == [1, 1, 3, 3]
    confs = grid_confs(conf)
    assert [(point.score.frames, point.param_conf.seed) for point in confs] == [
        ("mean", 0), ("mean", 1), ("max", 0), ("max", 1)
    ]  # fmt: skip
    assert confs[3].AdamOptimizer.lr == 1e-3


@pytest.mark.parametrize(
    ("grid", "key", "what"),
    [
        ("{settings: [random-NS]}", "settings", "holds 'random-NS', but each value"),
        (
            "{settings: [{param_conf.seed: 1}], param_conf.seed: [0]}",
            "param_conf.seed",
            "beside param_conf.seed at one",
        ),
        ("{settings: [{score: {frames: max}, score.frames: mean}]}", "score.frames", "beside score.frames at one"),
        ("{score: [{}], settings: [{score.frames: max}]}", "score.frames", "is set beside score at one"),
        ("{settings: [{score.sharpness: 3}]}", "score.sharpness", "score.frames=mean; leave it out of settings"),
        ("{settings: [{score.frame: max}]}", "score.frame", "did you mean score.frames?"),
        ("{param_conf.sed: [1]}", "param_conf.sed", "did you mean param_conf.seed?"),
        ("{param_conf.seed: [0, -1]}", "param_conf.seed", "is -1"),
        ("{settings: [{1: 2}]}", "1", "unknown key"),
        ("{param_conf.seed.x: [0]}", "param_conf.seed.x", "seed is a value"),
        ("{param_conf: [1]}", "param_conf", "is 1"),
        ("{audio_logmel.fmin: [12, 9000]}", "audio_logmel", "fmin (9000 Hz)"),
        ("{audio_logmel.backend: [librosa]}", "audio_logmel.backend", "decides no number"),
        ("{data_conf.cache: [disk]}", "data_conf.cache", "decides no number"),
        ("{data_conf.dataset: [a, b]}", "data_conf.dataset", "decides no number"),
        ("{trial_base.x: [1]}", "trial_base.x", "decides no number"),
        ("{data_conf.eval_data: [evaluation, test]}", "data_conf.eval_data", "is what trials are measured on"),
        ("{settings: [{data_conf: {relevance: a.csv}}]}", "data_conf.relevance", "leave it out of settings"),
        ("{data_conf: [{eval_data: x, train_data: a, val_data: b}]}", "data_conf.eval_data", "measure"),
        ("{log_tensorboard: [true, false]}", "log_tensorboard", "decides no number"),
        ("{sweep_conf.param_conf.seed: [[1]]}", "sweep_conf.param_conf.seed", "decides no number"),
        ("{criteria.InfoNCE.temperature: [0.1]}", "criteria.InfoNCE.temperature", "param_conf.criterion=TripletLoss"),
        ("{word2vec_embeddings.train.window: [3]}", "word2vec_embeddings.train.window", "word2vec-google-news-300"),
    ],
)
def test_what_may_not_be_swept_over_is_named(grid, key, what):
    message = complaint(f"sweep_conf={grid}")
    assert message.startswith(f"sweep_conf: {key}: ") and what in message and "\n" not in message


def test_one_experiment_does_not_stand_at_two_points():
    assert "are one experiment; leave one of them out" in complaint("sweep_conf={settings: [{}, {score.frames: mean}]}")
    conf = load_conf(CONF, ["sweep_conf={settings: [{metrics: {}}, {metrics: {a: {margin: 1, sampling: hard-NS}}}]}"])
    assert [len(there.metrics) for there in grid_confs(conf)] == [0, 1]


def test_each_wrong_value_gets_its_line():
    lines = complaint("sweep_conf={param_conf.seed: [-1, 0, -2], criteria.TripletLoss.sampling: [semihard, hard-NS]}")
    assert len(lines.splitlines()) == 3


def test_a_long_grid_is_checked_at_once():
    """Each point costs the same, however many there are: in seconds of the processor."""
    seconds = []
    for key, value in (("param_conf.seed", "{}"), ("settings", "{{param_conf.seed: {}}}")):
        for count in (200, 2000):
            values = ", ".join(value.format(seed) for seed in range(count))
            conf = load_conf(CONF, [f"sweep_conf={{{key}: [{values}], score.frames: [mean, max]}}"])
            start = time.process_time()
            assert len(grid_confs(conf)) == 2 * count
            seconds.append(time.process_time() - start)
    assert all(many < 40 * few for few, many in zip(seconds[::2], seconds[1::2], strict=True)) and max(seconds) < 20


def test_a_grid_with_many_faults_says_the_first_ones():
    lines = complaint(f"sweep_conf={{param_conf.seed: {list(range(-3000, 0))}}}").splitlines()
    assert len(lines) == 21 and lines[0].startswith("sweep_conf: param_conf.seed: is -3000;")
    assert lines[-1].startswith("sweep_conf: ") and "more things are wrong" in lines[-1]
    assert complaint(f"sweep_conf={{param_conf.sed: {list(range(3000))}}}").endswith("did you mean param_conf.seed?")
    idle = complaint(f"sweep_conf={{data_conf.cache: [disk], param_conf.seed: {list(range(3000))}}}")
    assert idle == "sweep_conf: data_conf.cache: decides no number; leave it out of sweep_conf"


def test_a_grid_without_end_is_refused_unmade():
    numbers = list(range(1, 1001))
    message = complaint(f"sweep_conf={{param_conf.seed: {numbers}, param_conf.batch_size: {numbers}}}")
    assert message == "sweep_conf: has 1000000 points, but a sweep takes 100000 at most; shorten its lists"


def test_conf_yamls_grid_does_not_stand_in_the_way_of_another_criterion():
    """python main.py param_conf.criterion=InfoNCE: the grid in conf.yaml is of the triplet loss."""
    conf = load_conf(CONF, ["param_conf.criterion=InfoNCE"])
    assert conf.objective == "InfoNCE" and "criteria.TripletLoss.sampling" in conf.sweep_conf


def test_an_idle_key_is_refused_with_what_to_write_instead():
    message = complaint("param_conf.criterion=InfoNCE")
    assert message.startswith("sweep_conf: criteria.TripletLoss.sampling: ")
    assert "param_conf.criterion=InfoNCE" in message
    advice = message.split('"')[1]  # as it stands between the quotes, for the command line
    conf = load_conf(CONF, ["param_conf.criterion=InfoNCE", advice])
    assert [point.param_conf.seed for point in grid_confs(conf)] == [0, 1, 2]
    assert all(point.objective == "InfoNCE" for point in grid_confs(conf))


def test_a_key_that_plays_its_part_at_some_points_only_is_idle():
    grid = "sweep_conf={param_conf.criterion: [TripletLoss, InfoNCE], criteria.InfoNCE.temperature: [0.1]}"
    message = complaint(grid)
    assert message.startswith("sweep_conf: criteria.InfoNCE.temperature: ") and "\n" not in message
    assert "param_conf.criterion: [TripletLoss, InfoNCE]" in message  # what to write instead keeps the other key
