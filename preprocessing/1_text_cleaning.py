"""Step 1: clean the captions. Reads clotho_captions_{split}.csv, writes {split}_clean_captions.csv."""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_from_command

if __name__ == "__main__":
    begin_command(lambda: conf_from_command(__doc__))

from utils.common.io import write_csv
from utils.common.steps import CLEANING
from utils.conf.schema import Conf
from utils.dataset.captions import clean_caption, correct_words, hyphenated_words, read_captions
from utils.dataset.index import CLEAN_COLUMNS
from utils.dataset.paths import DatasetPaths
from utils.trial.dataset_provenance import record_step_outputs


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    paths.require()
    with record_step_outputs(conf, CLEANING):
        for split in conf.data_conf.splits:
            clean_split(conf, paths, split)


def clean_split(conf: Conf, paths: DatasetPaths, split: str) -> None:
    captions = read_captions(paths.raw_captions(split))
    texts = [correct_words(clean_caption(c.raw_text), conf.text_cleaning.corrections) for c in captions]
    if conf.text_cleaning.named_entities == "replace":
        from utils.dataset.named_entities import replace_named_entities  # imports NLTK, which takes a second

        texts = replace_named_entities(texts)
    rows = [(*caption, text) for caption, text in zip(captions, texts, strict=True)]
    write_csv(paths.clean_captions(split), CLEAN_COLUMNS, rows)

    hyphenated = Counter(word for text in texts for word in hyphenated_words(text))
    examples = ", ".join(f"{word} ({count})" for word, count in hyphenated.most_common(5))
    empty = [caption for caption in captions if not caption.raw_text.strip()]
    print(f"{split}: {counted(len(captions) - len(empty), 'caption')} -> {paths.clean_captions(split)}")
    if cells := sum(bool(caption.file_name.strip()) for caption in empty):  # step 2 reports rows without a name
        print(f"  {counted(cells, 'empty cell')} left out")
    print(f"  {len(hyphenated)} distinct hyphenated words kept{': ' + examples if examples else ''}")


if __name__ == "__main__":
    run_command(main)
