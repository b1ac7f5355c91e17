import os

import numpy as np
import pytest
import torch

from utils.common.errors import UserError
from utils.trial.checkpoint import checkpoint_bytes, load_checkpoint
from utils.trial.names import BEST


class Malicious:
    def __reduce__(self):
        return (os.mkdir, (os.environ["OWNED"],))


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.setenv("OWNED", str(tmp_path / "owned"))
    (tmp_path / BEST).write_bytes(checkpoint_bytes({"model": Malicious()}))
    with pytest.raises(UserError, match="not a loadable checkpoint"):
        load_checkpoint(tmp_path / BEST)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [{"model": {}}, {"a": 1}, torch.zeros(3), ({}, {})])
def test_other_content_is_refused(tmp_path, content):
    (tmp_path / BEST).write_bytes(checkpoint_bytes(content))
    with pytest.raises(UserError, match=r"not a checkpoint that main\.py wrote"):
        load_checkpoint(tmp_path / BEST)


CONTENT = {"model": {"x": torch.arange(300.0)}, "words": ["a"], "conf": {}, "history": [], "epoch": 0, "trial": "1f"}


def test_torch_reads_a_sealed_checkpoint(tmp_path):
    (tmp_path / BEST).write_bytes(checkpoint_bytes(CONTENT))
    for content in (load_checkpoint(tmp_path / BEST, "1f"), torch.load(tmp_path / BEST, weights_only=True)):
        assert torch.equal(content["model"].pop("x"), CONTENT["model"]["x"])
        assert content == CONTENT | {"model": {}}


def test_any_flipped_bit_of_a_checkpoint_is_refused(tmp_path):
    """Of the archive and of the seal: all that one bit, one byte more or one less can do is refused."""
    valid = checkpoint_bytes(CONTENT)
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, len(valid), 200), *range(len(valid) - 100, len(valid))]
    spoilt = [valid[:at] + bytes([valid[at] ^ 1 << rng.integers(8)]) + valid[at + 1 :] for at in places]
    for content in [*spoilt, valid + b"x", valid[:-1], valid[1:], b""]:
        (tmp_path / BEST).write_bytes(content)
        with pytest.raises(UserError, match="its content is not what its digest says") as refusal:
            load_checkpoint(tmp_path / BEST)
        assert len(str(refusal.value).splitlines()) == 1


def test_a_checkpoint_without_a_digest_is_said_to_be_of_format_1(tmp_path):
    torch.save(CONTENT, tmp_path / BEST)
    with pytest.raises(UserError, match="of a trial of format 1"):
        load_checkpoint(tmp_path / BEST)
