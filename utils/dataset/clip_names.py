"""Which audio file a name in a caption file means, and which it may have meant."""

from collections.abc import Callable, Iterable
from pathlib import Path
from unicodedata import normalize

from utils.dataset.paths import AUDIO_FILES, AUDIO_SUFFIXES, CONVERT, OTHER_SOUNDS


def match_names(names: list[str], files: list[str]) -> dict[str, str]:
    """Pair the names in a caption file with audio files: exactly first, then without spaces around stem and suffix,
    then whichever way accents are encoded (a Mac's archive has them apart from their letters).

    Each file serves one name; a name that fits no file, or several, is left out.
    """
    matches = {name: name for name in set(names) & set(files)}
    for key in (_stripped, lambda name: normalize("NFC", _stripped(name))):
        taken = set(matches.values())
        owners = _grouped((name for name in names if name not in matches), key)
        places = _grouped((file for file in files if file not in taken), key)
        unique = [form for form, group in owners.items() if len(group) == len(places.get(form, ())) == 1]
        matches |= {owners[form][0]: places[form][0] for form in unique}
    return matches


def why_absent(name: str, lying: list[str]) -> str:
    """Why a caption's clip is not there, and which of the files that lie there was perhaps meant."""
    if Path(name).name != name:
        return "is no file name: clips lie in the split's folder itself"
    if Path(name).suffix.lower() in OTHER_SOUNDS:
        return f"{CONVERT}, and name that here"
    for file in lying:
        if _loosely(file) == _loosely(name):
            if Path(file).suffix.lower() in AUDIO_SUFFIXES:
                return f"no such audio file; did you mean {file!r}?"
            return f"no such audio file; {file!r} lies there, but is not called {AUDIO_FILES}: rename it"
    return "no such audio file"


def _loosely(name: str) -> str:
    """A file name without an audio file's suffix, in whatever case and encoding."""
    stem = name.strip()
    if Path(stem).suffix.lower() in AUDIO_SUFFIXES:
        stem = Path(stem).stem.strip()
    return normalize("NFC", stem).casefold()


def _stripped(name: str) -> str:
    """A file name without spaces around stem and suffix."""
    stem, dot, suffix = name.rpartition(".")
    return stem.strip() + dot + suffix.strip()


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Names by what the key makes of them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups
