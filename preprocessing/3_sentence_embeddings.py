"""Step 3 for CRNNWordModel.text_enc.level=sentence: encode each distinct caption with sentence-transformers.

Reads {split}_text.csv, writes sentence_embeds.npz. Needs requirements-pretrained.txt."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_from_command

if __name__ == "__main__":
    begin_command(lambda: conf_from_command(__doc__))

import numpy as np

from utils.common.io import progress
from utils.common.steps import CLEANING, INDEXING, SENTENCES
from utils.dataset.index import read_table
from utils.dataset.paths import DatasetPaths
from utils.dataset.sentence_encoder import AT_ONCE, SentenceEncoder
from utils.dataset.word_vectors import PAD, WordEmbeddings, save_embeddings
from utils.retrieval_utils import slices
from utils.trial.dataset_provenance import check_steps, record_step_outputs


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    encoder = SentenceEncoder(conf.sentence_embeddings.model)
    with record_step_outputs(conf, SENTENCES, *encoder.files):
        captions = [read_table(paths.text(split), ["text"], INDEXING)["text"] for split in conf.data_conf.splits]
        texts = sorted(set().union(*captions))
        batches = list(slices(len(texts), AT_ONCE))
        rows = [encoder.encode(texts[batch]) for batch in progress(batches, "captions", len(batches))]
        padding = np.zeros_like(rows[0][:1])
        save_embeddings(paths.sentence_embeds, WordEmbeddings([PAD, *texts], np.concatenate([padding, *rows])))
    size = padding.shape[1]
    print(f"{counted(len(texts), 'distinct caption')}, {size} dimensions -> {paths.sentence_embeds}")


if __name__ == "__main__":
    run_command(main)
