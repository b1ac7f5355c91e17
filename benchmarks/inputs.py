"""What the benchmarks work on: a synthesised data set on disk, a trial, scores."""

import hashlib
import importlib
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from utils.place_utils import slices

from benchmarks.synthetic import CLIP_FRAMES, DIM, VOCABULARY, new_model, random_captions, word_vectors
from models.core import CRNNWordModel
from utils.common.digests import file_digest
from utils.common.io import write_csv, write_json
from utils.common.steps import CLEANING, EMBEDDING, INDEXING, PREPROCESSING, SCORING
from utils.conf.reading import load_conf, save_conf
from utils.conf.schema import Conf
from utils.dataset.audio import Clip
from utils.dataset.index import TEXT_COLUMNS, clip_id, clip_info
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import PAD, WordEmbeddings, save_embeddings
from utils.score_utils import caption_word_weights
from utils.trial.checkpoint import checkpoint_bytes
from utils.trial.identity import begin, identity
from utils.trial.names import BEST, CONF
from utils.trial.preprocessing import making_step, step_outputs
from utils.trial.provenance import making_files
from utils.trial.score_files import Captions, WordScores, new_word_scores, save_word_scores, word_scores_path

ROOT = Path(__file__).resolve().parents[1]
WORDS = [PAD, *(f"word{i}" for i in range(1, VOCABULARY))]


def dataset_conf(root: str, *settings: str) -> Conf:
    """The paper's settings on the data set in a directory, with further ones."""
    return load_conf(ROOT / "conf.yaml", [f"data_conf.dataset={root}", *settings])


def write_dataset(root: str, num_clips: dict[str, int], mean_seconds: float, sample_rate: int = 44100) -> None:
    """Synthesise a preprocessed data set: clips, index, word vectors and log-mels, five captions a clip."""
    rng, paths = np.random.default_rng(0), DatasetPaths(root)
    words = [PAD, *(f"word{i}" for i in range(1, 300))]
    clips: dict[str, dict[str, Clip]] = {}
    for split, count in num_clips.items():
        files = {clip_id(split, f"{i}.wav"): f"{i}.wav" for i in range(count)}
        clips[split], rows = {}, []
        paths.audio(split).mkdir(parents=True)
        for fid, file in files.items():
            seconds = mean_seconds * rng.uniform(0.6, 1.4)
            soundfile.write(paths.audio(split) / file, _waveform(rng, seconds, sample_rate), sample_rate)
            digest = file_digest(paths.audio(split) / file)
            clips[split][fid] = Clip(file, seconds, sample_rate, 1, digest)
            for k, ids in enumerate(random_captions(rng, 5, len(words))):
                tokens = [words[i] for i in ids]
                rows.append([f"{fid}-{k}", fid, file, " ".join(tokens), " ".join(tokens), json.dumps(tokens)])
        write_csv(paths.text(split), TEXT_COLUMNS, rows)
    write_json(paths.audio_info, clip_info(clips))
    save_embeddings(paths.word_embeds, WordEmbeddings(words, word_vectors(len(words)).numpy()))
    record_as_made(dataset_conf(root), CLEANING, INDEXING, EMBEDDING)
    extract_log_mels(root)


def record_as_made(conf: Conf, *steps: str) -> None:
    """Record preprocessing steps that were not run; what they would have written beside is made empty."""
    for step in steps:
        for path in step_outputs(conf, step):
            path.touch()
        with making_step(conf, step, []):
            pass


def extract_log_mels(root: str, anew: bool = True) -> None:
    """preprocessing/4_audio_logmel.py on a data set directory, in this process: its pool of workers, not its start.

    Anew: what was finished before is removed.
    """
    for split in dataset_conf(root).data_conf.splits if anew else ():
        DatasetPaths(root).log_mels(split).unlink(missing_ok=True)
    step_4 = importlib.import_module("preprocessing.4_audio_logmel")
    sys.argv = ["4_audio_logmel.py", "--conf", str(ROOT / "conf.yaml"), f"data_conf.dataset={root}"]
    with redirect_stdout(io.StringIO()):
        step_4.main()


