import os
import re
import time

import pytest

from tests import fuzz
from utils.common.errors import UserError


def test_damaged_files_end_in_clean_errors(tmp_path, capsys):
    """A short run of what `make fuzz` runs for two minutes."""
    assert fuzz.run(seed=0, mutations=300, seconds=60, folder=tmp_path)
    summary = r"mutations (\d+), clean errors (\d+), accepted (\d+), tracebacks 0"
    mutations, clean, accepted = map(int, re.fullmatch(summary, capsys.readouterr().out.splitlines()[-1]).groups())
    assert mutations == clean + accepted > 100 and clean > 0 and accepted > 0


def test_a_seed_and_a_number_define_a_file(tmp_path):
    valid = fuzz.make_valid(tmp_path)
    cases = [fuzz.case_of(0, number, valid) for number in range(2 * len(fuzz.KINDS))]
    assert cases == [fuzz.case_of(0, number, valid) for number in range(len(cases))]
    assert {case.kind for case in cases} == set(fuzz.KINDS)
    assert all(case.content != valid[case.kind] for case in cases)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KeyError("x"), "Traceback"),
        (UserError("something is wrong"), "an error that does not name the file"),
        (UserError("{path}: wrong"), "clean"),
        (None, "accepted"),
    ],
)
def test_only_a_user_error_that_names_the_file_is_clean(tmp_path, error, outcome):
    def load(path):
        assert path.read_bytes() == b"damaged"
        if error:
            raise type(error)(error.args[0].format(path=path))

    (tmp_path / "c.csv").write_bytes(b"valid")
    assert fuzz.judge(fuzz.Kind("c.csv", None, load), b"damaged", tmp_path).startswith(outcome)
    assert (tmp_path / "c.csv").read_bytes() == b"valid"


def misbehave(number):
    if number == 1:
        time.sleep(60)
    if number == 2:
        os._exit(3)
    return "accepted"


def test_a_worker_is_replaced_when_it_hangs_or_crashes():
    worker = fuzz.Worker(misbehave, patience=0.5)
    outcomes = [worker.outcome(number) for number in range(4)]
    worker.close()
    assert outcomes == ["accepted", "no end within 0.5 s", "the process ended with status 3", "accepted"]
