"""YAML that PyYAML would take, or that would end in a traceback: one line that says where."""

import pytest

from utils.conf.load import parse_yaml, shown

ONE_LINE = r"^[^\n]*\Z"
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: {c: [x, null, 1.5, true]}", {"a": 1, "b": {"c": ["x", None, 1.5, True]}}),
        ("", None),
        ("café – 雨", "café – 雨"),
        ("2022-13-45x", "2022-13-45x"),
        (str(2**63 - 1), 2**63 - 1),
        ("[0, -7, +7, 10, 0.5, .5, 1., 1.0e-06, -1.5E+3]", [0, -7, 7, 10, 0.5, 0.5, 1.0, 1e-6, -1500.0]),
        ("[1e3, 08, 0o7, '010', \"1:20\", 'no']", ["1e3", "08", "0o7", "010", "1:20", "no"]),
    ],
)
def test_plain_values_are_read(text, value):
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: 1\nb: [1\n", "line 3, column 1", "expected ',' or ']'"),
        ("a:\n\tb: 1\n", "line 2, column 1", "'\\t'"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4", "python/object"),
        (f"{ALIASES}b: *a9\n", "line 2, column 10", "aliases"),
        ("a: &a [*a]\n", "line 1, column 8", "aliases"),
        ("a: 0\nb:\n  c: 1\n  c: 2\n", "line 4, column 3", "'c' stands twice"),
        ("? [1]\n: 1\n", "line 1, column 3", "unhashable key"),
        (f"a: {{b: {'9' * 400}}}", "line 1, column 8", "too large a number"),
        (f"a: -{2**63}", "line 1, column 4", "too large a number"),
        (f"a: {'9' * 5000}", "line 1, column 4", "put text into quotes"),
        ("a: 2022-13-45", "line 1, column 4", "put text into quotes"),
        *(
            (f"a: {{b: [1, {number}]}}", "line 1, column 12", f"a: b: '{number}' is no plain decimal number")
            for number in ("010", "-010", "0x10", "0b1", "1_0", "1:20", "1:20.5", "1_0.5", "1.5_0", "-1:00:00", "0_")
        ),
        ("010", "line 1, column 1", "'010' is no plain decimal number"),
        ("a: {no: not}", "line 1, column 5", "the key 'no' is read as False; put it into quotes"),
        ("{a: 1, Off: 1}", "line 1, column 8", "the key 'Off' is read as False; put it into quotes"),
        ("2023: 1", "line 1, column 1", "the key '2023' is read as 2023; put it into quotes"),
        ("null: 1", "line 1, column 1", "the key 'null' is read as None; put it into quotes"),
        ("2023-01-02: 1", "line 1, column 1", "put it into quotes"),
        ('a: "b\\0c"', "line 1, column 4", "control characters"),
    ],
)
def test_what_no_configuration_needs_is_refused_with_its_place(text, place, what):
    with pytest.raises(ValueError, match=ONE_LINE) as error:
        parse_yaml(text)
    assert str(error.value).startswith(place) and what in str(error.value)


@pytest.mark.parametrize(("text", "what"), [("[" * 10_000, "nested too deeply"), ("a: \x07", "not allowed")])
def test_what_has_no_place_is_refused_in_one_line(text, what):
    with pytest.raises(ValueError, match=ONE_LINE) as error:
        parse_yaml(text)
    assert what in str(error.value)


def test_a_long_value_is_cut_in_messages():
    assert shown("x") == "'x'"
    assert len(shown("x" * 1000)) == 80 and shown("x" * 1000).endswith("...")
