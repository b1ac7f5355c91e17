import pytest

from utils.common.counts import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "clip", "0 clips"), (1, "word", "1 word"), (2, "word vector", "2 word vectors"), (2, "batch", "2 batches")],
)
def test_a_noun_is_in_the_plural_unless_the_count_is_one(count, noun, text):
    assert counted(count, noun) == text
