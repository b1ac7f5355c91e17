"""The commands, a row each. Messages and provenance.json name them by their script."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path


class Stage(StrEnum):
    """A script, the section of the configuration that decides its outputs, and the files that provenance.json records.

    Files are named from the data set's directory, those of the postprocessing from the trial's.
    """

    section: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __new__(cls, script, section=None, inputs=(), outputs=()):
        stage = str.__new__(cls, script)
        stage._value_ = script
        stage.section, stage.inputs, stage.outputs = section, inputs, outputs
        return stage

    DOWNLOAD = "preprocessing/0_download_clotho.py"
    SYNTHESIS = "preprocessing/0_demo_dataset.py", "demo_dataset"
    CLEANING = (
        "preprocessing/1_text_cleaning.py",
        "text_cleaning",
        ("clotho_captions_{split}.csv",),
        ("{split}_clean_captions.csv",),
    )
    INDEXING = (
        "preprocessing/2_clotho_dataset.py",
        "clotho_dataset",
        ("{split}_clean_captions.csv",),
        ("{split}_text.csv", "vocab_info.json", "audio_info.json"),
    )
    EMBEDDING = (
        "preprocessing/3_word2vec_embeddings.py",
        "word2vec_embeddings",
        ("vocab_info.json",),  # and what word2vec_embeddings.source reads
        ("word2vec_embeds.npz",),  # and word2vec_extra.npz, where extra words are asked for
    )
    SENTENCES = (
        "preprocessing/3_sentence_embeddings.py",
        "sentence_embeddings",
        ("{split}_text.csv",),  # and the sentence encoder
        ("sentence_embeds.npz",),
    )
    LOG_MELS = (
        "preprocessing/4_audio_logmel.py",
        "audio_logmel",
        ("audio_info.json",),
        ("{split}_audio_logmels.hdf5",),
    )
    FEATURES = (
        "preprocessing/5_audio_features.py",
        "audio_features",
        ("audio_info.json",),  # and the network's weights
        ("{split}_audio_features.hdf5",),
    )
    TRAINING = "main.py"
    SCORING = (
        "postprocessing/1_xmodal_scores.py",
        None,
        ("checkpoint_best.pt",),
        ("{split}_xmodal_scores.hdf5", "{split}_word_scores.hdf5"),
    )
    MEASURING = (
        "postprocessing/2_xmodal_retrieval.py",
        None,
        ("{split}_word_scores.hdf5",),  # and data_conf.relevance
        ("retrieval_metrics.json",),
    )
    EXPORTING = "postprocessing/6_export.py"


(
    DOWNLOAD, SYNTHESIS, CLEANING, INDEXING, EMBEDDING, SENTENCES, LOG_MELS, FEATURES, TRAINING, SCORING, MEASURING,
    EXPORTING,
) = Stage  # fmt: skip
SWEEPING = f"{TRAINING} --sweep"


def stage_files(root: Path | str, names: Iterable[str], splits: Iterable[str]) -> list[Path]:
    """A stage's inputs or outputs in a directory, for these splits."""
    files = (name.format(split=split) for name in names for split in splits)
    return [Path(root) / file for file in dict.fromkeys(files)]
