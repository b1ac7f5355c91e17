"""Trials to report on, made in a moment: no training, but every file as the commands write it."""

import json

import h5py
import numpy as np
import pandas as pd
import soundfile
import torch

from models.core import CRNNWordModel
from tests.conftest import ROOT
from utils.audio_utils import log_mel_spectrogram
from utils.conf_utils import load_conf, save_conf
from utils.data_utils import load_split
from utils.index_utils import DatasetPaths, clip_id
from utils.io_utils import write_json
from utils.metric_utils import both_directions
from utils.model_utils import SplitScores
from utils.score_utils import StoredScores, save_scores

ODD_NAMES = [
    "Ruisseau &#39;d&#39;été # 1.wav",
    " 100 % wind  &amp; rain?.wav",
    "<script>alert(1)<script>.wav",
    "\"><img src=x onerror='alert(2)'>.WAV",
    "雨 – дождь.flac",
]
WORDS = ["<pad>", "a", "dog", "barks", "rain", "über", "<b>loud</b>", "supercalifragilistic"]
RATE = 16000  # Hz


def write_trial(folder, names=ODD_NAMES, captions_each=3):
    """A trial of an untrained model below a folder, with its data set; its directory and configuration.

    The evaluation split has the named clips, the development split, which is the validation split as well, two.
    """
    splits = ("data_conf.val_data=development", f"data_conf.dataset={folder / 'data'}", f"trial_base={folder}")
    conf = load_conf(ROOT / "conf_demo.yaml", splits)
    paths, rng = DatasetPaths(conf.data_conf.dataset), np.random.default_rng(0)
    info = {
        split: write_split(paths, split, files, captions_each, conf.audio_logmel.recipe, rng)
        for split, files in (("evaluation", names), ("development", ["one.wav", "two.wav"]))
    }
    write_json(paths.audio_info, info)
    trial = folder / "trial"
    trial.mkdir()
    save_conf(conf, trial / "conf.yaml")
    torch.manual_seed(0)
    vectors = torch.randn(len(WORDS), 300)
    vectors[0] = 0
    model = CRNNWordModel(64, 300, vectors).eval()
    checkpoint = {"model": model.state_dict(), "words": WORDS, "conf": conf.model_dump(), "history": [], "epoch": 1}
    torch.save(checkpoint, trial / "checkpoint_best.pt")
    metrics = {}
    for name in conf.data_conf.splits:
        split = load_split(paths, name, WORDS, conf.audio_logmel.recipe)
        scores = SplitScores(model, split, torch.device("cpu")).cross
        caption_fids = [split.fids[clip] for clip in split.caption_clips]
        save_scores(trial / f"{name}_xmodal_scores.hdf5", StoredScores(scores, split.fids, split.tids, caption_fids, 1))
        metrics[name] = both_directions(scores, split.caption_clips)
    write_json(trial / "retrieval_metrics.json", metrics)
    write_history(trial)
    return trial, conf


def write_split(paths, split, files, captions_each, recipe, rng):
    """Clips of half a second and their captions, cleaned and indexed; the split's part of audio_info.json."""
    folder = paths.audio(split)
    folder.mkdir(parents=True)
    rows, clips = [], {}
    with h5py.File(paths.log_mels(split), "w") as store:
        store.attrs["recipe"] = json.dumps(recipe)
        for i, name in enumerate(files):
            fid = clip_id(split, name)
            samples = 0.3 * np.sin(2 * np.pi * (300 + 200 * i) * np.arange(RATE // 2) / RATE)
            kind = "FLAC" if name.endswith("flac") else "WAV"
            soundfile.write(folder / name, samples, RATE, format=kind)
            store[fid] = log_mel_spectrogram(samples, RATE, **recipe)
            clips[fid] = {"file": name, "seconds": 0.5, "sample_rate": RATE, "channels": 1, "sha256": "0" * 64}
            for number in range(captions_each):
                tokens = rng.choice(WORDS[1:], size=rng.integers(2, 7)).tolist()
                raw = f'{" ".join(tokens)} & "{name}" {number}'
                rows.append((f"{fid}-{number}", fid, name, raw, " ".join(tokens), json.dumps(tokens)))
    columns = ["tid", "fid", "fname", "raw_text", "text", "tokens"]
    pd.DataFrame(rows, columns=columns).to_csv(paths.text(split), index=False, lineterminator="\n")
    return {"num_clips": len(clips), "seconds": 0.5 * len(clips), "clips": clips}


def write_history(trial, epochs=3, offset=0.0):
    """metrics.jsonl of a run; epoch 0 has no training loss."""
    lines = []
    for epoch in range(epochs):
        results = {
            "epoch": epoch,
            "lr": 0.001,
            "train_loss": 1 - 0.1 * epoch + offset,
            "active_triplets": 1.0,
            "val_obj": 1 - 0.2 * epoch + offset,
            "val_map_text_to_audio": 0.2 * epoch,
            "val_map_audio_to_text": 0.1 * epoch,
            "val_map": 0.15 * epoch,
            "score_std": 0.01 * epoch,
        }
        if epoch == 0:
            del results["train_loss"], results["active_triplets"]
        lines.append(json.dumps(results) + "\n")
    (trial / "metrics.jsonl").write_text("".join(lines))


def write_finished(folder, name, sampling, seed, metrics=None, settings=(), queries=(10, 2)):
    """A trial directory with all that a comparison reads; `metrics` by direction, mAP and the rest alike."""
    trial = folder / name
    trial.mkdir(parents=True)
    overrides = (f"criteria.TripletLoss.sampling={sampling}", f"param_conf.seed={seed}", *settings)
    save_conf(load_conf(ROOT / "conf_demo.yaml", overrides), trial / "conf.yaml")
    names = ("mAP", "mAP10", "R1", "R5", "R10", "HR1", "HR5", "HR10", "MedR")
    values = metrics or {"text_to_audio": 0.5, "audio_to_text": 0.25}
    measured = {
        side: dict.fromkeys(names, value) | {"queries": number, "tied_queries": 0}
        for (side, value), number in zip(values.items(), queries, strict=True)
    }
    write_json(trial / "retrieval_metrics.json", {"evaluation": measured})
    write_history(trial, offset=0.01 * seed)
    return trial
