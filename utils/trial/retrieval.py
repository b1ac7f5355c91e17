"""Score a trial's splits, and measure retrieval."""

from pathlib import Path

import numpy as np
import torch

from utils.audio_input import audio_input
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.io import write_json
from utils.common.processes import pick_device
from utils.common.steps import EMBEDDING, INDEXING, MEASURING, SCORING, TRAINING, stage_files
from utils.conf.schema import Conf
from utils.data_utils import Split, load_split
from utils.dataset.index import TEXT_COLUMNS, read_table
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import WordEmbeddings, load_further_words
from utils.evaluation_utils import encode_words, score_words
from utils.metric_utils import averages, chance_both_directions, relevant_pairs
from utils.model_utils import prepare_model
from utils.retrieval_utils import per_query_both_directions, slices
from utils.score_utils import Score, inverse_document_frequency
from utils.text_input import of_sentences
from utils.trial.checkpoint import Trained
from utils.trial.checks import check_trial
from utils.trial.dataset_provenance import holds, sources
from utils.trial.identity import data_digests
from utils.trial.names import RETRIEVAL_METRICS
from utils.trial.provenance import record_outputs
from utils.trial.relevance import extra_relevant_pairs, measured_by
from utils.trial.score_files import Captions, load_scores, new_word_scores, save_scores, scores_path, word_scores_path
from utils.trial.trial import Trial

CLIPS_AT_ONCE = 4096  # scored with all words at a time
LARGEST_MATRIX = 2e9  # bytes of clips x captions that xmodal_scores=auto writes
SHOWN = ("mAP", "mAP10", "mAP16", "R1", "R5", "R10", "HR1", "HR5", "HR10")


def score_trial(trial: Trial) -> None:
    """Score each split's clips with words and captions by the trial's best model; write and print."""
    conf, paths, splits = trial.conf, trial.dataset, trial.conf.data_conf.splits
    check_trial(trial, TRAINING)
    best = trial.best
    extra, audio = extra_words(conf, best), audio_input(conf)
    device = pick_device()
    prepare_model(conf, best.model, device)
    best.score.to(device)
    inputs, outputs = (stage_files(trial.path, names, splits) for names in (SCORING.inputs, SCORING.outputs))
    data = data_digests(conf, splits, *([paths.word_extra] if extra else []))
    with record_outputs(trial.path, SCORING, inputs, outputs, data=data, sources=sources(conf)):
        for name in splits:
            split = load_split(paths, name, best.words, audio, conf.data_conf.cache)
            audio = audio.of_width(split.width, f"the clips of {name} have")  # the first split is that of training
            scores_path(trial.path, name).unlink(missing_ok=True)  # an earlier one: nothing tells it from the new
            path = word_scores_path(trial.path, name)
            words = write_word_scores(path, split, best, extra, of_sentences(conf))
            unit = "distinct caption" if of_sentences(conf) else "word"
            print(f"{name}: {counted(len(split.fids), 'clip')} x {counted(words, unit)} -> {path}")
            _write_matrix(trial, name, split)


