"""Log-mels are computed once: kept if the process is killed, recomputed if the sound or the settings change."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

import utils.common.digests
from tests.helpers import finish_clips
from utils.common.chunks import read_place
from utils.common.digests import HELD
from utils.common.errors import UserError
from utils.common.workers import SPAWN
from utils.dataset.audio import probe_clip
from utils.dataset.clip_store import part_name
from utils.dataset.log_mel import log_mel_spectrogram, log_mel_store, read_log_mel
from utils.dataset.log_mel_config import LogMelConfig

LOG_MEL_CONFIG = LogMelConfig(fmax=4000)


@pytest.fixture
def sounds(tmp_path):
    """Three clips by fid, their folder, and a store for their log-mels."""
    rng = np.random.default_rng(0)
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-1, 1, 4000), 8000)
    clips = {name: probe_clip(tmp_path / f"{name}.wav").clip for name in "abc"}
    return clips, tmp_path, log_mel_store(tmp_path / "x.hdf5", LOG_MEL_CONFIG)


def again(store):
    """The store as another process opens it."""
    return log_mel_store(store.path, LOG_MEL_CONFIG)


def test_the_file_equals_one_written_by_h5py(sounds):
    clips, folder, store = sounds
    computed, finished = finish_clips(store, clips, folder)
    assert computed == ["a", "b", "c"] and store.assemble(clips, {}, finished) == 3 * 26
    store.clear()
    assert not store.parts.exists()
    with h5py.File(folder / "plain.hdf5", "w") as plain:
        for fid, clip in clips.items():
            log_mel = log_mel_spectrogram(*soundfile.read(folder / clip.file_name), LOG_MEL_CONFIG)
            plain.create_dataset(fid, data=log_mel).attrs["audio_sha256"] = np.bytes_(clip.sha256)
    assert (folder / "x.hdf5").read_bytes() == (folder / "plain.hdf5").read_bytes()


@pytest.mark.parametrize("held", [HELD, 100])
def test_a_sound_is_read_once_unless_it_is_large(sounds, monkeypatch, held):
    """A sound that is read once cannot change between digest and decoding."""
    clips, folder, store = sounds
    monkeypatch.setattr(utils.common.digests, "HELD", held)

    def read_after(path, **arguments):
        if held == HELD:
            path.unlink()
        return store.compute(path, **arguments)

    expected = read_log_mel(folder / "a.wav", LOG_MEL_CONFIG)
    _, finished = finish_clips(replace(store, compute=read_after), {"a": clips["a"]}, folder)
    assert np.array_equal(read_place(finished[part_name("a", clips["a"])]), expected)


def test_finished_parts_are_kept_and_damaged_ones_recomputed(sounds):
    clips, folder, store = sounds
    _, finished = finish_clips(store, clips, folder)
    assert again(store).finished() == finished
    (part,) = store.parts.glob("*.part")
    part.write_bytes(part.read_bytes()[:-1])
    assert finish_clips(again(store), clips, folder)[0] == ["c"]
    content = bytearray(part.read_bytes())
    content[finished[part_name("b", clips["b"])].start] ^= 1
    part.write_bytes(content)
    computed, finished = finish_clips(again(store), clips, folder)  # "c" is in another file by now
    assert computed == ["b"]
    store.assemble(clips, {}, finished)
    store.clear()
    whole = (folder / "x.hdf5").read_bytes()
    computed, finished = finish_clips(store, clips, folder)
    assert (computed, finished) == ([], {})  # now from the file
    store.assemble(clips, store.stored(), finished)
    assert (folder / "x.hdf5").read_bytes() == whole


def test_pipes_and_links_are_not_read_as_parts(sounds):
    clips, folder, store = sounds
    finish_clips(store, clips, folder)
    (part,) = store.parts.glob("*.part")
    part.rename(folder / "elsewhere")
    os.mkfifo(store.parts / "pipe.part")
    (store.parts / "link.part").symlink_to(folder / "elsewhere")
    (store.parts / "folder.part").mkdir()
    assert again(store).finished() == {} and finish_clips(again(store), clips, folder)[0] == ["a", "b", "c"]
    store.clear()
    for put in (os.mkfifo, lambda path: path.symlink_to(folder / "elsewhere"), Path.touch):
        put(store.parts)
        with pytest.raises(UserError, match=rf"^{store.parts}: is a link or not a folder"):
            again(store).prepare()
        store.parts.unlink()


@pytest.mark.parametrize("place", range(0, 120, 7))
def test_a_part_with_a_damaged_header_is_not_finished(sounds, place):
    clips, folder, store = sounds
    finish_clips(store, clips, folder)
    (part,) = store.parts.glob("*.part")
    content = bytearray(part.read_bytes())
    content[place] ^= 0x81
    part.write_bytes(content)
    assert store.finished() == {}


def _read_or_be_killed(path, **arguments):
    if path.name == "c.wav":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_log_mel(path, LOG_MEL_CONFIG, **arguments)


def test_clips_before_a_kill_are_kept(sounds):
    clips, folder, store = sounds
    killed = replace(store, compute=_read_or_be_killed)
    worker = SPAWN.Process(target=finish_clips, args=(killed, clips, folder))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert finish_clips(again(store), clips, folder)[0] == ["c"]


def test_a_changed_sound_is_refused_until_it_is_indexed_and_then_recomputed(sounds):
    clips, folder, store = sounds
    store.assemble(clips, {}, finish_clips(store, clips, folder)[1])
    store.clear()
    soundfile.write(folder / "b.wav", np.zeros(8000), 8000)
    with pytest.raises(UserError, match=r"b\.wav: has changed since preprocessing/2_clotho_dataset\.py read it"):
        finish_clips(store, clips, folder)
    clips["b"] = probe_clip(folder / "b.wav").clip
    computed, finished = finish_clips(store, clips, folder)
    assert computed == ["b"]
    assert store.assemble(clips, store.stored(), finished) == 2 * 26 + 51


def test_parts_of_other_settings_are_dropped(sounds):
    clips, folder, store = sounds
    finish_clips(store, clips, folder)
    assert not store.prepare()
    other = log_mel_store(folder / "x.hdf5", replace(LOG_MEL_CONFIG, hop=0.01))
    assert other.prepare()
    computed, finished = finish_clips(other, clips, folder)
    assert computed == ["a", "b", "c"]
    assert other.assemble(clips, {}, finished) == 3 * 51
    assert other.stored() == {fid: clip.sha256 for fid, clip in clips.items()}


def test_a_damaged_file_has_no_stored_log_mels(tmp_path):
    path = tmp_path / "x.hdf5"
    for content in (b"", b"text"):
        path.write_bytes(content)
        assert log_mel_store(path, LOG_MEL_CONFIG).stored() == {}
    with h5py.File(path, "w") as file:
        file.create_group("a")
    assert log_mel_store(path, LOG_MEL_CONFIG).stored() == {}
