"""Step 4: log-mel energies. Reads audio_info.json and the clips, writes {split}_audio_logmels.hdf5."""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

import h5py
import numpy as np
import torch

from utils.audio_utils import log_mel_spectrogram, read_audio
from utils.conf_utils import conf_from_command
from utils.index_utils import DatasetPaths
from utils.io_utils import UserError, progress, read_json, run_command, whole_file

STEP_2 = "preprocessing/2_clotho_dataset.py"


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    try:
        splits = {split: dict(info["clips"]) for split, info in read_json(paths.audio_info, STEP_2).items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{paths.audio_info}: not as {STEP_2} writes it; run that again") from None
    workers = conf.audio_logmel.workers or os.cpu_count()
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for split, clips in splits.items():
            if not clips:
                raise UserError(f"{paths.audio_info}: {split} was indexed without audio; run {STEP_2} with it")
            extract_split(pool, paths, split, clips, conf.audio_logmel.recipe)


def extract_split(pool: ProcessPoolExecutor, paths: DatasetPaths, split: str, clips: dict, recipe: dict) -> None:
    """Write a (T, n_mels) float32 data set for each clip's fid."""
    files = [paths.audio(split) / clip["file"] for clip in clips.values()]
    log_mels = pool.map(partial(extract_clip, recipe=recipe), files, chunksize=8)
    frames = 0
    with whole_file(paths.log_mels(split)) as temporary, h5py.File(temporary, "w") as store:
        store.attrs["recipe"] = json.dumps(recipe)
        for fid, log_mel in progress(zip(clips, log_mels, strict=True), f"log-mel {split}", total=len(clips)):
            store.create_dataset(fid, data=log_mel)
            frames += len(log_mel)
    print(f"{split}: {len(clips)} clips, {frames} frames of {recipe['n_mels']} bands -> {paths.log_mels(split)}")


def extract_clip(path: Path, recipe: dict) -> np.ndarray:
    samples, sample_rate = read_audio(path)
    try:
        return log_mel_spectrogram(samples, sample_rate, **recipe)
    except ValueError as error:
        raise UserError(f"{path}: {error}; change the audio_logmel settings or remove the clip") from None


if __name__ == "__main__":
    run_command(main)
