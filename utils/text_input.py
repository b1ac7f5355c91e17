"""The text input of training: the vectors of a caption's words, or one vector of the whole caption, a sentence.

A caption of a data set with sentences is a caption of one word: the vocabulary holds the distinct captions.
"""

from pathlib import Path

from utils.common.steps import EMBEDDING, SENTENCES, Stage, stage_files
from utils.conf.schema import Conf
from utils.dataset.word_vectors import WordEmbeddings, load_embeddings


def of_sentences(conf: Conf) -> bool:
    """Whether a caption is one sentence, not its words."""
    return conf.CRNNWordModel.text_enc.level == "sentence"


def text_stage(conf: Conf) -> Stage:
    """The step that makes the vectors."""
    return SENTENCES if of_sentences(conf) else EMBEDDING


def vectors_path(conf: Conf) -> Path:
    """The file of the vectors."""
    (path,) = stage_files(conf.data_conf.dataset, text_stage(conf).outputs, [""])
    return path


def read_vectors(conf: Conf) -> WordEmbeddings:
    """The vocabulary and its vectors; UserError where they are missing, damaged, or do not fit the audio encoder."""
    encoders = conf.CRNNWordModel
    projected = encoders.audio_enc.projection or encoders.text_enc.projection
    out_dim = None if projected else encoders.audio_enc.out_dim
    return load_embeddings(vectors_path(conf), out_dim, text_stage(conf))
