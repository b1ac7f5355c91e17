"""Step 3: get a vector for each word. Reads vocab_info.json and word vectors, writes word2vec_embeds.npz.

With word2vec_embeddings.extra_words, also writes word2vec_extra.npz: words that no caption contains, for search."""

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_from_command

if __name__ == "__main__":
    begin_command(lambda: conf_from_command(__doc__))

from utils.common.steps import CLEANING, EMBEDDING, INDEXING
from utils.conf.schema import Conf
from utils.dataset.captions import is_typed
from utils.dataset.index import TEXT_COLUMNS, read_table, read_vocabulary
from utils.dataset.paths import DatasetPaths
from utils.dataset.vector_file import Row
from utils.dataset.word_vectors import (
    choose_vectors,
    embed_vocabulary,
    save_embeddings,
    source_rows,
    train_vectors,
    unknown_vector,
)
from utils.trial.dataset_provenance import check_steps, record_step_outputs


def main() -> None:
    conf = conf_from_command(__doc__)
    settings, corrections = conf.word2vec_embeddings, conf.text_cleaning.corrections
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    sources = {"file": [Path(settings.file or "")], "train": [paths.text(conf.data_conf.train_data)]}
    with record_step_outputs(conf, EMBEDDING, *sources.get(settings.source, [])):
        vocabulary = read_vocabulary(paths)
        known = set(vocabulary)
        vectors, extra = choose_vectors(
            word_rows(conf, paths),
            known.union(*settings.variants.values()),
            lambda word: word not in known and is_typed(word, corrections),
            settings.extra_words,
        )
        unknown = partial(
            unknown_vector, max_dot=settings.unk_max_dot, max_draws=settings.unk_max_draws, seed=settings.seed
        )
        embeddings, coverage = embed_vocabulary(vocabulary, vectors, settings.variants, unknown)
        if settings.extra_words:
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


def word_rows(conf: Conf, paths: DatasetPaths) -> Iterable[Row]:
    """The words and vectors that word2vec_embeddings.source names."""
    settings = conf.word2vec_embeddings
    if settings.source != "train":
        return source_rows(settings.source, settings.file)
    table = read_table(paths.text(conf.data_conf.train_data), TEXT_COLUMNS, INDEXING)
    captions = [text.split() for text in table["text"]]
    return train_vectors(captions, **settings.train.model_dump(), seed=settings.seed).items()


if __name__ == "__main__":
    run_command(main)