def extra_words(conf: Conf, best: Trained) -> WordEmbeddings | None:
    """The extra words that the configuration asks for, with their vectors (X, E).

    Raises UserError where step 3 wrote fewer, or its file is damaged.
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


def stored_word_weights(conf: Conf, score: Score, words: int) -> np.ndarray | None:
    """The weights (V,) of the stored words, the vocabulary's and the extra ones, in a text; None where all are equal.

    An extra word weighs as much as a word that no training caption has.
    """
    if score.idf is None:
        return None
    train = DatasetPaths(conf.data_conf.dataset).text(conf.data_conf.train_data)
    captions = [torch.empty(0, dtype=torch.int64)] * len(read_table(train, TEXT_COLUMNS, INDEXING))
    unseen = inverse_document_frequency(captions, 1 + words - len(score.idf))[1:]
    return np.concatenate([score.idf_values, unseen.numpy()])


def write_word_scores(
    path: Path, split: Split, best: Trained, extra: WordEmbeddings | None = None, sentences: bool = False
) -> int:
    """Write a split's word scores, some clips at a time. Returns the number of words, extra ones too.

    Of sentences, those that are captions of the split are scored; of words, the vocabulary.
    """
    model, score = best.model, best.score
    ids = [caption.numpy() for caption in split.captions]
    rows = np.unique(np.concatenate(ids)) if sentences else np.arange(len(best.words))
    tables = [score.word_embeds(encode_words(model, rows))]
    if extra:
        with torch.no_grad():
            vectors = model.text_projection(torch.from_numpy(extra.vectors).to(model.device))
        tables.append(score.word_embeds(vectors))
    words = [*(best.words[row] for row in rows), *(extra.words if extra else [])]
    weights = score.caption_weights(ids, tables[0], None if sentences else len(best.words))
    captions = Captions(split.tids, [split.fids[clip] for clip in split.caption_clips], weights)
    with new_word_scores(path, words, split.fids, captions, best.epoch, str(score)) as write:
        for clips in slices(len(split.fids), CLIPS_AT_ONCE):
            by_word, _ = score_words(model, split, tables, score, part=clips)
            if not by_word.isfinite().all():
                raise UserError(f"{path}: its scores would be NaN: the model is broken; look at the trial's train.log")
            write(clips, by_word.cpu().numpy())
    return len(words)


def _write_matrix(trial: Trial, name: str, split: Split) -> None:
    """Write a split's scores of clips with captions, from the word scores, unless xmodal_scores says otherwise."""
    conf, best = trial.conf, trial.best
    clips, captions = len(split.fids), len(split.tids)
    size = 4 * captions * clips  # bytes
    if conf.xmodal_scores == "always" or (conf.xmodal_scores == "auto" and size <= LARGEST_MATRIX):
        path = scores_path(trial.path, name)
        save_scores(path, load_scores(word_scores_path(trial.path, name), best.epoch, str(best.score)))
        print(f"{name}: {counted(clips, 'clip')} x {counted(captions, 'caption')} -> {path}")
        return
    why = "xmodal_scores is never" if conf.xmodal_scores == "never" else f"over {LARGEST_MATRIX / 1e9:g} GB"
    scores = f"{counted(clips, 'clip')} x {counted(captions, 'caption')}, {size / 1e9:.3g} GB"
    print(f"{name}: {scores}, are not written ({why}); no command needs them, xmodal_scores=always writes them")


def measure_trial(trial: Trial) -> None:
    """Compute the retrieval metrics of each split from its scores; print and write them."""
    conf = trial.conf
    files = {split: word_scores_path(trial.path, split) for split in conf.data_conf.splits}
    check_trial(trial, TRAINING, SCORING, reads=files.values())
    best, device = trial.best, pick_device()
    metrics, chance, path = {}, {}, trial.path / RETRIEVAL_METRICS
    relevance = [Path(conf.data_conf.relevance)] if conf.data_conf.relevance else []
    with record_outputs(trial.path, MEASURING, [*files.values(), *relevance], [path], **measured_by(conf)):
        for split, file in files.items():
            stored = load_scores(file, best.epoch, str(best.score))
            extra_relevant = extra_relevant_pairs(conf, split, stored)
            pairs = relevant_pairs(stored.caption_clips, extra_relevant)
            values = per_query_both_directions(stored.scores.to(device), pairs)
            metrics[split] = {direction: averages(queries) for direction, queries in values.items()}
            chance[split] = chance_both_directions(pairs, len(stored.fids), len(stored.tids))
            if extra_relevant is not None:
                right = len(pairs) / len(stored.tids)
                print(f"{split}: {right:.2f} right clips a caption, by {conf.data_conf.relevance}")
        write_json(path, metrics)
    print_table(metrics, chance)
    print(f"-> {path}")


def print_table(metrics: dict, chance: dict) -> None:
    """Print a line for each split and direction; "chance" is the mAP of random scores."""
    header = "".join(f"{name:>7}" for name in SHOWN)
    print(f"{'split':12}  {'direction':13}{'chance':>7}{header}   MedR  queries (tied)")
    for split, directions in metrics.items():
        for direction, values in directions.items():
            numbers = "".join(f"{values[name]:7.3f}" for name in SHOWN)
            print(
                f"{split:12}  {direction.replace('_', '-'):13}{chance[split][direction]:7.3f}{numbers}"
                f"{values['MedR']:7.1f}  {values['queries']} ({values['tied_queries']})"
            )
