"""A data set's provenance: the settings, inputs and outputs of its preprocessing, and the check of them.

audio_info.json has the digests of the sounds, provenance.json those of all other files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.audio_input import audio_input
from utils.common.digests import digest_of, digests
from utils.common.errors import UserError
from utils.common.steps import CLEANING, EMBEDDING, FEATURES, INDEXING, Stage, stage_files
from utils.conf.schema import Conf, result_settings
from utils.dataset.index import read_clips
from utils.dataset.paths import DatasetPaths
from utils.text_input import of_sentences, text_stage
from utils.trial.provenance import PROVENANCE, Entry, check_entry, check_files, read_provenance, record_outputs

WORD_VECTORS, OWN_FEATURES = "word vectors", "features"  # in `sources`


def preprocessing(conf: Conf) -> tuple[Stage, ...]:
    """The steps that make what a configuration's training reads."""
    return (CLEANING, INDEXING, text_stage(conf), audio_input(conf).stage)


def step_outputs(conf: Conf, step: Stage) -> list[Path]:
    """The files that a preprocessing step writes for the splits in use."""
    return stage_files(conf.data_conf.dataset, step.outputs, conf.data_conf.splits)


def step_settings(conf: Conf, step: Stage) -> dict[str, Any]:
    """The settings that decide what a preprocessing step writes, by dotted key, whether training reads that or not."""
    return result_settings(conf, {step.section}, alone=True)


@contextmanager
def record_step_outputs(conf: Conf, step: Stage, *more_inputs: Path) -> Iterator[None]:
    """`record_outputs` of a preprocessing step, in the data set's directory."""
    root, outputs = conf.data_conf.dataset, step_outputs(conf, step)
    inputs = stage_files(root, step.inputs, conf.data_conf.splits)
    if step == EMBEDDING:
        outputs.append(DatasetPaths(root).word_extra)  # recorded where there are extra words
    with record_outputs(root, step, [*inputs, *more_inputs], outputs, step_settings(conf, step)):
        yield
    if step == INDEXING:
        digests(root, sounds(conf))  # indexing has just digested them: keep that for later commands


def check_steps(conf: Conf, *steps: Stage) -> None:
    """Raise UserError unless these steps would make the same data set today, of its captions, sounds and vectors."""
    DatasetPaths(conf.data_conf.dataset).require()
    root = Path(conf.data_conf.dataset)
    entries = read_provenance(root)
    for step in steps:
        if step not in entries:
            raise UserError(f"{root / PROVENANCE}: no record of {step}; run it (again)")
        before, now = entries[step].settings, step_settings(conf, step)
        if key := _difference(before, now):
            raise UserError(
                f"{root}: made with {key} {before.get(key)}, but it is now {now.get(key)}; set it so, or run {step} "
                "and what follows it again"
            )
        for path in step_outputs(conf, step):
            if path.relative_to(root).as_posix() not in entries[step].outputs:
                raise UserError(f"{path}: not recorded as made by {step} with these settings; run that again")
        check_entry(root, step, entries[step])
        if step == INDEXING:
            check_files(root, sounds(conf), f"has changed since {step} read it; run that again")


def holds(conf: Conf, step: Stage, path: Path) -> bool:
    """Whether a file of the data set is as this step recorded it, made by today's settings."""
    root = conf.data_conf.dataset
    entry, name = read_provenance(root).get(step), path.relative_to(root).as_posix()
    if entry is None or name not in entry.outputs or _difference(entry.settings, step_settings(conf, step)):
        return False
    return digests(root, [name]) == {name: entry.outputs[name]}


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting that differs; one that an earlier version did not have counts as null."""
    return next((key for key in [*now, *before] if before.get(key) != now.get(key)), None)


def sounds(conf: Conf) -> dict[str, str]:
    """{file: SHA-256} of the sounds of the splits in use when they were indexed, files named from the data set."""
    paths, splits = DatasetPaths(conf.data_conf.dataset), conf.data_conf.splits
    return {f"{split}/{clip.file_name}": clip.sha256 for split in splits for clip in read_clips(paths, split).values()}


def sources(conf: Conf) -> dict[str, str]:
    """SHA-256 of what a data set was made from, by "captions of SPLIT", "sounds of SPLIT", "word vectors", "features".

    Settings have no part in them. "word vectors" are those of a file, or of sentences their encoder. "features", where
    training reads them, are the user's own of the training split, or else the network's files.
    """
    paths, entries = DatasetPaths(conf.data_conf.dataset), read_provenance(conf.data_conf.dataset)
    captions, embedded, features = (entries.get(step, Entry()) for step in (CLEANING, text_stage(conf), FEATURES))
    found, of_dataset = {}, {paths.vocab_info.name, *(paths.text(split).name for split in conf.data_conf.splits)}
    others = [digest for file, digest in embedded.inputs.items() if file not in of_dataset]
    if of_sentences(conf):
        found[WORD_VECTORS] = digest_of(sorted(others))
    elif embedded.settings.get("word2vec_embeddings.source") == "file":  # which may be within the data set
        found[WORD_VECTORS] = next(iter(others), None)
    if conf.data_conf.audio == "features":
        files = [digest for file, digest in features.inputs.items() if file != paths.audio_info.name]
        network = digest_of(sorted(files)) if len(files) > 1 else next(iter(files), None)
        own = features.outputs.get(paths.audio_features(conf.data_conf.train_data).name)
        found[OWN_FEATURES] = own if features.settings.get("audio_features.model") == "own" else network
    clips = sorted(sounds(conf).items())
    for split in conf.data_conf.splits:
        found[f"captions of {split}"] = captions.inputs.get(paths.raw_captions(split).name)
        found[f"sounds of {split}"] = digest_of([clip for clip in clips if clip[0].startswith(f"{split}/")])
    return {name: digest for name, digest in found.items() if digest}
