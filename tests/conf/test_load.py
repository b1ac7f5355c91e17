"""Configuration files and overrides are read, merged and checked, and what is wrong is one line."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.conf.grid import grid_confs
from utils.conf.load import load_conf, parse_yaml, save_conf
from utils.conf.schema import Conf

ONE_LINE = r"^[^\n]*\Z"
CONF = ROOT / "conf.yaml"
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "conf.yaml"


# --- what is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conf_demo.yaml", "conf_best.yaml", "conf_pretrained.yaml"])
def test_the_other_files_hold_only_what_differs(name):
    difference = yaml.safe_load((ROOT / name).read_text())
    assert difference.pop("base") == "conf.yaml"
    default, conf = load_conf(CONF).model_dump(), load_conf(ROOT / name).model_dump()
    assert difference.keys() == {key for key in conf if conf[key] != default[key]}


def test_a_saved_configuration_reads_back_without_a_base(path):
    words = ("010", "1e3", "1:20", "2023-01-02", "no", "true", "1.5", "~", "雨", "9" * 30)
    metrics = ", ".join(f"'{word}': {{margin: 1, sampling: hard-NS}}" for word in words)
    for word in words:
        conf = load_conf(ROOT / "conf_demo.yaml", [f"trial_base='{word}'", f"metrics={{{metrics}}}"])
        save_conf(conf, path)
        assert load_conf(path) == conf and conf.trial_base == word
    assert "base" not in yaml.safe_load(path.read_text())


def test_a_base_may_have_a_base(tmp_path, path):
    (tmp_path / "middle.yaml").write_text(f"base: {CONF}\nparam_conf: {{num_epoch: 3}}\n")
    path.write_text("base: middle.yaml\nparam_conf: {seed: 5}\n")
    params = load_conf(path).param_conf
    assert (params.num_epoch, params.seed, params.batch_size) == (3, 5, 32)


def test_a_table_replaces_the_whole_table_of_its_base(path):
    path.write_text(f"base: {CONF}\nsweep_conf: {{}}\nword2vec_embeddings: {{variants: {{a: [A]}}}}\n")
    conf = load_conf(path)
    assert conf.sweep_conf == {} and conf.word2vec_embeddings.variants == {"a": ["A"]}
    assert conf.word2vec_embeddings.unk_max_dot == 0.25


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: {c: [x, null, 1.5, true]}", {"a": 1, "b": {"c": ["x", None, 1.5, True]}}),
        ("[~, '', no, Yes, OFF]", [None, "", False, True, False]),
        ("a:", {"a": None}),
        ("", None),
        ("café – 雨", "café – 雨"),
        (str(10**18 - 1), 10**18 - 1),
        ("[0, -7, +7, 10, 0.5, .5, 1., 1.0e-06, -1.5E+3]", [0, -7, 7, 10, 0.5, 0.5, 1.0, 1e-6, -1500.0]),
        ("['1', \"no\"]", ["1", "no"]),
        *((text, text) for text in ("010", "1:20", "1_0", "0x10", "1e3", "2022-13-45", "2023-01-02", "<<", "=")),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_yaml_numbers_are_decimal_and_other_numbers_are_text(text, value):
    assert parse_yaml(text) == value


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: 1\nb: [1\n", "line 3, column 1", "expected ',' or ']'"),
        ("a:\n\tb: 1\n", "line 2, column 1", "'\\t'"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4", "python/object"),
        ("a: !!int x", "line 1, column 4", "tags are not supported"),
        ("a: ! x", "line 1, column 4", "tags are not supported"),
        (f"{ALIASES}b: *a9\n", "line 2, column 10", "aliases"),
        ("a: &a [*a]\n", "line 1, column 8", "aliases"),
        ("a: 0\nb:\n  c: 1\n  c: 2\n", "line 4, column 3", "the key 'c' is repeated"),
        ("? [1]\n: 1\n", "line 1, column 3", "a key is read as [1]; put it into quotes"),
        ("a: {no: not}", "line 1, column 5", "a key is read as False; put it into quotes"),
        ("2023: 1", "line 1, column 1", "a key is read as 2023; put it into quotes"),
        ("null: 1", "line 1, column 1", "a key is read as None; put it into quotes"),
        ('a: "b\\0c"', "line 1, column 4", "control characters"),
        ("[" * 10_000, "nested too deeply", ""),
        ("a: \x07", "unacceptable character", "not allowed"),
    ],
)
def test_yaml_that_no_configuration_needs_is_refused_with_its_place(text, place, what):
    with pytest.raises(ValueError, match=ONE_LINE) as error:
        parse_yaml(text)
    assert str(error.value).startswith(place) and what in str(error.value)


@pytest.mark.parametrize("number", ["010", "1:20", "1_0", "0x10", "0b1", "0o7", "1e1", "1_0.0", "1_0e1", "٣", "9" * 19])
@pytest.mark.parametrize("key", ["param_conf.seed", "audio_logmel.fmin", "sweep_conf.param_conf.seed"])
def test_a_number_that_is_not_plain_decimal_is_refused_by_its_key(path, key, number):
    section, name = key.split(".", 1)
    value = f"[{number}]" if section == "sweep_conf" else number
    path.write_text(f"base: {CONF}\n{section}: {{{name}: {value}}}\n")
    for arguments in ((path,), (CONF, [f"{key}={value}"])):
        if key == "audio_logmel.fmin" and number == "1e1":  # an exponent is fine where the number need not be whole
            assert load_conf(*arguments).audio_logmel.fmin == 10
            continue
        with pytest.raises(UserError, match=ONE_LINE) as error:
            grid_confs(load_conf(*arguments))
        assert name in str(error.value) and number in str(error.value)


@pytest.mark.parametrize("word", ["no", "on", "null", "2023", "1.5"])
@pytest.mark.parametrize(
    "setting",
    [
        "text_cleaning.corrections={%s: not}",
        "text_cleaning.corrections={not: %s}",
        "word2vec_embeddings.variants={not: [%s]}",
        "trial_series=%s",
        "demo_dataset.num_clips={%s: 3}",
    ],
)
def test_a_word_that_yaml_reads_as_another_value_needs_quotes(setting, word):
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(CONF, [setting % word])
    assert "into quotes" in str(error.value)
    if "corrections" not in setting or word.isalpha():  # corrections are words
        load_conf(CONF, [setting % f"'{word}'"])


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("param_conf", "not a setting; write section.key=value"),
        ("param_conf..seed=1", "not a setting; write section.key=value"),
        ("trial_base.x=1", "trial_base is a value"),
        ("param_conf.seed=[1", "'[1' is not a valid YAML value"),
        (f"param_conf.seed=[{'1' * 100}", f"'[{'1' * 75}... is not a valid YAML value"),
    ],
)
def test_a_malformed_override_is_refused(override, what):
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(CONF, [override])
    assert str(error.value).startswith(f"{override!r}: {what}")


def test_each_problem_is_one_line_that_names_its_cause(path):
    path.write_text(f"base: {CONF}\nparam_conf: {{seed: -1}}\naudio_logmel: {{batch_size: 3, hop: 0}}\n")
    with pytest.raises(UserError) as error:
        load_conf(path, ["audio_logmel.hop=0.02", "score.mask_words=1", "audio_logmel.hop=-1"])
    assert sorted(str(error.value).splitlines()) == [
        "'audio_logmel.hop=-1': audio_logmel.hop: is -1; input should be greater than 0",
        "'score.mask_words=1': score.mask_words: is 1; input should be a valid boolean",
        f"{path}: audio_logmel.batch_size: unknown key; did you mean param_conf.batch_size?",
        f"{path}: param_conf.seed: is -1; input should be greater than or equal to 0",
    ]


def test_the_second_of_two_settings_that_contradict_each_other_is_blamed():
    broken, repair = ["audio_logmel.n_mels=128", "CRNNWordModel.audio_enc.in_dim=64"], "audio_logmel.n_mels=64"
    with pytest.raises(UserError, match=r"^'CRNNWordModel\.audio_enc\.in_dim=64': audio_logmel\.n_mels is 128"):
        load_conf(CONF, broken)
    assert load_conf(CONF, [*broken, repair]).audio_logmel.n_mels == 64


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large"])
def test_only_a_regular_file_of_a_sensible_size_is_opened(tmp_path, path, kind, base):
    odd = Path("/dev/zero") if kind == "device" else tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    elif kind == "large":
        odd.write_text("#" * 1_000_001)
    path.write_text(f"base: {odd}\n")
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(path if base else odd)
    what = "1000001 bytes are too many" if kind == "large" else "a folder, pipe or device"
    assert str(error.value) == f"{odd}: {what}; name a configuration file"


def test_a_command_outside_the_repository_root_is_told_where_the_root_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    advice = f"conf.yaml: no such configuration file; run this from the repository's root: cd {ROOT}"
    for name, message in (("conf.yaml", advice), ("other.yaml", "other.yaml: no such configuration file")):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            load_conf(name)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"- a\n- b\n", "conf.yaml: has no `key: value` settings"),
        (b"", "conf.yaml: has no `key: value` settings"),
        (b"a: [1\n", "conf.yaml: not valid YAML: line 2"),
        ("trial_series: é".encode("latin-1"), "conf.yaml: not UTF-8"),
        (b"base: 3\n", "conf.yaml: base: 3"),
        (b"base: absent.yaml\n", "absent.yaml: no such configuration file"),
        (b"base: conf.yaml\n", "conf.yaml: `base` leads back to this file"),
    ],
)
def test_a_file_without_settings_is_refused(path, content, what):
    path.write_bytes(content)
    with pytest.raises(UserError, match=ONE_LINE) as error:
        load_conf(path)
    assert str(error.value).startswith(f"{path.parent}/{what}")


def test_each_missing_section_is_one_line(path):
    path.write_text("trial_series: x\n")
    with pytest.raises(UserError) as error:
        load_conf(path)
    missing = {name for name, field in Conf.model_fields.items() if field.is_required()} - {"trial_series"}
    assert sorted(str(error.value).splitlines()) == sorted(f"{path}: {key}: missing" for key in missing)
