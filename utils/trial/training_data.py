"""What a run trains on, read and refused before anything of the trial exists."""

from typing import NamedTuple

import numpy as np

from utils.common.processes import pick_device
from utils.common.steps import PREPROCESSING
from utils.conf.schema import Conf
from utils.data_utils import Split, load_split, on_device
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import load_embeddings
from utils.memory_utils import require_memory
from utils.trial.dataset_provenance import check_steps
from utils.trial.identity import data_digests
from utils.trial.relevance import require_pairs


class TrainingData(NamedTuple):
    """A vocabulary with its vectors, the split to learn from, and the one that steers."""

    words: list[str]  # V, id 0 the padding
    vectors: np.ndarray  # (V, E) float32
    train: Split
    val: Split
    files: dict[str, str]  # of the data set, by name: SHA-256 before they were read


def load_training_data(conf: Conf) -> TrainingData:
    """Read the data set; raises UserError where it is not what the preprocessing steps make by this configuration."""
    paths, data = DatasetPaths(conf.data_conf.dataset), conf.data_conf
    check_steps(conf, *PREPROCESSING)
    require_pairs(conf)  # else it were found out when all is trained
    files = data_digests(conf, [data.train_data, data.val_data])
    words, vectors = load_embeddings(paths.word_embeds, conf.CRNNWordModel.audio_enc.out_dim)
    train, val = (
        load_split(paths, split, words, conf.audio_logmel.n_mels, data.cache, needs_negatives=True)
        for split in (data.train_data, data.val_data)
    )
    device = pick_device()
    needed = require_memory(conf, vectors.shape[1], train, device)
    train = on_device(train, data.train_data, device, data.cache, needed)
    return TrainingData(words, vectors, train, val, files)
