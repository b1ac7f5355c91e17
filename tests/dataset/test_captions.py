"""Captions as Clotho has them: read from any decent CSV file, refused from any other, and cleaned."""

import re

import pytest

from utils.common.errors import UserError
from utils.dataset.captions import clean_caption, correct_words, has_words, hyphenated_words, is_typed, read_captions

HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
GOOD = b"good.wav,a,b,c,d,e\n"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A dog barks, twice.", "a dog barks twice"),
        ("The dog's  bark\tis\nloud!", "the dog s bark is loud"),
        ("walkie-talkie/radio (static) #1", "walkie-talkie radio static 1"),
        ("""!"#$%&'()*+,./\\:;<=>?@[]^_`{|}~""", ""),
        ("", ""),
        ("ÉCLAIR — “quoted” ‘it’ «so» ‹x› „y‟", "éclair — quoted it so x y"),
        ("the dog’s", "the dog s"),  # as with a straight one
        ("a\u200bb c\u200cd e\u200df g\u2060h i\u00adj \ufeffk", "ab cd ef gh ij k"),
        ("\u200b", ""),
        ("a 🐕 barks!", "a barks"),
        ("\u200edog\u200f \u202adog\u202c \u2066dog\u2069 \u061cdog do\ufe0fg", "dog dog dog dog dog"),
        ("cafe\u0301 CAFE\u0301", "café café"),  # accents apart from their letters, as on a Mac
        ("… dog… dog。 dog´s ´dog「dog」dog· ¿dog? dog™ dog♪ 5°", "dog dog dog s dog dog dog dog dog dog 5"),
        ("a\ue000b c\ud800d", "a b c d"),
        ("the dog&#39;s &quot;bark&quot; &amp; rain &lt;b&gt; &Eacute;t&#xe9; &nbsp;", "the dog s bark rain b été"),
        ("AT&T; rock&roll; a&b &#; &# 9;", "at t rock roll a b 9"),
        ("☎\ufe0f 1\ufe0f\u20e3 \u0301a", "1\u20e3 a"),  # a mark stays with its letter alone
        ("हिन्दी ภาษาไทย 雨", "हिन्दी ภาษาไทย 雨"),
        ("\u00a0a\u2003dog\u3000", "a dog"),
        ("?!, ...", ""),
    ],
)
def test_clean_caption(raw, clean):
    assert clean_caption(raw) == clean


@pytest.mark.parametrize("text", ["", "-", "--", "– —", "‐ ‑ ‒ ― ⸺ －"])
def test_dashes_alone_are_no_words(text):
    assert not has_words(text) and has_words(f"{text} a") and has_words(f"{text} 雨") and has_words("walkie-talkie")


def test_corrections_replace_whole_words():
    assert correct_words("birsd sing in birsdong", {"birsd": "birds"}) == "birds sing in birsdong"


def test_words_that_a_query_can_hold():
    words = ["Axe", "walkie", "talkie", "dog", "été", "New_York", "--"]
    assert [word for word in words if is_typed(word, {"walkie": "talkie"})] == ["talkie", "dog", "été"]


def test_hyphenated_words():
    assert hyphenated_words("a walkie-talkie — on") == ["walkie-talkie", "—"]


def test_captions_with_byte_order_mark_quotes_crlf_and_absent_cells(tmp_path):
    path = tmp_path / "c.csv"
    path.write_bytes(("\ufeff" + HEADER + ' Ambience &amp; #1 .wav,"a, b","say ""x""",c\r\n').encode())
    texts = ["a, b", 'say "x"', "c", "", ""]
    assert [tuple(caption) for caption in read_captions(path)] == [
        (2, " Ambience &amp; #1 .wav", f"caption_{k}", text) for k, text in enumerate(texts, start=1)
    ]


WIDE = "caption_10,file_name,caption_2,note\nten,x.wav,two,n\n,y.wav,alone\n"
LONG = "file_name,caption\nx.wav,a\ny.wav,b\nx.wav,\ny.wav,c\n"


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        (WIDE, ["2 x.wav caption_2 two", "2 x.wav caption_10 ten", "3 y.wav caption_2 alone", "3 y.wav caption_10 "]),
        (LONG, ["2 x.wav caption_1 a", "3 y.wav caption_1 b", "4 x.wav caption_2 ", "5 y.wav caption_2 c"]),
    ],
)
def test_captions_are_numbered_by_their_column_or_within_their_clip(tmp_path, content, captions):
    (tmp_path / "c.csv").write_text(content)
    assert [" ".join(map(str, caption)) for caption in read_captions(tmp_path / "c.csv")] == captions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the columns must be file_name"),
        (b"name,caption_1\nx.wav,a\n", "line 1: the columns must be file_name"),
        (HEADER.replace(",", ";").encode() + GOOD, "line 1: the columns must be file_name"),
        (HEADER.replace("caption_2", "caption_1").encode() + GOOD, "line 1: the column caption_1 stands twice"),
        (b"file_name,caption_1,caption_0\nx.wav,a,b\n", "line 1: the column caption_0: captions are numbered 1, 2, 3"),
        (b"file_name,caption_-1\nx.wav,a\n", "line 1: the column caption_-1: captions are numbered"),
        (b"file_name,caption_1,caption_01\nx.wav,a,b\n", "line 1: the column caption_01: captions are numbered"),
        (b"file_name,caption_" + b"9" * 5000, "line 1: the column caption_999"),
        (b"file_name,caption,caption\nx.wav,a,b\n", "line 1: the column caption stands twice"),
        (b"file_name,caption_2,caption\nx.wav,a,b\n", "line 1: has the columns caption and caption_2"),
        (b"caption_1,caption_2\na,b\n", "line 1: the columns must be file_name"),
        (HEADER.encode() + GOOD + "x.wav,é,b,c,d,e\n".encode("latin-1"), "line 3: not UTF-8"),
        (HEADER.encode() + GOOD + b"x.wav,a\0b,b,c,d,e\n", "line 3: holds a NUL"),
        (HEADER.encode() + GOOD + b'x.wav,"a" dog,b,c,d,e\n', "the row at line 3: not valid CSV"),
        (HEADER.encode() + GOOD + b"x.wav," + b"a" * 150_000, "the row at line 3: not valid CSV (field larger"),
    ],
)
def test_unfit_caption_files_are_refused(tmp_path, content, message):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"c\.csv: {re.escape(message)}"):
        read_captions(tmp_path / "c.csv")
