"""A command ends with one clear line for each problem, and no traceback."""

import pytest

from utils.common.errors import UserError, complain, run_command


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (UserError("conf.yaml: wrong"), ["error: conf.yaml: wrong"]),
        (UserError("one\ntwo"), ["error: one", "error: two"]),
        (UserError("Caught UserError in a worker.\nTraceback\nUserError: x: wrong\n"), ["error: x: wrong"]),  # torch's
        (PermissionError(13, "Permission denied", "/x"), ["error: /x: Permission denied"]),
        (OSError("odd"), ["error: odd"]),
        (MemoryError("3 GB"), ["error: there is not enough memory (3 GB)"]),
    ],
)
def test_commands_end_with_a_line_for_each_problem_and_status_2(capsys, error, lines):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == lines


def test_an_interrupt_is_silent(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 130 and not capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(capsys):
    def main():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_command(main)
    assert complain(KeyError("x")) == 1
    assert "KeyError: 'x'" in capsys.readouterr().err
