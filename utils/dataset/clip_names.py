"""Match the names in a caption file with audio files."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from unicodedata import normalize

from utils.dataset.paths import AUDIO_FILES, AUDIO_SUFFIXES, OTHER_SOUNDS, UNSUPPORTED


def match_names(names: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """Pair the names in a caption file with audio files: exact matches first, then without spaces around stem and
    suffix, then in any Unicode form (archives made on a Mac store accents apart from their letters).

    Each file matches one name; a name that fits no file, or several, is left out.
    """
    matches: dict[str, str] = {}
    for form in (str, _stripped, lambda name: normalize("NFC", _stripped(name))):
        free_names = _unique(set(names) - matches.keys(), form)
        free_files = _unique(set(files) - set(matches.values()), form)
        matches |= {free_names[key]: free_files[key] for key in free_names.keys() & free_files.keys()}
    return matches


def similar_names(files: Iterable[str]) -> dict[str, str]:
    """Files by their names without case and suffix, for `why_absent`; of several the first by name."""
    return {_loosely(file): file for file in sorted(files, reverse=True)}


def why_absent(name: str, similar: dict[str, str]) -> str:
    """Say why a caption names no clip, and which of the other files (`similar_names`) it may mean."""
    if Path(name).name != name:
        return "is not a file name: clips lie in the split's folder itself"
    if Path(name).suffix.lower() in OTHER_SOUNDS:
        return f"{UNSUPPORTED}, and name that here"
    if (file := similar.get(_loosely(name))) is None:
        return "no such audio file"
    if Path(file).suffix.lower() in AUDIO_SUFFIXES:
        return f"no such audio file; did you mean {file!r}?"
    return f"no such audio file; {file!r} is not called {AUDIO_FILES}: rename it"


def _loosely(name: str) -> str:
    """A file name without an audio suffix, case folded, in one Unicode form."""
    stem = name.strip()
    if Path(stem).suffix.lower() in AUDIO_SUFFIXES:
        stem = Path(stem).stem.strip()
    return normalize("NFC", stem).casefold()


def _stripped(name: str) -> str:
    """A file name without spaces around stem and suffix."""
    stem, dot, suffix = name.rpartition(".")
    return stem.strip() + dot + suffix.strip()


def _unique(names: Iterable[str], form: Callable[[str], str]) -> dict[str, str]:
    """Names by their form, without the forms that several names share."""
    counts = Counter(map(form, names))
    return {form(name): name for name in names if counts[form(name)] == 1}
