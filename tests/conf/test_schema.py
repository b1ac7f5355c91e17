"""What each setting may be, and its role."""

from functools import reduce
from operator import getitem
from typing import get_args

import pytest
import yaml

from models.audio_encoders import AUDIO_ENCODERS
from tests.helpers import ON_FEATURES, ROOT
from utils.common.errors import UserError
from utils.common.steps import CLEANING, EMBEDDING, FEATURES, INDEXING, LOG_MELS
from utils.conf.load import checked, load_conf
from utils.conf.schema import (
    FIELDS,
    AudioEncConf,
    Role,
    TripletLossConf,
    default_of,
    flat,
    result_settings,
    role_of,
    unused_because,
)
from utils.sampling_utils import STRATEGIES
from utils.score_utils import configured_score
from utils.trial.dataset_provenance import step_settings
from utils.trial.score_files import PUBLISHED

CONF = ROOT / "conf.yaml"


def test_the_papers_settings_are_the_default():
    conf = load_conf(CONF)
    assert conf.param_conf.num_epoch == 120 and conf.param_conf.batch_size == 32
    assert conf.param_conf.average_from is None
    assert conf.param_conf.criterion == "TripletLoss" and conf.param_conf.precision == "float32"
    assert conf.CRNNWordModel.audio_enc.dropout == 0.3
    assert conf.criteria.TripletLoss.model_dump() == {"margin": 0.5, "sampling": "random-NS"}
    score = configured_score(conf.score.model_dump(), 1)
    assert score.state_dict() == {} and str(score) == PUBLISHED
    assert not conf.score.mask_words and not conf.score.mask_frames
    assert conf.AdamOptimizer.model_dump() == {"lr": 1e-3, "weight_decay": 0, "decoupled_weight_decay": False}
    assert conf.ReduceLROnPlateau.model_dump() == {"factor": 0.1, "patience": 5, "threshold": 0.005, "min_lr": 1e-6}
    assert conf.TrialPlateauStopper.model_dump() == {"std": 0.001, "num_results": 10, "grace_period": 60}
    assert len(conf.word2vec_embeddings.variants) == 11


# --- what a setting may be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "what"),
    [
        ("param_conf.batchsize=3", "param_conf.batchsize", "did you mean param_conf.batch_size?"),
        ("optimiser={lr: 1}", "optimiser.lr", "did you mean AdamOptimizer.lr?"),
        ("batch_size=3", "batch_size", "did you mean param_conf.batch_size?"),
        ("parm_conf.seed=1", "parm_conf.seed", "did you mean param_conf.seed?"),
        ("parm_conf={seed: 1, tf32: true}", "parm_conf", "did you mean param_conf?"),
        ("optimiser.foo=3", "optimiser", "did you mean AdamOptimizer?"),
        ("TripletLoss.margin=1", "TripletLoss.margin", "did you mean criteria.TripletLoss.margin?"),
        ("seed=1", "seed", "demo_dataset.seed or word2vec_embeddings.seed or param_conf.seed?"),
        ("metrics.m={margn: 1, margin: 1, sampling: hard-NS}", "metrics.m.margn", "did you mean metrics.m.margin?"),
        ("nonsense=3", "nonsense", "the keys here are trial_series"),
        ("metrics.m={margin: 1, sampling: hard-NS, foo: 3}", "metrics.m.foo", "the keys here are margin, sampling"),
        ("criteria.TripletLoss.mask_words=true", "criteria.TripletLoss.mask_words", "did you mean score.mask_words?"),
        ("param_conf.batch_size='32'", "param_conf.batch_size", "valid integer"),
        ("param_conf.batch_size=1", "param_conf.batch_size", "greater than or equal to 2"),
        ("param_conf.num_epoch=1.5", "param_conf.num_epoch", "is 1.5"),
        ("param_conf.select_by=loss", "param_conf.select_by", "'val_obj' or 'val_map'"),
        ("param_conf.criterion=Triplet", "param_conf.criterion", "'TripletLoss' or 'InfoNCE'"),
        ("criteria.TripletLoss.margin=0", "criteria.TripletLoss.margin", "greater than 0"),
        ("criteria.TripletLoss.margin=.nan", "criteria.TripletLoss.margin", "finite number"),
        ("criteria.TripletLoss.margin=true", "criteria.TripletLoss.margin", "is True"),
        ("criteria.TripletLoss.sampling=[a]", "criteria.TripletLoss.sampling", "is ['a']"),
        ("criteria.TripletLoss.margin=1e300", "criteria.TripletLoss.margin", "less than or equal to 1000000"),
        ("criteria.InfoNCE.temperature=1e-40", "criteria.InfoNCE.temperature", "greater than or equal to 0.000001"),
        ("AdamOptimizer.lr=1e38", "AdamOptimizer.lr", "less than or equal to 1000000"),
        ("AdamOptimizer.weight_decay=1e300", "AdamOptimizer.weight_decay", "less than or equal to 1000000"),
        ("score.mask_words=1", "score.mask_words", "valid boolean"),
        ("criteria=null", "criteria", "is None"),
        ("data_conf=3", "data_conf", "is 3"),
        ("metrics={obj: {margin: 0.5, sampling: hard-NS}}", "metrics.obj.[key]", "choose another name"),
        ("text_cleaning.corrections={Birsd: birds}", "text_cleaning.corrections", "'Birsd': 'birds'"),
        ("text_cleaning.corrections={two words: one}", "text_cleaning.corrections", "one before the colon"),
        ("audio_features.model=panns", "audio_features.model", "'efficientat', 'transformers' or 'own'"),
        ("audio_logmel.backend=sox", "audio_logmel.backend", "'torch', 'librosa' or 'torchaudio'"),
        ("audio_logmel.n_mels=65", "audio_logmel.n_mels", "multiple of 64"),
        ("audio_logmel.fmin=9000", "audio_logmel", "fmin (9000 Hz) must be below fmax (8000 Hz)"),
        ("word2vec_embeddings.source=glove", "word2vec_embeddings.source", "'word2vec-google-news-300'"),
        ("word2vec_embeddings.source=file", "word2vec_embeddings", "is 'file' but file is None; name a file"),
        ("word2vec_embeddings.file=x", "word2vec_embeddings", "source to file"),
        ("word2vec_embeddings.train.vector_size=9", "word2vec_embeddings.train.vector_size", "multiple of 2"),
        ("CRNNWordModel.audio_enc.out_dim=21", "CRNNWordModel.audio_enc.out_dim", "multiple of 2"),
        ("trial_series=../x", "trial_series", "is '../x'"),
        ("data_conf.train_data=/etc", "data_conf.train_data", "is '/etc'"),
        ("sweep_conf.param_conf.seed=3", "sweep_conf.param_conf.seed", "valid list"),
        ("sweep_conf.param_conf.seed=[]", "sweep_conf.param_conf.seed", "at least 1 item"),
        ("sweep_conf.param_conf.seed=[1, 2, 1]", "sweep_conf.param_conf.seed", "holds 1 twice"),
        ("ray_conf.trial_resources.gpu=1.5", "ray_conf.trial_resources.gpu", "or whole GPUs"),
        ("ray_conf.init_args.address=ray://host:10001", "ray_conf.init_args.address", "is 'ray://host:10001'"),
        ("ray_conf.init_args={address: auto, num_cpus: 2, num_gpus: null}", "ray_conf.init_args", "leave num_cpus and"),
    ],
)
def test_wrong_settings_are_named(override, key, what):
    with pytest.raises(UserError) as error:
        load_conf(CONF, [override])
    message = str(error.value)
    assert message.startswith(f"{override!r}: {key}: ") and what in message and "\n" not in message


