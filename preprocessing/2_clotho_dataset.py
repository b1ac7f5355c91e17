"""Step 2: index the data set. Reads {split}_clean_captions.csv and {split}/, writes {split}_text.csv, vocab_info.json
and audio_info.json; whatever is wrong with the data is listed in bad_data.csv."""

import sys
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import UserError, begin_command, run_command

if __name__ == "__main__":
    begin_command()

from models.audio_encoders import CRNNEncoder
from utils.common.io import write_csv, write_json
from utils.common.steps import CLEANING, INDEXING
from utils.conf.command import conf_from_command
from utils.dataset.dataset_warnings import mixed_rates, odd_levels, repeated_names, repeated_sounds, repeated_splits
from utils.dataset.index import (
    TEXT_COLUMNS,
    Problem,
    SplitIndex,
    clip_info,
    index_split,
    vocabulary_info,
)
from utils.dataset.paths import DatasetPaths
from utils.trial.dataset_provenance import check_steps, record_step_outputs

SHOWN = 20  # problems on the terminal; the file lists them all


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING)
    require_audio = conf.clotho_dataset.require_audio
    config = conf.audio_logmel.config
    splits = conf.data_conf.splits
    with record_step_outputs(conf, INDEXING):
        index = {split: index_split(paths, split, require_audio, CRNNEncoder.rate, config) for split in splits}
        report_problems(paths, index, refuse=conf.clotho_dataset.on_bad_data == "refuse")
        write_index(paths, index)
    clips = {split: found.clips for split, found in index.items()}
    roles = conf.data_conf.model_dump(include={"train_data", "val_data", "eval_data"})
    levels = {split: found.levels for split, found in index.items()}
    remarks = (repeated_splits(roles), repeated_names(clips), repeated_sounds(clips), odd_levels(clips, levels))
    for remark in chain(*remarks, mixed_rates(clips, config)):
        print(remark)


def report_problems(paths: DatasetPaths, index: dict[str, SplitIndex], refuse: bool) -> None:
    """List what is wrong in bad_data.csv, and stop there, or report how much is left out."""
    problems = [problem for found in index.values() for problem in found.problems]
    paths.bad_data.unlink(missing_ok=True)
    if problems:
        write_csv(paths.bad_data, list(Problem._fields), problems)
    if problems and refuse:
        more = f"and {len(problems) - SHOWN} more; " if len(problems) > SHOWN else ""
        advice = f"{more}all {len(problems)} are in {paths.bad_data}: mend them or set clotho_dataset.on_bad_data=skip"
        raise UserError("\n".join([*map(str, problems[:SHOWN]), advice]))
    if problems:
        print(f"left out: {counted(len(problems), 'problem')}, listed in {paths.bad_data}")
    for split, found in index.items():
        if found.captions.empty:
            raise UserError(f"{paths.raw_captions(split)}: no usable captions are left")


def write_index(paths: DatasetPaths, index: dict[str, SplitIndex]) -> None:
    for split, found in index.items():
        write_csv(paths.text(split), TEXT_COLUMNS, found.captions.itertuples(index=False))
    vocabulary = vocabulary_info({split: found.captions for split, found in index.items()})
    clips = clip_info({split: found.clips for split, found in index.items()})
    write_json(paths.vocab_info, vocabulary)
    write_json(paths.audio_info, clips)
    for split, sizes in vocabulary["splits"].items():
        minutes = clips[split]["seconds"] / 60
        print(
            f"{split}: {counted(sizes['clips'], 'clip')} ({minutes:.1f} min of audio), "
            f"{counted(sizes['captions'], 'caption')}, "
            f"{counted(sizes['words'], 'word')}, {sizes['distinct_words']} distinct -> {paths.text(split)}"
        )
    words = counted(len(vocabulary["vocabulary"]), "word")
    print(f"vocabulary: {words} -> {paths.vocab_info}; clips -> {paths.audio_info}")


if __name__ == "__main__":
    run_command(main)
