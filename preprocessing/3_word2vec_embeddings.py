"""Step 3: a vector for every word. Reads vocab_info.json and word vectors, writes word2vec_embeds.npz.

If word2vec_embeddings.extra_words is set, word2vec_extra.npz gets words that no caption has, for search."""

import sys
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import begin_command, run_command

if __name__ == "__main__":
    begin_command()

import numpy as np

from utils.common.steps import CLEANING, EMBEDDING, INDEXING
from utils.conf.command import conf_from_command
from utils.conf.schema import Conf
from utils.dataset.captions import is_typed
from utils.dataset.index import TEXT_COLUMNS, read_table, read_vocabulary
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import (
    UnknownVector,
    embed_vocabulary,
    further_words,
    save_embeddings,
    source_rows,
    train_vectors,
    wanted_vectors,
)
from utils.trial.dataset_provenance import check_steps, record_step_outputs


def main() -> None:
    conf = conf_from_command(__doc__)
    settings = conf.word2vec_embeddings
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    sources = {"file": [Path(settings.file or "")], "train": [paths.text(conf.data_conf.train_data)]}
    with record_step_outputs(conf, EMBEDDING, *sources.get(settings.source, [])):
        vocabulary = read_vocabulary(paths)
        vectors = source_vectors(conf, paths, vocabulary)
        unknown = UnknownVector(settings.unk_max_dot, settings.unk_max_draws, settings.seed)
        embeddings, coverage = embed_vocabulary(vocabulary, vectors, settings.variants, unknown)
        if settings.extra_words:
            extra = further_words(vectors, vocabulary, settings.extra_words, conf.text_cleaning.corrections)
            save_embeddings(paths.word_extra, extra)
        else:
            paths.word_extra.unlink(missing_ok=True)  # of earlier settings
        save_embeddings(paths.word_embeds, embeddings)
    print(f"{counted(len(vocabulary), 'word')}, {embeddings.vectors.shape[1]} dimensions -> {paths.word_embeds}")
    print(
        f"  {len(coverage.found)} found, {len(coverage.by_variants)} by variants, "
        f"{len(coverage.unknown)} unknown{': ' + ' '.join(coverage.unknown) if coverage.unknown else ''}"
    )
    if settings.extra_words:
        print(f"{counted(settings.extra_words, 'word')} that no caption has -> {paths.word_extra}")


def source_vectors(conf: Conf, paths: DatasetPaths, vocabulary: list[str]) -> dict[str, np.ndarray]:
    """Get the vectors that word2vec_embeddings.source names; from pretrained ones only those that are used."""
    settings, corrections = conf.word2vec_embeddings, conf.text_cleaning.corrections
    if settings.source != "train":
        rows = source_rows(settings.source, settings.file)
        wanted = {*vocabulary, *chain.from_iterable(settings.variants.values())}
        return wanted_vectors(rows, wanted, lambda word: is_typed(word, corrections), settings.extra_words)
    table = read_table(paths.text(conf.data_conf.train_data), TEXT_COLUMNS, INDEXING)
    captions = [text.split() for text in table["text"]]
    return train_vectors(captions, **settings.train.model_dump(), seed=settings.seed)


if __name__ == "__main__":
    run_command(main)
