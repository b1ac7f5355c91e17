"""A sweep of which no trial has started."""

import pytest

from tests.helpers import ROOT
from utils.conf.load import load_conf, save_conf
from utils.trial.directory import create_directory
from utils.trial.names import CONF, POINTS


@pytest.fixture
def sweep(tmp_path):
    """The directory of a sweep over two seeds; no trial has started, and the data set does not exist."""
    settings = (f"trial_base={tmp_path}", f"data_conf.dataset={tmp_path / 'data'}")
    conf = load_conf(ROOT / "conf.yaml", [*settings, "sweep_conf={param_conf.seed: [0, 1]}"])
    sweep = create_directory(conf, "sweep")
    save_conf(conf, sweep / CONF)
    (sweep / POINTS).mkdir()
    return sweep
