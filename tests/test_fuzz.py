import re
import subprocess
import sys

from tests import fuzz
from tests.helpers import ROOT


def test_damaged_files_end_in_clean_errors():
    """A short run of what `make fuzz` runs for two minutes."""
    command = [sys.executable, "-m", "tests.fuzz", "--mutations", "300", "--seconds", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    summary = re.fullmatch(
        r"mutations (\d+), clean errors (\d+), accepted (\d+), tracebacks 0", done.stdout.splitlines()[-1]
    )
    mutations, clean, accepted = map(int, summary.groups())
    assert mutations == clean + accepted > 100 and clean > 0 and accepted > 0


def test_a_seed_and_a_number_stand_for_one_file(tmp_path):
    valid = fuzz.make_valid(tmp_path)
    cases = [fuzz.case_of(0, number, valid) for number in range(2 * len(fuzz.KINDS))]
    assert cases == [fuzz.case_of(0, number, valid) for number in range(len(cases))]
    assert {case.kind for case in cases} == set(fuzz.KINDS)
    assert all(case.content != valid[case.kind] for case in cases)


def test_whatever_is_no_clean_error_is_told(tmp_path, monkeypatch):
    """A traceback, an error that names no file, a hang and a crash each count."""
    valid = {"captions": b""}

    def load(path):
        match path.read_bytes():
            case b"0":
                raise KeyError("x")
            case b"1":
                raise fuzz.UserError("something is wrong")
            case b"2":
                fuzz.time.sleep(60)
            case b"3":
                fuzz.os._exit(3)
            case b"4":
                raise fuzz.UserError(f"{path}: wrong")

    monkeypatch.setattr(fuzz, "KINDS", {"captions": fuzz.Kind("c.csv", None, load)})
    monkeypatch.setattr(fuzz, "PATIENCE", 0.5)
    monkeypatch.setattr(fuzz, "case_of", lambda seed, number, valid: fuzz.Case("captions", str(number).encode()))
    worker = fuzz.Worker(0, valid)
    outcomes = [worker.outcome(number) for number in range(6)]
    worker.close()
    assert "KeyError" in outcomes[0] and outcomes[1].startswith("an error that does not say where")
    assert outcomes[2] == "no end within 0.5 s" and outcomes[3] == "the process ended with status 3"
    assert outcomes[4:] == ["clean", "accepted"]
