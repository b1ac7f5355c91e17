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


def why_absent(names: Iterable[str], matches: dict[str, str], folder: Path) -> dict[str, str]:
    """Say of each name without a match why it names no clip, and which other file of the folder it may mean."""
    unmatched = {path.name for path in folder.iterdir()} - set(matches.values())
    similar = {_loosely(file): file for file in sorted(unmatched, reverse=True)}
    return {name: _why_absent(name, similar.get(_loosely(name))) for name in names if name not in matches}


def _why_absent(name: str, similar: str | None) -> str:
    if Path(name).name != name:
        return "is not a file name: clips lie in the split's folder itself"
    if Path(name).suffix.lower() in OTHER_SOUNDS:
        return f"{UNSUPPORTED}, and name that here"
    if similar is None:
        return "no such audio file"
    if Path(similar).suffix.lower() in AUDIO_SUFFIXES:
        return f"no such audio file; did you mean {similar!r}?"
    return f"no such audio file; {similar!r} is not called {AUDIO_FILES}: rename it"


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
