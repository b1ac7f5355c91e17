"""Step 4: log-mel energies. Reads audio_info.json and the clips, writes {split}_audio_logmels.hdf5.

Clips that an earlier run finished, by the same settings and from the same sounds, are kept."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.conf_utils import conf_from_command
from utils.index_utils import Clip, DatasetPaths, read_clips
from utils.io_utils import UserError, file_digest, progress, run_command
from utils.log_mel_utils import LogMelStore, start_worker
from utils.provenance_utils import check_steps, read_provenance, record_step
from utils.step_utils import CLEANING, INDEXING, LOG_MELS


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    splits = {split: read_clips(paths, split) for split in conf.data_conf.splits}
    for split, clips in splits.items():
        if not clips:
            raise UserError(f"{paths.audio_info}: {split} was indexed without audio; run {INDEXING} with it")
    remove_changed(paths)
    workers = conf.audio_logmel.workers or os.cpu_count()
    try:
        with ProcessPoolExecutor(workers, initializer=start_worker) as pool:
            for split, clips in splits.items():
                extract_split(pool, paths, split, clips, conf.audio_logmel.recipe)
                record_step(conf, LOG_MELS, [paths.audio_info], map(paths.log_mels, splits))
    except BrokenProcessPool:
        raise UserError(
            f"a process was killed, perhaps for want of memory; {LOG_MELS} keeps what is finished: run it again, with "
            "fewer audio_logmel.workers"
        ) from None


def remove_changed(paths: DatasetPaths) -> None:
    """Remove the log-mels that are not as an earlier run recorded them: damaged, or not of its making."""
    made = read_provenance(paths.root).get(LOG_MELS)
    for name, digest in made.outputs.items() if made else ():
        path = Path(paths.root) / name
        if Path(name).name == name and path.is_file() and file_digest(path) != digest:
            print(f"{path}: has been changed since it was made; it is made anew")
            path.unlink()


def extract_split(
    pool: ProcessPoolExecutor, paths: DatasetPaths, split: str, clips: dict[str, Clip], recipe: dict
) -> None:
    """Compute what is missing of a split's log-mels, and write them."""
    store = LogMelStore(paths.log_mels(split), recipe)
    stored = store.stored()
    if dropped := store.prepare():
        print(f"{split}: {dropped}")
    files = [paths.clip(split, clip.file) for clip in clips.values()]
    is_stored = [stored.get(fid) == clip.sha256 for fid, clip in clips.items()]
    done = pool.map(store.finish, clips, clips.values(), files, is_stored, chunksize=8)
    computed = sum(progress(done, f"log-mel {split}", total=len(clips)))
    if all(is_stored) and len(stored) == len(clips):
        store.clear()
        print(f"{split}: {len(clips)} clips, as they are in {store.path}")
        return
    frames = store.assemble(clips, stored)
    kept = f" ({len(clips) - computed} kept from an earlier run)" if computed < len(clips) else ""
    print(f"{split}: {len(clips)} clips{kept}, {frames} frames of {recipe['n_mels']} bands -> {store.path}")


if __name__ == "__main__":
    run_command(main)