def test_the_schema_has_the_names_of_the_tables():
    assert get_args(TripletLossConf.model_fields["sampling"].annotation) == tuple(STRATEGIES)
    assert get_args(AudioEncConf.model_fields["name"].annotation) == tuple(AUDIO_ENCODERS)


def test_words_of_corrections_and_variants_are_normalized_like_captions():
    word = "e\u0301te"
    tables = [f"text_cleaning.corrections={{{word}s: {word}}}", f"word2vec_embeddings.variants={{{word}: [a]}}"]
    conf = load_conf(CONF, tables)
    assert conf.text_cleaning.corrections == {"étes": "éte"} and conf.word2vec_embeddings.variants == {"éte": ["a"]}


def test_encoder_sizes_must_fit_the_data_if_they_are_set():
    given = ["CRNNWordModel.audio_enc.in_dim=128", "CRNNWordModel.audio_enc.out_dim=20"]
    assert load_conf(CONF, ["audio_logmel.n_mels=128", *given]).audio_logmel.n_mels == 128
    with pytest.raises(UserError, match=r"n_mels is 64 but CRNNWordModel\.audio_enc\.in_dim is 128; leave .* null"):
        load_conf(CONF, given)
    load_conf(CONF, [*given, *ON_FEATURES])


# --- what a setting decides ------------------------------------------------------------------------------


TRAITS = ("decides_numbers", "tells_experiments_apart", "may_change_on_resume", "may_change_afterwards")
RESULTS = """audio_features.weights word2vec_embeddings.seed audio_logmel.hop text_cleaning.corrections
    text_cleaning.corrections.birsd data_conf.train_data score.mask_words criteria.TripletLoss.sampling
    metrics.random.margin ReduceLROnPlateau.patience no.such.key"""  # the last is an old trial's
RUNTIME = """audio_logmel.backend audio_logmel.workers audio_features.workers data_conf.cache data_conf.dataset
    trial_base log_tensorboard demo_dataset.seed clotho_dataset.on_bad_data ray_conf.trial_resources.cpu sweep_conf
    word2vec_embeddings.extra_words"""


