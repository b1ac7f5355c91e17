"""Short forms of tests/kill.py and tests/full_disk.py; `make survival` runs them in full."""

import random

import pytest

from tests import full_disk, kill
from tests.helpers import Stages

EXTRACT, TRAIN = "preprocessing/4_audio_logmel.py", "main.py"


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return Stages(tmp_path_factory.mktemp("survival") / "stages", [EXTRACT, TRAIN])


def test_killed_commands_end_like_undisturbed_ones(stages):
    assert kill.survive(stages, 2, random.Random(1)) == 2


@pytest.mark.parametrize("stage", [EXTRACT, TRAIN])
def test_a_full_disk_is_reported_and_nothing_is_lost(stages, stage):
    assert full_disk.outcome(stages, stage, full_disk.limits(stages, stage)[1]) == ""
