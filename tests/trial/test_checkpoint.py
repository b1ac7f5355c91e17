import os

import pytest
import torch

from utils.common.errors import UserError
from utils.trial.checkpoint import load_checkpoint, load_model
from utils.trial.directory import BEST


class Malicious:
    def __reduce__(self):
        return (os.mkdir, (os.environ["OWNED"],))


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.setenv("OWNED", str(tmp_path / "owned"))
    torch.save({"model": Malicious()}, tmp_path / BEST)
    with pytest.raises(UserError, match="not a loadable checkpoint"):
        load_checkpoint(tmp_path / BEST)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [{"model": {}}, {"a": 1}, torch.zeros(3), ({}, {})])
def test_other_checkpoints_are_refused(tmp_path, content):
    torch.save(content, tmp_path / BEST)
    with pytest.raises(UserError, match=r"not a checkpoint that main\.py wrote"):
        load_checkpoint(tmp_path / BEST)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    content = {"model": {"x": torch.zeros(1)}, "words": [], "conf": {}, "history": [], "epoch": 0}
    torch.save(content, tmp_path / BEST)
    with pytest.raises(UserError, match="not a checkpoint of CRNNWordModel"):
        load_model(tmp_path / BEST)
