"""Write a trial's best model as one file that needs neither the trial nor its data set, and a card beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.common.counts import counted
from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.folders import own_file, require_own_file
from utils.common.steps import INDEXING, MEASURING, SCORING, TRAINING
from utils.conf.schema import Conf
from utils.dataset.index import TEXT_COLUMNS, read_table
from utils.export.card import card_of
from utils.report.bootstrap import estimates
from utils.report.rankings import split_queries
from utils.search.model_file import FORMAT, Content, digest, tensors_of, write_model
from utils.search.scorer import TrialScorer
from utils.trial.checks import caveat_of, check_trial
from utils.trial.dataset_provenance import sources
from utils.trial.identity import training_of
from utils.trial.names import BEST
from utils.trial.provenance import read_provenance, versions
from utils.trial.relevance import as_measured
from utils.trial.retrieval import extra_words, stored_word_weights
from utils.trial.score_files import load_scores, word_scores_path
from utils.trial.trial import Trial

SUFFIX = ".safetensors"
MODEL, CARD = "model", "model card"  # the kinds of the output files
EMBEDDING = "model.text_enc.embedding.weight"


def export_model(trial: Trial, path: Path) -> None:
    """Write a trial's best model, with word2vec_embeddings.extra_words extra words, and its card; print what.

    Raises UserError where the model cannot be used elsewhere, or an output is not an earlier run's.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: not the name of a {SUFFIX} file; add that ending")
    card = path.with_suffix(".md")
    require_own_file(path, MODEL)
    require_own_file(card, CARD)
    scorer, training = TrialScorer(trial), training_of(trial.path)
    words, tensors = _vocabulary(scorer)
    content = Content(
        format=FORMAT,
        sha256=digest(tensors),
        conf=_without_places(trial.conf),
        words=words,
        extra_words=trial.conf.word2vec_embeddings.extra_words,
        epoch=scorer.epoch,
        sample_rate=scorer.heard.sample_rate,
        weights_sha256=scorer.heard.weights_sha256,
        metrics=_metrics(trial),
        caveat=(caveat := caveat_of(trial)) and caveat.line.removeprefix(f"{trial}: "),
        digests={"checkpoint": file_digest(trial.path / BEST)} | training.data | sources(trial.conf),
        versions=versions() | {"commit of the training": (training.runs or [{}])[-1].get("commit")},
    )
    with own_file(path, MODEL) as model_file:
        write_model(model_file, tensors, content)
        text = card_of(path, file_digest(model_file), scorer, content, _sizes(trial))
        with own_file(card, CARD) as card_file:
            card_file.write_text(text, encoding="utf-8")
    known = "sentences" if scorer.of_sentences else counted(len(words) - 1, "word")
    print(f"epoch {scorer.epoch}, {known}, {path.stat().st_size / 1e6:.1f} MB -> {path}")
    print(f"-> {card}")


def _vocabulary(scorer: TrialScorer) -> tuple[list[str], dict[str, Tensor]]:
    """The words to export, and all tensors: with extra words, or of sentences with one, to know their encoder by."""
    conf, words, tensors = scorer.conf, scorer.words, tensors_of(scorer.trial.best)
    if scorer.of_sentences:
        return words[:2], tensors | {EMBEDDING: tensors[EMBEDDING][:2].clone()}
    if extra := extra_words(conf, scorer.trial.best):
        words = [*words, *extra.words]
        tensors[EMBEDDING] = torch.cat([tensors[EMBEDDING], torch.from_numpy(extra.vectors)])
        weights = stored_word_weights(conf, scorer.score, len(words))
        if weights is not None:
            tensors["score.idf"] = torch.from_numpy(np.ascontiguousarray(weights))
    return words, tensors


def _without_places(conf: Conf) -> dict[str, Any]:
    """A configuration without the files and folders of this machine that no model needs."""
    tree = conf.model_dump()
    tree["param_conf"]["start_from"] = tree["data_conf"]["relevance"] = None
    if vectors := tree["word2vec_embeddings"]["file"]:
        tree["word2vec_embeddings"]["file"] = Path(vectors).name
    tree["data_conf"]["dataset"] = Path(tree["data_conf"]["dataset"]).name or "data"
    tree["trial_base"] = Path(tree["trial_base"]).name or "output"
    return tree


def _sizes(trial: Trial) -> dict[str, tuple[int, int]]:
    """The numbers of clips and captions of each split."""
    tables = {
        split: read_table(trial.dataset.text(split), TEXT_COLUMNS, INDEXING) for split in trial.conf.data_conf.splits
    }
    return {split: (table["fid"].nunique(), len(table)) for split, table in tables.items()}


def _metrics(trial: Trial) -> dict[str, Any] | None:
    """The evaluation split's metrics with their intervals, [value, low, high]; None where it was not measured."""
    split, made = trial.conf.data_conf.eval_data, read_provenance(trial.path)
    file = word_scores_path(trial.path, split)
    if MEASURING not in made or file.name not in made[MEASURING].inputs:
        return None
    check_trial(trial, TRAINING, SCORING, MEASURING, reads=[file])
    trial = as_measured(trial)
    queries = split_queries(trial.conf, split, load_scores(file, trial.best.epoch, str(trial.best.score)))
    metrics: dict[str, Any] = {"split": split}
    for side in queries.values:
        metrics[side] = {name: list(map(float, estimate)) for name, estimate in estimates(queries, side).items()}
    return metrics
