"""The training data, read and checked before the trial directory exists."""

from typing import NamedTuple

import numpy as np

from utils.audio_input import audio_input
from utils.common.processes import pick_device
from utils.conf.schema import Conf
from utils.data_utils import Split, load_split, on_device
from utils.dataset.paths import DatasetPaths
from utils.memory_utils import require_memory
from utils.model_utils import encoder_dim
from utils.text_input import read_vectors
from utils.trial.dataset_provenance import check_steps, preprocessing
from utils.trial.identity import data_digests
from utils.trial.relevance import require_pairs


class TrainingData(NamedTuple):
    """A vocabulary (of words, or of whole captions) with its vectors, and the splits for training and validation."""

    words: list[str]  # V, id 0 the padding
    vectors: np.ndarray  # (V, E) float32
    train: Split
    val: Split
    files: dict[str, str]  # SHA-256 by file name, taken before reading


def load_training_data(conf: Conf) -> TrainingData:
    """Read the data set; UserError where preprocessing by this configuration would not make it."""
    paths, data = DatasetPaths(conf.data_conf.dataset), conf.data_conf
    check_steps(conf, *preprocessing(conf))
    require_pairs(conf)  # read after training only: refuse it before
    files = data_digests(conf, [data.train_data, data.val_data])
    audio = audio_input(conf)
    words, vectors = read_vectors(conf)
    train = load_split(paths, data.train_data, words, audio, data.cache, needs_negatives=True)
    encoder_dim(conf, vectors.shape[1], train.width)
    audio = audio.of_width(train.width, f"the clips of {data.train_data} have")
    val = load_split(paths, data.val_data, words, audio, data.cache, needs_negatives=True)
    device = pick_device()
    needed = require_memory(conf, vectors.shape[1], train, device)
    train = on_device(train, data.train_data, device, data.cache, needed)
    return TrainingData(words, vectors, train, val, files)
