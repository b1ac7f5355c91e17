"""A trial that was trained for some epochs."""

import pytest

from tests.helpers import ROOT, record_of
from utils.conf.load import load_conf
from utils.trial.directory import create_trial


@pytest.fixture
def begin(tmp_path):
    """begin(epochs, override, ...) -> the record of a new trial that had these epochs, and the objects it keeps."""

    def begin(epochs, *overrides):
        conf = load_conf(ROOT / "conf.yaml", [f"trial_base={tmp_path}", *overrides])
        return record_of(create_trial(conf, {}), conf, epochs)

    return begin
