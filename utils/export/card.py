"""The card of an exported model: what it is, of which data, how good, and how to use it; Markdown."""

from collections.abc import Iterable
from pathlib import Path

from utils.common.counts import counted
from utils.report.numbers import METRICS, shown
from utils.report.page import DIRECTIONS
from utils.score_utils import ClipScore
from utils.search.model_file import Content
from utils.search.scorer import Scorer
from utils.search.sounds import Features

LICENCE = "Fill in: under which licence this model may be used. The licences of its data and word vectors matter too."


def card_of(path: Path, sha256: str, scorer: Scorer, content: Content, sizes: dict[str, tuple[int, int]]) -> str:
    """The text of a card.

    Args:
        path, sha256: of the model's file.
        sizes: the numbers of clips and captions of each split.
    """
    conf, name = scorer.conf, path.name
    level = "mean vectors" if isinstance(scorer.score, ClipScore) else "frames with words"
    texts = f"whole sentences, by {Path(conf.sentence_embeddings.model).name}" if scorer.of_sentences else "words"
    blocks = [
        f"# {path.stem}",
        f"A model for audio-text retrieval: it scores how well a sound and a text fit. It compares {level}, and reads "
        f"texts as {texts}. SHA-256 of {name}: `{sha256}`.",
        *([f"**Caveat:** {content.caveat}."] if content.caveat else []),
        "## Licence",
        LICENCE,
        "## Use",
        "In the repository's root, without the data set that the model was trained on:",
        _code("", f'python postprocessing/4_search.py --model {name} --clips DIR "a dog barks in the rain"'),
        _code(
            "python",
            "from utils.search.retrieval_model import RetrievalModel",
            f'model = RetrievalModel.load("{name}")',
            'scores = model.score(["rain.wav", "dog.wav"], ["a dog barks"])  # (sounds, texts)',
        ),
        "## Data",
        _table(["split", "clips", "captions"], ([split, *map(str, counts)] for split, counts in sizes.items())),
        f"Trained on {conf.data_conf.train_data}, selected on {conf.data_conf.val_data}. SHA-256:",
        _table(["file or source", "SHA-256"], ([key, f"`{value}`"] for key, value in content.digests.items())),
        "## Settings",
        _table(["setting", "value"], _settings(scorer, content).items()),
        "The file holds the whole configuration.",
        "## Metrics",
        *_metrics(content),
        "## Versions",
        _table(["package", "version"], ([key, str(value)] for key, value in content.versions.items())),
    ]
    return "\n\n".join(blocks) + "\n"


def _settings(scorer: Scorer, content: Content) -> dict[str, str]:
    conf, sounds = scorer.conf, scorer.sounds
    if isinstance(sounds, Features):
        read = {"features": sounds.model.name, "SHA-256 of their weights": f"`{content.weights_sha256}`"}
    else:
        config = sounds.config
        read = {
            "log-mels": f"{config.n_mels} bands, windows of {config.window:g} s every {config.hop:g} s",
            "sounds are resampled to": f"{config.sample_rate} Hz",
        }
    extra = f", {content.extra_words} of them in no caption" if content.extra_words else ""
    words = {} if scorer.of_sentences else {"vocabulary": counted(len(content.words) - 1, "word") + extra}
    trained = {"trained with": conf.objective, "seed": str(conf.param_conf.seed), "epoch": str(scorer.epoch)}
    return read | {"highest frequency": f"{sounds.fmax:g} Hz", "score": str(scorer.score)} | words | trained


def _metrics(content: Content) -> Iterable[str]:
    if content.metrics is None:
        yield "Not measured."
        return
    yield f"Of the {content.metrics['split']} split; in brackets 95 % intervals, by the bootstrap over its clips."
    rows = ([title, *_cells(content.metrics[side])] for side, title in DIRECTIONS.items())
    yield _table(["direction", *METRICS], rows)


def _cells(estimates: dict[str, list[float]]) -> list[str]:
    return [
        f"{shown(metric, value)} [{shown(metric, low)}, {shown(metric, high)}]"
        for metric in METRICS
        for value, low, high in [estimates[metric]]
    ]


def _table(header: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])
