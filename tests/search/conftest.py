"""A trial of an untrained model on clips with odd names, the score by its definition, and what searches do."""

import resource
from contextlib import contextmanager
from functools import partialmethod

import pytest
import torch

from tests.helpers import write_trial
from utils.search.sounds import Features, LogMels
from utils.trial.checkpoint import load_model
from utils.trial.names import BEST


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A trial, whose evaluation split has the clips ODD_NAMES, and its configuration. Not to be changed."""
    return write_trial(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="session")
def plain_score():
    """plain_score(trial, log_mel (T, D), words) -> S by its definition as published, in plain loops."""

    @torch.no_grad()
    def score(trial, log_mel, words):
        model, _, known, _ = load_model(trial / BEST)
        frames = model.audio_branch(torch.from_numpy(log_mel)[None])[0]
        embeds = model.text_branch(torch.tensor([[known.index(word) for word in words]]))[0]
        return sum(max(0.0, float(a @ w)) for a in frames for w in embeds) / (len(frames) * len(embeds))

    return score


def encoded_sounds(monkeypatch):
    """A list that grows by the name of each sound that is read to be encoded."""
    names = []

    def remember(sounds, path, read):
        names.append(path.name)
        return read(sounds, path)

    for reader in (LogMels, Features):
        monkeypatch.setattr(reader, "read", partialmethod(remember, read=reader.read))
    return names


@contextmanager
def files_of(size):
    """Within, files can have so many bytes at most: a full disk. None is no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