def write_trial(root: str, clips: int) -> Path:
    """What a search reads, for this many clips with random word scores and five captions each; the trial directory."""
    rng, conf, trial = np.random.default_rng(0), dataset_conf(root), Path(root) / "trial"
    split, paths = conf.data_conf.eval_data, DatasetPaths(root)
    fids = [clip_id(split, f"{i}.wav") for i in range(clips)]
    trial.mkdir()
    save_conf(conf, trial / CONF)
    checkpoint = {"model": new_model().state_dict(), "words": WORDS, "conf": {}, "history": [], "epoch": 0}
    scores = rng.random((VOCABULARY, clips), dtype=np.float32)
    save_word_scores(word_scores_path(trial, split), WordScores(scores, WORDS, fids, epoch=0))
    nothing = hashlib.sha256(b"").hexdigest()  # where there is a clip at all
    clip_files = {fid: Clip(f"{i}.wav", 20.0, 44100, 1, nothing) for i, fid in enumerate(fids)}
    others = {other: {} for other in conf.data_conf.splits if other != split}
    write_json(paths.audio_info, clip_info({**others, split: clip_files}))
    rows = []
    for i, ids in enumerate(random_captions(rng, 5 * clips, VOCABULARY)):
        fid, tokens = fids[i // 5], [WORDS[word] for word in ids]
        text = " ".join(tokens)
        rows.append([f"{fid}-{i % 5 + 1}", fid, clip_files[fid].file_name, text, text, json.dumps(tokens)])
    write_csv(paths.text(split), TEXT_COLUMNS, rows)
    soundfile.write(Path(root) / "query.wav", _waveform(rng, 20.0, 44100), 44100)
    record_as_made(conf, *PREPROCESSING)
    begin(trial, conf, {})
    (trial / BEST).write_bytes(checkpoint_bytes(checkpoint | {"trial": identity(trial)}))
    with making_files(trial, SCORING, [trial / BEST], [word_scores_path(trial, split)]):
        pass
    return trial


def write_random_word_scores(path: Path, clips: int) -> None:
    """Random scores of Clotho's words with so many clips, five captions each, as a trial has them stored."""
    rng = np.random.default_rng(0)
    captions = random_captions(rng, 5 * clips, VOCABULARY)
    weights = caption_word_weights(captions, VOCABULARY)[1]
    fids, tids = [f"clip{i}" for i in range(clips)], [f"caption{i}" for i in range(5 * clips)]
    described = [fid for fid in fids for _ in range(5)]
    with new_word_scores(path, WORDS, fids, Captions(tids, described, weights), epoch=0) as write:
        for part in slices(clips, 2**13):
            write(part, rng.random((VOCABULARY, part.stop - part.start), dtype=np.float32))


def encoded_model() -> CRNNWordModel:
    """`new_model` with an encoder that costs nothing: what remains of scoring is the part after encoding."""
    model = new_model()
    model.audio_enc = NoEncoder()
    return model


class NoEncoder(nn.Module):
    """Stands in for CRNNEncoder: the same random steps for every clip, (N, T, in_dim) -> (N, T // 4, E)."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = torch.randn(1, CLIP_FRAMES[1] // 4, DIM, generator=torch.Generator().manual_seed(0))

    def forward(self, audio: Tensor) -> Tensor:
        return self.steps[:, : audio.shape[1] // 4].expand(len(audio), -1, -1)

    def encode_clips(self, audio: Tensor, lens: Tensor) -> Tensor:
        return self(audio)


def _waveform(rng: np.random.Generator, seconds: float, sample_rate: int) -> np.ndarray:
    """A tone that fades in noise, (samples,)."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    tone = np.exp(-times) * np.sin(2 * np.pi * rng.uniform(100, 4000) * times)
    return 0.4 * tone + 0.02 * rng.standard_normal(len(times))
