"""Configuration files: laid over their bases, overridden, and refused where they cannot be read."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.conf.grid import grid_confs
from utils.conf.load import conf_text, load_conf, save_conf
from utils.conf.schema import Conf

ONE_LINE = r"^[^\n]*\Z"
CONF = ROOT / "conf.yaml"


def test_overrides_and_yaml_numbers():
    conf = load_conf(CONF, ["AdamOptimizer.lr=1e-4", "criteria.TripletLoss.sampling=hard-NS", "param_conf.tf32=true"])
    assert conf.AdamOptimizer.lr == 1e-4
    assert conf.criteria.TripletLoss.sampling == "hard-NS"
    assert conf.param_conf.tf32 is True


@pytest.mark.parametrize("name", ["conf_demo.yaml", "conf_best.yaml"])
def test_the_other_files_hold_just_what_differs(name):
    difference = yaml.safe_load((ROOT / name).read_text())
    assert difference.pop("base") == "conf.yaml"
    default, conf = load_conf(CONF).model_dump(), load_conf(ROOT / name).model_dump()
    assert difference.keys() == {key for key in conf if conf[key] != default[key]}


def test_resolved_configuration_reads_back(tmp_path):
    conf = load_conf(ROOT / "conf_demo.yaml", ["param_conf.seed=7", "trial_series=雨"])
    save_conf(conf, tmp_path / "conf.yaml")
    assert load_conf(tmp_path / "conf.yaml") == conf
    assert "base" not in yaml.safe_load(conf_text(conf))


def test_bases_may_stand_on_bases(tmp_path):
    (tmp_path / "mid.yaml").write_text(f"base: {CONF}\nparam_conf: {{num_epoch: 3}}\n")
    (tmp_path / "top.yaml").write_text("base: mid.yaml\nparam_conf: {seed: 5}\n")
    conf = load_conf(tmp_path / "top.yaml")
    assert (conf.param_conf.num_epoch, conf.param_conf.seed, conf.param_conf.batch_size) == (3, 5, 32)


def test_a_table_replaces_its_bases_whole(tmp_path):
    (tmp_path / "conf.yaml").write_text(
        f"base: {CONF}\nsweep_conf: {{}}\nword2vec_embeddings: {{variants: {{a: [A]}}}}\n"
    )
    conf = load_conf(tmp_path / "conf.yaml")
    assert conf.sweep_conf == {} and conf.word2vec_embeddings.variants == {"a": ["A"]}
    assert conf.word2vec_embeddings.unk_max_dot == 0.25


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("param_conf", "'param_conf': … section.key=value"),
        ("param_conf..seed=1", "'param_conf..seed=1': … section.key=value"),
        ("trial_base.x=1", "'trial_base.x=1': … trial_base is a value"),
        ("param_conf.seed=[1", "'param_conf.seed=[1': … '[1' is not a valid YAML value"),
    ],
)
def test_unfit_overrides_are_refused(override, what):
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(CONF, [override])
    assert all(part in str(error.value) for part in what.split(" … "))


@pytest.mark.parametrize("number", ["010", "1:20", "1_0", "0x10", "0b1", "0o7", "1e1", "1_0.0", "1_0e1", "٣"])
@pytest.mark.parametrize("key", ["param_conf.seed", "param_conf.num_epoch", "audio_logmel.fmin", "sweep_conf"])
def test_a_number_is_plain_decimal_or_one_line_that_names_its_key(tmp_path, key, number):
    """In a file and on a command line; a number with an exponent is one, where it need not be whole."""
    section, _, name = key.partition(".")
    text = f"{section}: {{param_conf.seed: [{number}]}}" if key == "sweep_conf" else f"{section}: {{{name}: {number}}}"
    (tmp_path / "conf.yaml").write_text(f"base: {CONF}\n{text}\n")
    on_command_line = f"{key}={number}" if name else f"sweep_conf={{param_conf.seed: [{number}]}}"
    for path, overrides in ((tmp_path / "conf.yaml", []), (CONF, [on_command_line])):
        if key == "audio_logmel.fmin" and number == "1e1":
            assert load_conf(path, overrides).audio_logmel.fmin == 10
            continue
        with pytest.raises(UserError, match=ONE_LINE) as error:
            grid_confs(load_conf(path, overrides))
        assert (name or "param_conf.seed") in str(error.value) and number in str(error.value)


WORDS = ["no", "Yes", "on", "null", "2023", "2023-01-02", "1.5"]  # to YAML


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "setting",
    [
        "text_cleaning.corrections={%s: not}",
        "text_cleaning.corrections={not: %s}",
        "word2vec_embeddings.variants={%s: [not]}",
        "word2vec_embeddings.variants={not: [%s]}",
        "trial_series=%s",
        "metrics={%s: {margin: 0.5, sampling: random-NS}}",
        "demo_dataset.num_clips={%s: 3}",
    ],
)
def test_a_word_that_yaml_takes_for_something_else_is_to_be_put_into_quotes(setting, word):
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(CONF, [setting % word])
    assert "into quotes" in str(error.value)
    if "corrections" not in setting or word in ("no", "on", "null"):  # else no lower-case word
        load_conf(CONF, [setting % f"'{word}'"])


def test_each_wrong_setting_gets_its_line():
    with pytest.raises(UserError) as error:
        load_conf(CONF, ["param_conf.seed=-1", "AdamOptimizer.lr=0"])
    assert len(str(error.value).splitlines()) == 2


def test_who_brought_a_wrong_setting_is_blamed(tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text(f"base: {CONF}\nparam_conf: {{seed: -1}}\naudio_logmel: {{batch_size: 3, hop: 0}}\n")
    with pytest.raises(UserError) as error:
        load_conf(path, ["audio_logmel.hop=0.02", "score.mask_words=1", "audio_logmel.hop=-1"])
    assert sorted(str(error.value).splitlines()) == [
        "'audio_logmel.hop=-1': audio_logmel.hop: is -1; input should be greater than 0",
        "'score.mask_words=1': score.mask_words: is 1; input should be a valid boolean",
        f"{path}: audio_logmel.batch_size: unknown key; did you mean param_conf.batch_size?",
        f"{path}: param_conf.seed: is -1; input should be greater than or equal to 0",
    ]


def test_a_rule_over_two_settings_is_broken_by_the_second():
    broken, mended = ["audio_logmel.n_mels=128", "CRNNWordModel.audio_enc.in_dim=64"], "audio_logmel.n_mels=64"
    with pytest.raises(UserError, match=r"^'CRNNWordModel\.audio_enc\.in_dim=64': audio_logmel\.n_mels is 128"):
        load_conf(CONF, broken)
    assert load_conf(CONF, [*broken, mended]).audio_logmel.n_mels == 64


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large"])
def test_what_is_no_plain_file_is_not_opened(tmp_path, kind, base):
    path = Path("/dev/zero") if kind == "device" else tmp_path / "odd"
    make = {"pipe": os.mkfifo, "folder": Path.mkdir, "large": lambda path: path.write_text("#" * 1_000_001)}
    if kind in make:
        make[kind](path)
    (tmp_path / "conf.yaml").write_text(f"base: {path}\n")
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(tmp_path / "conf.yaml" if base else path)
    what = "1000001 bytes are too many" if kind == "large" else "a folder, pipe or device"
    assert str(error.value) == f"{path}: {what}; name a configuration file"


def test_elsewhere_than_at_the_root_the_way_there_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("conf.yaml", "conf_demo.yaml"):
        advice = f"{name}: no such configuration file; run this from the repository's root: cd {ROOT}"
        with pytest.raises(UserError, match=f"^{re.escape(advice)}$"):
            load_conf(name)
    with pytest.raises(UserError, match=r"^other\.yaml: no such configuration file$"):
        load_conf("other.yaml")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"- a\n- b\n", "conf.yaml: … no `key: value` settings"),
        (b"", "conf.yaml: … no `key: value` settings"),
        (b"a: [1\n", "conf.yaml: … not valid YAML: line 2"),
        ("trial_series: é".encode("latin-1"), "conf.yaml: … not UTF-8"),
        (b"base: 3\n", "conf.yaml: base: 3"),
        (b"base: absent.yaml\n", "absent.yaml: no such configuration file"),
        (b"base: .\n", ": a folder, pipe or device"),
        (b"base: conf.yaml\n", "conf.yaml: … leads back to this file"),
    ],
)
def test_unfit_files_are_refused(tmp_path, content, what):
    (tmp_path / "conf.yaml").write_bytes(content)
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(tmp_path / "conf.yaml")
    assert str(error.value).startswith(str(tmp_path))
    assert all(part in str(error.value) for part in what.split(" … "))


def test_every_missing_section_gets_its_line(tmp_path):
    (tmp_path / "conf.yaml").write_text("trial_series: x\n")
    with pytest.raises(UserError) as error:
        load_conf(tmp_path / "conf.yaml")
    lines = str(error.value).splitlines()
    missing = {name for name, field in Conf.model_fields.items() if field.is_required()} - {"trial_series"}
    assert sorted(lines) == sorted(f"{tmp_path / 'conf.yaml'}: {key}: missing" for key in missing)
