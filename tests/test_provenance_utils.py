import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils.conf_utils import load_conf
from utils.io_utils import UserError
from utils.provenance_utils import PROVENANCE, check_steps, read_provenance, record_step, versions
from utils.step_utils import CLEANING, EMBEDDING, INDEXING


@pytest.fixture
def data(tmp_path):
    """conf(*overrides) of a data set whose first two steps ran on a.csv -> b.csv -> c.csv, and its directory."""

    def conf(*overrides):
        return load_conf(ROOT / "conf.yaml", [f"data_conf.dataset={tmp_path}", *overrides])

    for name in "abc":
        (tmp_path / f"{name}.csv").write_text(name)
    record_step(conf(), CLEANING, [tmp_path / "a.csv"], [tmp_path / "b.csv"])
    record_step(conf(), INDEXING, [tmp_path / "b.csv"], [tmp_path / "c.csv"])
    return conf, tmp_path


def test_what_nothing_has_touched_passes(data):
    conf, folder = data
    check_steps(conf(), CLEANING, INDEXING)
    check_steps(conf("param_conf.seed=3", "audio_logmel.workers=2"), CLEANING, INDEXING)
    (folder / "a.csv").unlink()  # preprocessed data may travel without what they were made from
    check_steps(conf(), CLEANING, INDEXING)


def test_a_step_that_did_not_run_is_named(data):
    with pytest.raises(UserError, match=r"no record of preprocessing/3_word2vec_embeddings\.py; run it"):
        check_steps(data[0](), CLEANING, EMBEDDING)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("a.csv", "a.csv: has changed since preprocessing/1_text_cleaning.py read it; run that again"),
        ("b.csv", "b.csv: is not as preprocessing/1_text_cleaning.py wrote it; run that again"),
        ("c.csv", "c.csv: is not as preprocessing/2_clotho_dataset.py wrote it; run that again"),
    ],
)
def test_a_changed_file_is_named_with_the_step_to_run(data, file, complaint):
    conf, folder = data
    (folder / file).write_text("other")
    with pytest.raises(UserError) as told:
        check_steps(conf(), CLEANING, INDEXING)
    assert str(told.value) == f"{folder}/{complaint}"


def test_a_step_run_again_makes_the_later_one_stale(data):
    conf, folder = data
    (folder / "b.csv").write_text("cleaned otherwise")
    record_step(conf(), CLEANING, [folder / "a.csv"], [folder / "b.csv"])
    check_steps(conf(), CLEANING)
    with pytest.raises(UserError, match="has changed since preprocessing"):
        check_steps(conf(), CLEANING, INDEXING)


def test_other_settings_are_named(data):
    conf, _ = data
    with pytest.raises(UserError, match="named_entities replace, but it is now keep"):
        check_steps(conf("text_cleaning.named_entities=keep"), CLEANING)


def test_where_word_vectors_lie_plays_no_part(data):
    conf, _ = data
    source = ("word2vec_embeddings.source=file", "word2vec_embeddings.file=")
    record_step(conf(source[0], source[1] + "here.txt"), EMBEDDING, [], [])
    check_steps(conf(source[0], source[1] + "there.txt", "word2vec_embeddings.train.epochs=3"), EMBEDDING)
    with pytest.raises(UserError, match="seed 0, but it is now 1"):
        check_steps(conf(source[0], source[1] + "here.txt", "word2vec_embeddings.seed=1"), EMBEDDING)


@pytest.mark.parametrize("content", [[], {"x": []}, {"x": {"inputs": {"a": 1}}}, {"x": {"settings": {"a": 3}}}])
def test_a_garbled_record_is_one_line(tmp_path, content):
    (tmp_path / PROVENANCE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="not as its step writes it"):
        read_provenance(tmp_path)


def test_versions_name_the_commit_of_a_checkout():
    found = versions()
    assert {"python", "torch", "numpy", "librosa", "commit", "clean"} <= found.keys()
    if (ROOT / ".git").exists():
        assert found["commit"] is None or len(found["commit"]) == 40
        assert found["clean"] in (True, False, None)


def test_the_order_of_entries_is_the_order_of_steps(data):
    conf, folder = data
    record_step(conf(), CLEANING, [], [])
    assert list(json.loads(Path(folder / PROVENANCE).read_text())) == [CLEANING, INDEXING]
