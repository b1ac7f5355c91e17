"""What postprocessing does with a trial: score a split's clips and captions, and measure retrieval by the scores."""

from pathlib import Path

import numpy as np
import torch

from utils.conf_utils import Conf
from utils.data_utils import load_split
from utils.index_utils import DatasetPaths
from utils.io_utils import write_json
from utils.metric_utils import both_directions
from utils.model_utils import SplitScores, prepare_model
from utils.provenance_utils import check_made, check_steps, digests, record_files
from utils.score_utils import StoredScores, WordScores, load_scores, save_scores, save_word_scores
from utils.step_utils import MEASURING, PREPROCESSING, SCORING
from utils.trial_utils import BEST, check_data, load_checkpoint, load_model

SHOWN = ("mAP", "mAP10", "R1", "R5", "R10", "HR1", "HR5", "HR10")


def score_trial(trial: Path, conf: Conf) -> None:
    """Score every clip with every caption of each split by the trial's best model, and say what was written."""
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
    splits = conf.data_conf.splits
    data = digests(paths.root, [*map(paths.text, splits), paths.word_embeds, *map(paths.log_mels, splits)])
    record_files(trial, SCORING, [trial / BEST], outputs, data=data)


def measure_trial(trial: Path, conf: Conf) -> None:
    """Retrieval metrics of each split by its scores: print them as a table, and write them."""
    epoch = load_checkpoint(trial / BEST)["epoch"]
    check_made(trial, SCORING)
    metrics, chance = {}, {}
    for split in conf.data_conf.splits:
        stored = load_scores(trial / f"{split}_xmodal_scores.hdf5", epoch)
        places = {fid: i for i, fid in enumerate(stored.fids)}
        caption_clips = np.array([places[fid] for fid in stored.caption_fids])
        metrics[split] = both_directions(stored.scores, caption_clips)
        chance[split] = both_directions(np.zeros_like(stored.scores), caption_clips)  # all tied: the expected value
    path = trial / "retrieval_metrics.json"
    write_json(path, metrics)
    inputs = [trial / f"{split}_xmodal_scores.hdf5" for split in metrics]
    record_files(trial, MEASURING, inputs, [path])
    print_table(metrics, chance)
    print(f"-> {path}")


def print_table(metrics: dict, chance: dict) -> None:
    """A line for each split and direction; the mAP of random scores stands beside the mAP."""
    header = "".join(f"{name:>7}" for name in SHOWN)
    print(f"{'split':12}  {'direction':13}{'chance':>7}{header}   MedR  queries (tied)")
    for split, directions in metrics.items():
        for direction, values in directions.items():
            numbers = "".join(f"{values[name]:7.3f}" for name in SHOWN)
            print(
                f"{split:12}  {direction.replace('_', '-'):13}{chance[split][direction]['mAP']:7.3f}{numbers}"
                f"{values['MedR']:7.1f}  {values['queries']} ({values['tied_queries']})"
            )