@pytest.mark.parametrize(
    ("role", "traits", "keys"),
    [
        (Role.RESULTS, "decides_numbers tells_experiments_apart", RESULTS),
        (Role.SEED, "decides_numbers", "param_conf.seed"),
        (Role.DURATION, "decides_numbers tells_experiments_apart may_change_on_resume", "param_conf.num_epoch"),
        (Role.EVALUATION, "may_change_on_resume may_change_afterwards", "data_conf.eval_data data_conf.relevance"),
        (Role.RUNTIME, "may_change_on_resume may_change_afterwards", RUNTIME),
    ],
)
def test_the_role_of_a_setting(role, traits, keys):
    assert [name for name in TRAITS if getattr(role, name)] == traits.split()
    conf = load_conf(CONF)
    settings, deciding = flat(conf.model_dump()), result_settings(conf)
    assert deciding.items() <= settings.items()
    for key in keys.split():
        assert role_of(key) == role, key
        if key in settings and not unused_because(conf, key):
            assert (key in deciding) == role.decides_numbers, key


@pytest.mark.parametrize(
    ("override", "steps"),
    [
        ("text_cleaning.named_entities=keep", [CLEANING]),
        ("audio_logmel.hop=0.01", [LOG_MELS]),
        ("audio_logmel.backend=librosa", []),
        ("audio_features.weights=mn10_as", [FEATURES]),
        ("audio_features.model=own", [FEATURES]),
        ("word2vec_embeddings.unk_max_dot=0.5", [EMBEDDING]),
        ("word2vec_embeddings.source=train", [EMBEDDING]),
        ("word2vec_embeddings.train.window=9", []),  # read only with source=train
        ("param_conf.batch_size=16", []),
    ],
)
def test_a_changed_setting_outdates_the_outputs_of_its_step(override, steps):
    before, after = load_conf(CONF), load_conf(CONF, [override])
    made_of = (CLEANING, INDEXING, EMBEDDING, LOG_MELS, FEATURES)
    assert [step for step in made_of if step_settings(before, step) != step_settings(after, step)] == steps


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ([], "criteria.InfoNCE.temperature", "param_conf.criterion=TripletLoss"),
        ([], "criteria.TripletLoss.margin", None),
        (["param_conf.criterion=InfoNCE"], "criteria.TripletLoss.sampling", "param_conf.criterion=InfoNCE"),
        (["param_conf.criterion=InfoNCE"], "criteria.InfoNCE.temperature", None),
        ([], "AdamOptimizer.decoupled_weight_decay", "AdamOptimizer.weight_decay=0"),
        (["AdamOptimizer.weight_decay=0.1"], "AdamOptimizer.decoupled_weight_decay", None),
        ([], "word2vec_embeddings.train.epochs", "word2vec_embeddings.source=word2vec-google-news-300"),
        (["word2vec_embeddings.source=train"], "word2vec_embeddings.train.epochs", None),
        (["word2vec_embeddings.source=file", "word2vec_embeddings.file=x"], "word2vec_embeddings.file", None),
        ([], "metrics.random.margin", None),
        (["audio_features.model=own", *ON_FEATURES], "audio_features.weights", "audio_features.model=own"),
        ([], "audio_logmel.hop", None),
        ([], "audio_features.weights", "data_conf.audio=logmels"),
        (ON_FEATURES, "audio_logmel.hop", "data_conf.audio=features"),
        (ON_FEATURES, "audio_features.weights", None),
    ],
)
def test_an_unused_setting_is_explained_by_the_setting_that_makes_it_so(settings, key, reason):
    conf = load_conf(CONF, settings)
    assert unused_because(conf, key) == reason
    if key in flat(conf.model_dump()):
        assert (key in result_settings(conf)) == (reason is None)


def test_the_settings_of_steps_4_and_5_count_whichever_training_reads():
    log_mels, features = load_conf(CONF), load_conf(CONF, ON_FEATURES)
    for step, key, reader in ((LOG_MELS, "audio_logmel.hop", log_mels), (FEATURES, "audio_features.weights", features)):
        assert key in step_settings(log_mels, step) and step_settings(log_mels, step) == step_settings(features, step)
        assert [conf for conf in (log_mels, features) if key in result_settings(conf)] == [reader]


def test_conf_yaml_has_every_setting_and_every_default_of_older_trials():
    tree = yaml.safe_load(CONF.read_text())
    for key in FIELDS:
        value = reduce(getitem, key.split("."), tree)
        assert default_of(key) in (None, value), key


def test_a_trial_that_is_older_than_a_setting_has_its_default():
    conf, later = load_conf(CONF), [key for key, field in FIELDS.items() if not field.is_required()]
    assert {"audio_features", "data_conf.audio", "data_conf.relevance"} <= set(later)
    for key in later:
        tree = conf.model_dump()
        *sections, name = key.split(".")
        assert reduce(getitem, sections, tree).pop(name) == default_of(key), key
        assert checked(tree, "conf") == conf, key
