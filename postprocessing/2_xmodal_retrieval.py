"""Retrieval metrics of each split, in both directions.

Reads {split}_xmodal_scores.hdf5, writes retrieval_metrics.json into the trial directory."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

import numpy as np

from utils.io_utils import run_command, write_json
from utils.metric_utils import both_directions
from utils.provenance_utils import record_files
from utils.score_utils import load_scores
from utils.trial_utils import BEST, load_checkpoint, trial_from_command

SHOWN = ("mAP", "mAP10", "R1", "R5", "R10", "HR1", "HR5", "HR10")


def main() -> None:
    trial, conf = trial_from_command(__doc__)
    epoch = load_checkpoint(trial / BEST)["epoch"]
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
    record_files(trial, "postprocessing/2_xmodal_retrieval.py", inputs, [path])
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


if __name__ == "__main__":
    run_command(main)
