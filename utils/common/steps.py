"""The commands, a row each. Messages and provenance.json name them by their script."""

from collections.abc import Iterable, Sequence
from pathlib import Path


class Stage(str):
    """A script, the section of the configuration that decides its outputs, and the files that provenance.json records.

    Files are named from the data set's directory, those of the postprocessing from the trial's.
    """

    def __new__(cls, script: str, section: str | None = None, inputs: Sequence[str] = (), outputs: Sequence[str] = ()):
        stage = super().__new__(cls, script)
        stage.section, stage.inputs, stage.outputs = section, inputs, outputs
        return stage


DOWNLOAD = Stage("preprocessing/0_download_clotho.py")
SYNTHESIS = Stage("preprocessing/0_demo_dataset.py", "demo_dataset")
CLEANING = Stage(
    "preprocessing/1_text_cleaning.py",
    "text_cleaning",
    inputs=["clotho_captions_{split}.csv"],
    outputs=["{split}_clean_captions.csv"],
)
INDEXING = Stage(
    "preprocessing/2_clotho_dataset.py",
    "clotho_dataset",
    inputs=["{split}_clean_captions.csv"],
    outputs=["{split}_text.csv", "vocab_info.json", "audio_info.json"],
)
EMBEDDING = Stage(
    "preprocessing/3_word2vec_embeddings.py",
    "word2vec_embeddings",
    inputs=["vocab_info.json"],  # and what word2vec_embeddings.source reads
    outputs=["word2vec_embeds.npz"],  # and word2vec_extra.npz, where extra words are asked for
)
SENTENCES = Stage(
    "preprocessing/3_sentence_embeddings.py",
    "sentence_embeddings",
    inputs=["{split}_text.csv"],  # and the sentence encoder
    outputs=["sentence_embeds.npz"],
)
LOG_MELS = Stage(
    "preprocessing/4_audio_logmel.py",
    "audio_logmel",
    inputs=["audio_info.json"],
    outputs=["{split}_audio_logmels.hdf5"],
)
FEATURES = Stage(
    "preprocessing/5_audio_features.py",
    "audio_features",
    inputs=["audio_info.json"],  # and the network's weights
    outputs=["{split}_audio_features.hdf5"],
)
TRAINING = Stage("main.py")
SCORING = Stage(
    "postprocessing/1_xmodal_scores.py",
    inputs=["checkpoint_best.pt"],
    outputs=["{split}_xmodal_scores.hdf5", "{split}_word_scores.hdf5"],
)
MEASURING = Stage(
    "postprocessing/2_xmodal_retrieval.py",
    inputs=["{split}_word_scores.hdf5"],  # and data_conf.relevance
    outputs=["retrieval_metrics.json"],
)
EXPORTING = Stage("postprocessing/6_export.py")
SWEEPING = f"{TRAINING} --sweep"


def stage_files(root: Path | str, names: Iterable[str], splits: Iterable[str]) -> list[Path]:
    """A stage's inputs or outputs in a directory, for these splits."""
    files = (name.format(split=split) for name in names for split in splits)
    return [Path(root) / file for file in dict.fromkeys(files)]
