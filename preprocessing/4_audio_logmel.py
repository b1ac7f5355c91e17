"""Step 4: log-mel energies. Reads audio_info.json and the clips, writes {split}_audio_logmels.hdf5.

Clips that an earlier run finished, by the same settings and from the same sounds, are kept."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import UserError, begin_command, run_command

if __name__ == "__main__":
    begin_command()

from utils.common.io import progress
from utils.common.steps import CLEANING, INDEXING, LOG_MELS
from utils.conf.command import conf_from_command
from utils.conf.schema import Conf
from utils.dataset.audio import Clip
from utils.dataset.index import read_clips
from utils.dataset.log_mel_store import LogMelStore, worker_pool
from utils.dataset.paths import DatasetPaths
from utils.trial.preprocessing import check_steps, holds, making_step


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    splits = {split: read_clips(paths, split) for split in conf.data_conf.splits}
    for split, clips in splits.items():
        if not clips:
            raise UserError(f"{paths.audio_info}: {split} was indexed without audio; run {INDEXING} with it")
    stores = {split: LogMelStore(paths.log_mels(split), conf.audio_logmel.recipe) for split in splits}
    workers = conf.audio_logmel.workers or os.cpu_count()
    # All splits in one: a record of a part would take in the other splits' files of before
    with making_step(conf, LOG_MELS, [paths.audio_info]), worker_pool(workers) as pool:
        for split, clips in splits.items():
            extract_split(pool, conf, split, clips, stores[split])
    for store in stores.values():
        store.clear()


def extract_split(
    pool: ProcessPoolExecutor, conf: Conf, split: str, clips: dict[str, Clip], store: LogMelStore
) -> None:
    """Compute what is missing of a split's log-mels, and write them."""
    paths = DatasetPaths(conf.data_conf.dataset)
    stored = {}
    if holds(conf, LOG_MELS, store.path):
        stored = store.stored()
    elif store.path.exists():
        print(f"{store.path}: not as {LOG_MELS} recorded it, or by other settings; it is made anew")
    if dropped := store.prepare():
        print(f"{split}: {dropped}")
    files = [paths.clip(split, clip.file_name) for clip in clips.values()]
    is_stored = [stored.get(fid) == clip.sha256 for fid, clip in clips.items()]
    done = pool.map(store.finish, clips, clips.values(), files, is_stored, chunksize=8)
    computed = sum(progress(done, f"log-mel {split}", total=len(clips)))
    if all(is_stored) and len(stored) == len(clips):
        print(f"{split}: {len(clips)} clips, as they are in {store.path}")
        return
    frames = store.assemble(clips, stored)
    kept = f" ({len(clips) - computed} kept from an earlier run)" if computed < len(clips) else ""
    print(f"{split}: {len(clips)} clips{kept}, {frames} frames of {store.recipe.n_mels} bands -> {store.path}")


if __name__ == "__main__":
    run_command(main)
