"""Named entities in captions, found by NLTK, whose downloaded data may be damaged."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nltk
from nltk.classify.maxent import load_maxent_params
from nltk.corpus import WordListCorpusReader

from utils.common.errors import UserError, reason_of

NAMED_ENTITY = "NE"
TAGGER, CHUNKER, WORDS = "averaged_perceptron_tagger_eng", "maxent_ne_chunker_tab", "words"
PLACES = {TAGGER: f"taggers/{TAGGER}", CHUNKER: f"chunkers/{CHUNKER}", WORDS: f"corpora/{WORDS}"}  # in NLTK's data


def replace_named_entities(texts: list[str]) -> list[str]:
    """Replace every word of a named entity by `NE` in cleaned captions.

    Raises UserError if NLTK's data are damaged, or missing and cannot be downloaded.
    """
    for package, check in ((WORDS, _check_words), (CHUNKER, _check_chunker)):
        with _package(package):
            check()
    with _package(TAGGER):
        tagged = nltk.PerceptronTagger().tag_sents(text.split() for text in texts)
    with _package(CHUNKER):
        # (word, part of speech, IOB tag): the tag is O outside of named entities
        sentences = [nltk.tree2conlltags(tree) for tree in nltk.ne_chunk_sents(tagged, binary=True)]
    return [" ".join(NAMED_ENTITY if tag != "O" else word for word, _, tag in sentence) for sentence in sentences]


@contextmanager
def _package(package: str) -> Iterator[None]:
    """Download a package of NLTK's data if it is missing; a failure within names its file."""
    if _place(package) is None:
        try:
            downloaded = nltk.download(package, quiet=True, print_error_to=io.StringIO())
        except Exception:  # a log-in page in place of the index raises many types
            downloaded = False
        if not downloaded:
            raise UserError(
                f"text_cleaning.named_entities: replace needs NLTK's data {package!r}, which could not be "
                f"downloaded; where there is internet run `python -m nltk.downloader {' '.join(PLACES)}` and copy the "
                f"resulting nltk_data folder to {Path.home() / 'nltk_data'} (or set NLTK_DATA to it), "
                "or set text_cleaning.named_entities=keep"
            )
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # NLTK raises many types for damaged data
        reason = reason_of(error)[:200]
        raise UserError(
            f"{_place(package)}: damaged or unreadable ({reason}); remove it and run this again to download it, or "
            "set text_cleaning.named_entities=keep"
        ) from None


def _place(package: str) -> Path | None:
    """Find a package in NLTK's data: a folder or else an archive, in NLTK's order."""
    places = [Path(root) / f"{PLACES[package]}{suffix}" for suffix in ("", ".zip") for root in nltk.data.path]
    return next((place for place in places if place.exists()), None)


def _check_words() -> None:
    """Raise ValueError if the list of English words is empty, or a web page."""
    words = WordListCorpusReader(nltk.data.find(f"{PLACES[WORDS]}/"), ["en-basic"]).words()
    if not words or any("<" in word for word in words):
        raise ValueError("en-basic: not a list of words")


def _check_chunker() -> None:
    """Raise ValueError if the chunker's files do not belong together: one of them is cut or empty."""
    folder = nltk.data.find(f"{PLACES[CHUNKER]}/english_ace_binary/")
    weights, features, labels, always_on = load_maxent_params(folder)
    known = {label for _, _, label in features} <= set(labels) and always_on.keys() <= set(labels)
    if not features or not known or len(weights) < len(features) + len(always_on):
        raise ValueError("its weights, features and labels do not belong together")
