"""Counts in messages."""


def counted(count: int, noun: str) -> str:
    """A count and its noun, in the plural unless it is 1: 1 clip, 2 clips, 2 batches."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith(('tch', 's', 'x')) else 's'}"
