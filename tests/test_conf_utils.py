import pytest
import yaml

from tests.conftest import ROOT
from utils.conf_utils import conf_text, grid_confs, grid_points, load_conf, save_conf
from utils.io_utils import UserError
from utils.sampling_utils import STRATEGIES

CONF = ROOT / "conf.yaml"


def test_the_papers_settings_are_the_default():
    conf = load_conf(CONF)
    assert conf.param_conf.num_epoch == 120 and conf.param_conf.batch_size == 32
    assert conf.criteria.TripletLoss.margin == 0.5 and conf.criteria.TripletLoss.sampling == "random-NS"
    assert not conf.criteria.TripletLoss.mask_words and not conf.criteria.TripletLoss.mask_frames
    assert conf.AdamOptimizer.lr == 1e-3 and conf.AdamOptimizer.weight_decay == 0
    assert conf.ReduceLROnPlateau.model_dump() == {"factor": 0.1, "patience": 5, "threshold": 0.005, "min_lr": 1e-6}
    assert conf.TrialPlateauStopper.model_dump() == {"std": 0.001, "num_results": 10, "grace_period": 60}
    assert len(conf.word2vec_embeddings.variants) == 11


def test_overrides_and_yaml_numbers():
    conf = load_conf(CONF, ["AdamOptimizer.lr=1e-4", "criteria.TripletLoss.sampling=hard-NS", "metrics={}"])
    assert conf.AdamOptimizer.lr == 1e-4
    assert conf.criteria.TripletLoss.sampling == "hard-NS"
    assert conf.metrics == {}


def test_demo_is_a_small_difference_over_the_default():
    difference = yaml.safe_load((ROOT / "conf_demo.yaml").read_text())
    assert difference.pop("base") == "conf.yaml"
    conf = load_conf(ROOT / "conf_demo.yaml")
    assert conf.trial_series == difference["trial_series"] != load_conf(CONF).trial_series
    assert conf.audio_logmel.n_mels == 64


def test_resolved_configuration_reads_back(tmp_path):
    conf = load_conf(ROOT / "conf_demo.yaml", ["param_conf.seed=7"])
    save_conf(conf, tmp_path / "conf.yaml")
    assert load_conf(tmp_path / "conf.yaml") == conf
    assert "base" not in yaml.safe_load(conf_text(conf))


def test_bases_may_stand_on_bases(tmp_path):
    (tmp_path / "mid.yaml").write_text(f"base: {CONF}\nparam_conf: {{num_epoch: 3}}\n")
    (tmp_path / "top.yaml").write_text("base: mid.yaml\nparam_conf: {seed: 5}\n")
    conf = load_conf(tmp_path / "top.yaml")
    assert (conf.param_conf.num_epoch, conf.param_conf.seed, conf.param_conf.batch_size) == (3, 5, 32)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("param_conf.batchsize=3", "param_conf.batchsize: unknown key; did you mean batch_size?"),
        ("nonsense=3", "nonsense: unknown key; the keys here are trial_series"),
        ("metrics.triplet_loss.foo=3", "metrics.triplet_loss.foo: unknown key; the keys here are margin, sampling"),
        ("param_conf.batch_size='32'", "param_conf.batch_size: is '32'; input should be a valid integer"),
        ("param_conf.batch_size=1", "greater than or equal to 2"),
        ("param_conf.num_epoch=1.5", "param_conf.num_epoch: is 1.5"),
        ("param_conf.select_by=loss", "'val_obj' or 'val_map'"),
        ("criteria.TripletLoss.margin=-1", "criteria.TripletLoss.margin: is -1"),
        ("criteria.TripletLoss.margin=.nan", "finite number"),
        ("criteria.TripletLoss.margin=true", "criteria.TripletLoss.margin: is True"),
        ("criteria.TripletLoss.mask_words=1", "mask_words: is 1; input should be a valid boolean"),
        ("criteria=null", "criteria: is None"),
        ("criteria.TripletLoss.sampling=[a]", "criteria.TripletLoss.sampling: is ['a']"),
        ("criteria.TripletLoss.margin=0", "greater than 0"),
        ("metrics={obj: {margin: 0.5, sampling: hard-NS}}", "val_obj is reported anyway"),
        ("text_cleaning.corrections={Birsd: birds}", "'Birsd': 'birds' must be lower-case words"),
        ("text_cleaning.corrections={two words: one}", "one before the colon"),
        ("text_cleaning.corrections={on: over}", "is True; input should be a valid string"),
        ("audio_logmel.backend=sox", "'torch', 'librosa' or 'torchaudio'"),
        ("audio_logmel.n_mels=65", "multiple of 64"),
        ("audio_logmel.n_mels=128", "CRNNWordModel.audio_enc.in_dim is 64; they must be equal"),
        ("audio_logmel.fmin=9000", "fmin (9000 Hz) must be below fmax (8000 Hz)"),
        ("word2vec_embeddings.source=file", "set word2vec_embeddings.file"),
        ("trial_series=../x", "trial_series: is '../x'"),
        ("data_conf.train_data=/etc", "data_conf.train_data: is '/etc'"),
        ("param_conf", "is written section.key=value"),
        ("param_conf..seed=1", "is written section.key=value"),
        ("trial_base.x=1", "trial_base is a value, not a section"),
        ("param_conf.seed=[1", "not a valid YAML value"),
        ("sweep_conf={param_conf.sed: [1]}", "sweep_conf: param_conf.sed: unknown key; did you mean seed?"),
        ("sweep_conf.param_conf.seed=3", "sweep_conf.param_conf.seed: is 3; input should be a valid list"),
        ("sweep_conf.param_conf.seed=[]", "sweep_conf.param_conf.seed: is []; list should have at least 1 item"),
        ("sweep_conf.param_conf.seed=[1, 2, 1]", "sweep_conf.param_conf.seed: is [1, 2, 1]; holds 1 twice"),
        ("sweep_conf.param_conf.seed=[0, -1]", "sweep_conf: param_conf.seed: is -1"),
        ("sweep_conf={trial_base.x: [1]}", "sweep_conf: trial_base.x: cannot differ within a sweep"),
        ("sweep_conf={log_tensorboard.x: [1]}", "sweep_conf: log_tensorboard.x: log_tensorboard is a value, not a"),
        ("sweep_conf={audio_logmel.fmin: [12, 9000]}", "sweep_conf: audio_logmel: fmin (9000 Hz) must be below"),
        ("ray_conf.trial_resources.gpu=1.5", "ray_conf.trial_resources.gpu: is 1.5; ray shares out parts of one GPU"),
        ("ray_conf.init_args.address=ray://host:10001", "ray_conf.init_args.address: is 'ray://host:10001'"),
        ("ray_conf.init_args={address: auto, num_cpus: 2}", "leave num_cpus and num_gpus at null"),
    ],
)
def test_wrong_settings_are_named(override, message):
    with pytest.raises(UserError) as error:
        load_conf(CONF, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_strategy_lists_the_eight():
    with pytest.raises(UserError) as error:
        load_conf(CONF, ["criteria.TripletLoss.sampling=semihard"])
    assert all(name in str(error.value) for name in STRATEGIES)


def test_the_grid_of_a_sweep_is_every_combination():
    conf = load_conf(CONF)
    points = grid_points(conf)
    assert len(points) == 8 * 3 and len({tuple(point.items()) for point in points}) == 8 * 3
    settings = [(point.criteria.TripletLoss.sampling, point.param_conf.seed) for point in grid_confs(conf, "here")]
    assert settings == [(strategy, seed) for strategy in STRATEGIES for seed in range(3)]
    assert load_conf(CONF, [f"{key}={value}" for key, value in points[4].items()]) == grid_confs(conf, "here")[4]
    # A key may be written in sections as well; one on the command line takes the place of the file's.
    conf = load_conf(
        CONF, ["sweep_conf.param_conf.seed=[5]", "sweep_conf={param_conf: {seed: [7]}, AdamOptimizer.lr: [1e-3]}"]
    )
    assert grid_points(conf) == [{"param_conf.seed": 7, "AdamOptimizer.lr": "1e-3"}]
    assert grid_confs(conf, "here")[0].AdamOptimizer.lr == 1e-3
    assert len(grid_points(load_conf(CONF, ["sweep_conf.param_conf.seed=[5]"]))) == 8


def test_trials_of_before_sweeps_are_still_read(tmp_path):
    tree = yaml.safe_load(conf_text(load_conf(CONF)))
    for key in ("sweep_conf", "ray_conf", "log_tensorboard"):
        tree.pop(key)
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(tree))
    assert load_conf(tmp_path / "conf.yaml").sweep_conf == {}


def test_each_wrong_value_of_a_grid_gets_its_line():
    with pytest.raises(UserError) as error:
        load_conf(
            CONF, ["sweep_conf={param_conf.seed: [-1, 0, -2], criteria.TripletLoss.sampling: [semihard, hard-NS]}"]
        )
    assert len(str(error.value).splitlines()) == 3


def test_each_wrong_setting_gets_its_line():
    with pytest.raises(UserError) as error:
        load_conf(CONF, ["param_conf.seed=-1", "AdamOptimizer.lr=0"])
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "holds no `key: value` settings"),
        ("", "holds no `key: value` settings"),
        ("a: [1\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("base: 3\n", "base: 3 must be the path"),
        ("base: absent.yaml\n", "no such configuration file"),
        ("base: conf.yaml\n", "leads back to this file"),
        ("trial_series: x\n", "data_conf: missing"),
    ],
)
def test_unfit_files_are_refused(tmp_path, text, message):
    (tmp_path / "conf.yaml").write_text(text)
    with pytest.raises(UserError, match=r"conf\.yaml|absent\.yaml") as error:
        load_conf(tmp_path / "conf.yaml")
    assert message in str(error.value)


def test_a_table_replaces_its_bases_whole(tmp_path):
    (tmp_path / "conf.yaml").write_text(f"base: {CONF}\nmetrics: {{}}\nword2vec_embeddings: {{variants: {{a: [A]}}}}\n")
    conf = load_conf(tmp_path / "conf.yaml")
    assert conf.metrics == {} and conf.word2vec_embeddings.variants == {"a": ["A"]}
    assert conf.word2vec_embeddings.unk_max_dot == 0.25


def test_latin_1_is_refused(tmp_path):
    (tmp_path / "conf.yaml").write_bytes("trial_series: é".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_conf(tmp_path / "conf.yaml")
