"""What postprocessing does with a trial: score a split's clips and captions, and measure retrieval by the scores."""

from pathlib import Path

import numpy as np
import torch

from utils.common.errors import UserError
from utils.common.io import write_json
from utils.common.processes import pick_device
from utils.common.steps import EMBEDDING, INDEXING, MEASURING, SCORING, TRAINING
from utils.conf.schema import Conf
from utils.data_utils import Split, load_split
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import WordEmbeddings, load_further_words
from utils.evaluation_utils import score_split
from utils.metric_utils import both_directions, chance_both_directions, right_pairs
from utils.model_utils import prepare_model
from utils.score_utils import Score, inverse_document_frequency
from utils.trial.checkpoint import Trained
from utils.trial.identity import check_trial, data_digests, diverged, load_best
from utils.trial.names import BEST, RETRIEVAL_METRICS
from utils.trial.preprocessing import holds, sources
from utils.trial.provenance import making_files
from utils.trial.relevance import further_pairs, measured_by
from utils.trial.score_files import (
    StoredScores,
    WordScores,
    load_scores,
    save_scores,
    save_word_scores,
    scores_path,
    word_scores_path,
)

SHOWN = ("mAP", "mAP10", "mAP16", "R1", "R5", "R10", "HR1", "HR5", "HR10")


def score_trial(trial: Path, conf: Conf) -> None:
    """Score every clip with every caption of each split by the trial's best model, and report what was written."""
    paths, splits = DatasetPaths(conf.data_conf.dataset), conf.data_conf.splits
    check_trial(trial, conf, TRAINING)
    best = load_best(trial)
    if best.epoch == 0 and (how := diverged(trial)):
        raise UserError(f"{how}: epoch 0, which is untrained; there is nothing to score")
    extra = extra_words(conf, best)
    device = pick_device()
    prepare_model(conf, best.model, device)
    best.score.to(device)
    outputs = [path(trial, name) for name in splits for path in (scores_path, word_scores_path)]
    data = data_digests(conf, splits, *([paths.word_extra] if extra else []))
    with making_files(trial, SCORING, [trial / BEST], outputs, data=data, sources=sources(conf)):
        for name in splits:
            split = load_split(paths, name, best.words, conf.audio_logmel.n_mels, conf.data_conf.cache)
            _score_split(trial, name, split, best, extra)


def extra_words(conf: Conf, best: Trained) -> WordEmbeddings | None:
    """So many words beside a model's vocabulary as the configuration asks for, with their vectors (X, E).

    Raises UserError where step 3 kept none, or fewer, or what it kept is damaged.
    """
    count, path = conf.word2vec_embeddings.extra_words, DatasetPaths(conf.data_conf.dataset).word_extra
    if not count:
        return None
    if not holds(conf, EMBEDDING, path):
        raise UserError(
            f"{path}: no extra words that {EMBEDDING} recorded, but word2vec_embeddings.extra_words is {count}; run it "
            "(again) with that setting, or set it to 0"
        )
    return load_further_words(path, count, best.words, best.model.text_enc.embedding.embedding_dim)


def word_importance(conf: Conf, score: Score, words: int) -> np.ndarray | None:
    """What each of so many stored words, the vocabulary's and extra ones, weighs in a text; None: all the same.

    An extra word weighs as much as any word that none of the training split's captions has.
    """
    if score.idf is None:
        return None
    from utils.dataset.index import TEXT_COLUMNS, read_table  # with pandas, which training does without

    train = DatasetPaths(conf.data_conf.dataset).text(conf.data_conf.train_data)
    captions = [torch.empty(0, dtype=torch.int64)] * len(read_table(train, TEXT_COLUMNS, INDEXING))
    unseen = inverse_document_frequency(captions, 1 + words - len(score.idf))[1:]
    return np.concatenate([score.idf_values, unseen.numpy()])


def _score_split(trial: Path, name: str, split: Split, best: Trained, extra: WordEmbeddings | None) -> None:
    vectors, words = (torch.from_numpy(extra.vectors), extra.words) if extra else (None, [])
    scores = score_split(best.model, split, best.score, all_words=True, extra=vectors)
    words, made_by = [*best.words, *words], (best.epoch, str(best.score))
    caption_fids = [split.fids[clip] for clip in split.caption_clips]
    path = scores_path(trial, name)
    save_scores(path, StoredScores(scores.cross.cpu().numpy(), split.fids, split.tids, caption_fids, *made_by))
    print(f"{name}: {len(split.fids)} clips x {len(split.tids)} captions -> {path}")
    path = word_scores_path(trial, name)
    save_word_scores(path, WordScores(scores.by_word.cpu().numpy(), words, split.fids, *made_by))
    print(f"{name}: {len(split.fids)} clips x {len(words)} words -> {path}")


def measure_trial(trial: Path, conf: Conf) -> None:
    """Retrieval metrics of each split by its scores: print them as a table, and write them."""
    files = {split: scores_path(trial, split) for split in conf.data_conf.splits}
    check_trial(trial, conf, TRAINING, SCORING, reads=files.values())
    best = load_best(trial)
    metrics, chance, path = {}, {}, trial / RETRIEVAL_METRICS
    relevance = [Path(conf.data_conf.relevance)] if conf.data_conf.relevance else []
    with making_files(trial, MEASURING, [*files.values(), *relevance], [path], **measured_by(conf)):
        for split, file in files.items():
            stored = load_scores(file, best.epoch, str(best.score))
            captions, further = stored.caption_clips, further_pairs(conf, split, stored)
            metrics[split] = both_directions(stored.scores, captions, further)
            chance[split] = chance_both_directions(captions, len(stored.fids), further)
            if further is not None:
                right = right_pairs(captions, len(stored.fids), further).sum() / len(captions)
                print(f"{split}: {right:.2f} right clips a caption, by {conf.data_conf.relevance}")
        write_json(path, metrics)
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
                f"{split:12}  {direction.replace('_', '-'):13}{chance[split][direction]:7.3f}{numbers}"
                f"{values['MedR']:7.1f}  {values['queries']} ({values['tied_queries']})"
            )
