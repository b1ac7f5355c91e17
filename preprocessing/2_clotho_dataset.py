"""Step 2: index the data set. Reads {split}_clean_captions.csv and {split}/, writes {split}_text.csv, vocab_info.json
and audio_info.json, and lists bad data in bad_data.csv."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import UserError, begin_command, run_command
from utils.conf.command import conf_from_command

if __name__ == "__main__":
    begin_command(lambda: conf_from_command(__doc__))

from utils.audio_input import encoder_class
from utils.common.io import write_csv, write_json
from utils.common.steps import CLEANING, INDEXING
from utils.dataset import dataset_warnings
from utils.dataset.index import TEXT_COLUMNS, Problem, SplitIndex, clip_info, index_split, vocabulary_info
from utils.dataset.paths import DatasetPaths
from utils.trial.dataset_provenance import check_steps, record_step_outputs

SHOWN = 20  # problems printed; bad_data.csv lists all


def main() -> None:
    conf = conf_from_command(__doc__)
    paths, config = DatasetPaths(conf.data_conf.dataset), conf.audio_logmel.config
    required = config if conf.clotho_dataset.require_audio else None
    min_frames = encoder_class(conf).rate
    check_steps(conf, CLEANING)
    with record_step_outputs(conf, INDEXING):
        index = {split: index_split(paths, split, required, min_frames) for split in conf.data_conf.splits}
        report_problems(paths, index, refuse=conf.clotho_dataset.on_bad_data == "refuse")
        write_index(paths, index)
    roles = conf.data_conf.model_dump(include={"train_data", "val_data", "eval_data"})
    clips = dataset_warnings.clip_table({split: indexed.probes for split, indexed in index.items()})
    for warning in (
        *dataset_warnings.repeated_splits(roles),
        *dataset_warnings.repeated_names(clips),
        *dataset_warnings.repeated_sounds(clips),
        *dataset_warnings.repeated_captions({split: indexed.captions for split, indexed in index.items()}),
        *dataset_warnings.odd_levels(clips),
        *dataset_warnings.mixed_rates(clips, config),
    ):
        print(warning)


def report_problems(paths: DatasetPaths, index: dict[str, SplitIndex], refuse: bool) -> None:
    """List the problems in bad_data.csv, and either refuse the data or say how many are left out."""
    problems = [problem for indexed in index.values() for problem in indexed.problems]
    paths.bad_data.unlink(missing_ok=True)
    if problems:
        write_csv(paths.bad_data, list(Problem._fields), problems)
        if refuse:
            more = f"and {len(problems) - SHOWN} more; " if len(problems) > SHOWN else ""
            where = f"all {len(problems)} are in {paths.bad_data}"
            advice = f"{more}{where}: correct them or set clotho_dataset.on_bad_data=skip"
            raise UserError("\n".join([*map(str, problems[:SHOWN]), advice]))
        print(f"left out: {counted(len(problems), 'problem')}, listed in {paths.bad_data}")
    for split, indexed in index.items():
        if indexed.captions.empty:
            raise UserError(f"{paths.raw_captions(split)}: no usable captions are left")


def write_index(paths: DatasetPaths, index: dict[str, SplitIndex]) -> None:
    for split, indexed in index.items():
        write_csv(paths.text(split), TEXT_COLUMNS, indexed.captions.itertuples(index=False))
    vocabulary = vocabulary_info({split: indexed.captions for split, indexed in index.items()})
    clips = clip_info({split: indexed.clips for split, indexed in index.items()})
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
