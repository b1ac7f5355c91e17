"""The preprocessing steps' provenance: what each wrote by which settings, and whether a data set still is that.

A data set's sounds are told by audio_info.json, all its other files by provenance.json.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.common.digests import digest_of, digests
from utils.common.errors import UserError
from utils.common.steps import CLEANING, EMBEDDING, INDEXING, LOG_MELS
from utils.conf.schema import Conf, result_settings
from utils.dataset.index import read_clips
from utils.dataset.paths import DatasetPaths
from utils.trial.provenance import PROVENANCE, Entry, check_entry, check_files, read_provenance, record_outputs

# The section whose settings decide what a step writes
SECTIONS = {
    CLEANING: "text_cleaning",
    INDEXING: "clotho_dataset",
    EMBEDDING: "word2vec_embeddings",
    LOG_MELS: "audio_logmel",
}
WORD_VECTORS = "word vectors"  # in `sources`


def step_outputs(conf: Conf, step: str) -> list[Path]:
    """The files that a preprocessing step writes for the splits in use."""
    paths, splits = DatasetPaths(conf.data_conf.dataset), conf.data_conf.splits
    outputs = {
        CLEANING: [*map(paths.clean_captions, splits)],
        INDEXING: [*map(paths.text, splits), paths.vocab_info, paths.audio_info],
        EMBEDDING: [paths.word_embeds],
        LOG_MELS: [*map(paths.log_mels, splits)],
    }
    return outputs[step]


def step_settings(conf: Conf, step: str) -> dict[str, Any]:
    """The settings that decide what a preprocessing step writes, by dotted key."""
    return {key: value for key, value in result_settings(conf).items() if key.startswith(f"{SECTIONS[step]}.")}


@contextmanager
def record_step_outputs(conf: Conf, step: str, inputs: Iterable[Path]) -> Iterator[None]:
    """`record_outputs` of a preprocessing step, in the data set's directory."""
    root, outputs = conf.data_conf.dataset, step_outputs(conf, step)
    if step == EMBEDDING:
        outputs.append(DatasetPaths(root).word_extra)  # recorded where there are extra words
    with record_outputs(root, step, inputs, outputs, step_settings(conf, step)):
        yield
    if step == INDEXING:
        digests(root, sounds(conf))  # which were read just now: kept for the commands to come


def check_steps(conf: Conf, *steps: str) -> None:
    """Raise UserError unless a data set is what these steps make today of its captions, sounds and word vectors."""
    DatasetPaths(conf.data_conf.dataset).require()
    root = Path(conf.data_conf.dataset)
    made = read_provenance(root)
    for step in steps:
        if step not in made:
            raise UserError(f"{root / PROVENANCE}: no record of {step}; run it (again)")
        _check_settings(root, step, made[step].settings, step_settings(conf, step))
        for path in step_outputs(conf, step):
            if path.relative_to(root).as_posix() not in made[step].outputs:
                raise UserError(f"{path}: not recorded as made by {step} with these settings; run that again")
        check_entry(root, step, made[step])
        if step == INDEXING:
            check_files(root, sounds(conf), f"has changed since {step} read it; run that again")


def sounds(conf: Conf) -> dict[str, str]:
    """The sounds of the splits in use as they were indexed: {file: SHA-256}, files as named from the data set."""
    paths, splits = DatasetPaths(conf.data_conf.dataset), conf.data_conf.splits
    return {f"{split}/{clip.file_name}": clip.sha256 for split in splits for clip in read_clips(paths, split).values()}


def sources(conf: Conf) -> dict[str, str]:
    """What a data set was made from, whatever the settings: {"captions of SPLIT", "sounds of SPLIT", "word vectors"}.

    Each is one SHA-256; word vectors are there where they came from a file.
    """
    paths, made = DatasetPaths(conf.data_conf.dataset), read_provenance(conf.data_conf.dataset)
    captions, embedded = (made.get(step, Entry()) for step in (CLEANING, EMBEDDING))
    found = {}
    if embedded.settings.get("word2vec_embeddings.source") == "file":  # which may lie within the data set, too
        others = (digest for file, digest in embedded.inputs.items() if file != paths.vocab_info.name)
        found[WORD_VECTORS] = next(others, None)
    clips = sorted(sounds(conf).items())
    for split in conf.data_conf.splits:
        found[f"captions of {split}"] = captions.inputs.get(paths.raw_captions(split).name)
        found[f"sounds of {split}"] = digest_of([clip for clip in clips if clip[0].startswith(f"{split}/")])
    return {name: digest for name, digest in found.items() if digest}


def _check_settings(root: Path, step: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in _differing(before, now):
        raise UserError(
            f"{root}: made with {key} {before.get(key)}, but it is now {now.get(key)}; set it back, or run {step} and "
            "what follows it again"
        )


def _differing(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """The settings that differ; one that an earlier version did not have counts as null."""
    return (key for key in [*now, *before] if before.get(key) != now.get(key))


def holds(conf: Conf, step: str, path: Path) -> bool:
    """Whether a file of the data set is as this step recorded it, made by today's settings."""
    root = conf.data_conf.dataset
    made, name = read_provenance(root).get(step), path.relative_to(root).as_posix()
    if made is None or next(_differing(made.settings, step_settings(conf, step)), None):
        return False
    return name in made.outputs and digests(root, [name]).get(name) == made.outputs[name]
