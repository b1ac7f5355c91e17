"""Score every clip with every caption of each split, each at its own length.

Writes {split}_xmodal_scores.hdf5 into the trial directory, and {split}_word_scores.hdf5, every clip with every word of
the vocabulary, for 4_search.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

import torch

from utils.data_utils import load_split
from utils.index_utils import DatasetPaths
from utils.io_utils import run_command
from utils.model_utils import SplitScores, prepare_model
from utils.provenance_utils import PREPROCESSING, check_steps, record_files
from utils.score_utils import StoredScores, WordScores, save_scores, save_word_scores
from utils.trial_utils import BEST, check_data, load_model, trial_from_command


def main() -> None:
    trial, conf = trial_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, *PREPROCESSING)
    check_data(trial, conf)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, words, epoch = load_model(trial / BEST)
    prepare_model(conf, model, device)
    for name in conf.data_conf.splits:
        split = load_split(paths, name, words, conf.audio_logmel.recipe, conf.data_conf.cache)
        scores = SplitScores(model, split, device, all_words=True)
        caption_fids = [split.fids[clip] for clip in split.caption_clips]
        path = trial / f"{name}_xmodal_scores.hdf5"
        save_scores(path, StoredScores(scores.cross, split.fids, split.tids, caption_fids, epoch))
        print(f"{name}: {len(split.fids)} clips x {len(split.tids)} captions -> {path}")
        path = trial / f"{name}_word_scores.hdf5"
        save_word_scores(path, WordScores(scores.word_scores, words, split.fids, epoch))
        print(f"{name}: {len(split.fids)} clips x {len(words)} words -> {path}")
    outputs = [trial / f"{name}_{kind}_scores.hdf5" for name in conf.data_conf.splits for kind in ("xmodal", "word")]
    record_files(trial, "postprocessing/1_xmodal_scores.py", [trial / BEST], outputs)


if __name__ == "__main__":
    run_command(main)
