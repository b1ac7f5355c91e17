"""Make an array of each clip of a data set, such as its log-mel: by several workers, with progress and provenance."""

from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

from utils.common.chunks import Place
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.io import progress
from utils.common.steps import CLEANING, INDEXING
from utils.common.workers import results_of
from utils.conf.schema import Conf
from utils.dataset.audio import Clip
from utils.dataset.clip_store import ClipStore, Sound, part_name
from utils.dataset.index import read_clips
from utils.dataset.paths import DatasetPaths
from utils.trial.dataset_provenance import check_steps, holds, record_step_outputs

BATCH = 8  # clips in a worker's task


def indexed_clips(conf: Conf) -> dict[str, dict[str, Clip]]:
    """The clips of each split, by fid. Raises UserError where the index is outdated or has no clips."""
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    splits = {split: read_clips(paths, split) for split in conf.data_conf.splits}
    for split, clips in splits.items():
        if not clips:
            raise UserError(f"{paths.audio_info}: {split} was indexed without audio; run {INDEXING} with it")
    return splits


def write_clip_arrays(
    conf: Conf,
    splits: dict[str, dict[str, Clip]],
    stores: dict[str, ClipStore],
    workers: int,
    *more_inputs: Path,
) -> None:
    """Write the arrays of all splits, and record that.

    Each split has clips, by fid, and a store; all stores are of one step. The arrays are made from the sounds, and from
    `more_inputs`.
    """
    made_by = next(iter(stores.values())).made_by
    killed = f"{made_by} keeps finished clips: run it again, with fewer {made_by.section}.workers"
    # One record for all splits: a partial one would vouch for the other splits' older files
    with record_step_outputs(conf, made_by, *more_inputs):
        begun = [_Split(conf, split, clips, stores[split]) for split, clips in splits.items()]
        tasks = [partial(split.store.finish, batch) for split in begun for batch in split.batches]
        with results_of(tasks, workers, killed) as places:
            for split in begun:  # workers compute the next split while this one is written
                split.write(places)
    for store in stores.values():
        store.clear()


class _Split:
    """A split's arrays: those of earlier runs, and the batches that workers compute or check."""

    def __init__(self, conf: Conf, split: str, clips: dict[str, Clip], store: ClipStore):
        paths = DatasetPaths(conf.data_conf.dataset)
        self.split, self.clips, self.store = split, clips, store
        self.stored = {}
        if holds(conf, store.made_by, store.path):
            self.stored = store.stored()
        elif store.path.exists():
            print(f"{store.path}: not as {store.made_by} recorded it, or made by other settings; it is made anew")
        if store.prepare():
            print(f"{split}: {store.noun} that were begun with other settings are dropped")
        self.finished = store.finished()
        sounds = [
            Sound(fid, clip, paths.clip(split, clip.file_name), self._is_done(fid, clip)) for fid, clip in clips.items()
        ]
        self.batches = [sounds[start : start + BATCH] for start in range(0, len(sounds), BATCH)]

    def _is_done(self, fid: str, clip: Clip) -> bool:
        return self.stored.get(fid) == clip.sha256 or part_name(fid, clip) in self.finished

    def write(self, places: Iterator[list[Place | None]]) -> None:
        """Write the arrays once `places` yields those of this split's batches."""
        split, clips, store = self.split, self.clips, self.store
        clip_places = chain.from_iterable(islice(places, len(self.batches)))
        title = f"{store.noun} {split}"
        results = zip(clips.items(), progress(clip_places, title, total=len(clips)), strict=True)
        computed = {part_name(fid, clip): place for (fid, clip), place in results if place is not None}
        if self.stored == {fid: clip.sha256 for fid, clip in clips.items()}:
            print(f"{split}: {counted(len(clips), 'clip')}, as they are in {store.path}")
            return
        frames = store.assemble(clips, self.stored, self.finished | computed)
        kept = f" ({len(clips) - len(computed)} kept from an earlier run)" if len(computed) < len(clips) else ""
        sizes = f"{counted(len(clips), 'clip')}{kept}, {frames} frames of {store.columns} {store.unit}"
        print(f"{split}: {sizes} -> {store.path}")
