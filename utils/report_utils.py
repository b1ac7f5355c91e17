"""The pages: a trial's report, and the comparison of several trials."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from models.core import CRNNWordModel
from utils import plot_utils
from utils.analysis_utils import (
    METRICS,
    Estimate,
    Group,
    TrialResult,
    best_groups,
    choose_queries,
    estimates,
    group_trials,
    plain,
    positives_and_negatives,
    rank_shares,
    shown,
)
from utils.conf_utils import Conf, flat
from utils.data_utils import Split, load_split
from utils.index_utils import TEXT_COLUMNS, DatasetPaths, read_clips, read_table
from utils.io_utils import UserError, read_json, require_file, whole_folder, write_csv
from utils.metric_utils import both_directions, per_query_both_directions
from utils.plot_utils import Line, Picture
from utils.provenance_utils import check_made, read_provenance
from utils.score_utils import alignment_map, load_scores
from utils.step_utils import INDEXING, MEASURING, SCORING
from utils.trial_utils import BEST, TRAINING, check_data, collapse_warning, load_model, trial_conf
from utils.trial_utils import METRICS as HISTORY

REPORT, COMPARISON = "report.html", "comparison.html"
TEMPLATES = Path(__file__).with_name("templates")
DIRECTIONS = {"text_to_audio": "Text-to-audio", "audio_to_text": "Audio-to-text"}
TOP = 5  # results shown of a query
EACH = 2  # queries shown of the best, the typical and the worst

# The panels of training curves: title, key in metrics.jsonl, whether the axis is logarithmic.
PANELS = (
    ("Training loss", "train_loss", False),
    ("Validation objective", "val_obj", False),
    ("Learning rate", "lr", True),
    ("Validation mAP, text-to-audio", "val_map_text_to_audio", False),
    ("Validation mAP, audio-to-text", "val_map_audio_to_text", False),
    ("Spread of validation scores", "score_std", True),
)


# --- a trial ---------------------------------------------------------------------------------------------


def write_report(trial: Path, conf: Conf) -> Path:
    """Write TRIAL/report/ from the trial's scores, checkpoint and history; its page's path.

    The folder holds all that the page needs: report.html, figures/ and clips/, copies of the clips that it plays.

    Raises UserError where something that the report needs is missing, or not of one run.
    """
    model, words, epoch = load_model(trial / BEST)
    check_data(trial, conf)
    check_made(trial, SCORING)
    history, provenance = read_history(trial), training_provenance(trial)
    names = list(dict.fromkeys([conf.data_conf.eval_data, *conf.data_conf.splits]))  # the split for the results first
    rankings = {name: load_rankings(trial, name, epoch) for name in names}
    main = rankings[names[0]]
    with whole_folder(trial / "report", REPORT) as folder:
        page = Page(folder)
        gallery = Gallery(model, words, conf, main["text_to_audio"], page)
        page.render(
            "report.html",
            REPORT,
            trial=trial.resolve().name,
            strategy=conf.objective,
            seed=conf.param_conf.seed,
            epoch=epoch,
            epochs=history[-1]["epoch"],
            warning=collapse_warning(history[-1], conf),
            split=names[0],
            splits=names,
            directions=DIRECTIONS,
            metrics=METRICS,
            rows=[_metric_row(name, ranking) for name in names for ranking in rankings[name].values()],
            curves=[page.picture(picture) for picture in _trial_curves(history, epoch)],
            histograms={side: list(map(page.picture, _histograms(ranking))) for side, ranking in main.items()},
            galleries={direction: gallery.groups(ranking) for direction, ranking in main.items()},
            settings=flat(conf.model_dump()),
            provenance=provenance,
        )
    return trial / "report" / REPORT


class Ranking(NamedTuple):
    """A split's scores in one direction: Q queries, I items."""

    direction: str
    scores: np.ndarray  # (Q, I)
    query_clips: np.ndarray  # (Q,) the clip, in [0, C), that each query is, or describes
    item_clips: np.ndarray  # (I,)
    values: dict[str, np.ndarray]  # (Q,) each: utils.metric_utils.per_query_metrics
    fids: list[str]  # C
    tids: list[str]  # M captions: the queries of text-to-audio, the items of audio-to-text

    @property
    def relevance(self) -> np.ndarray:
        """(Q, I) bool."""
        return self.query_clips[:, None] == self.item_clips[None, :]


def load_rankings(trial: Path, split: str, epoch: int) -> dict[str, Ranking]:
    """A split's stored scores of the checkpoint of this epoch, by direction."""
    stored = load_scores(trial / f"{split}_xmodal_scores.hdf5", epoch)
    places = {fid: i for i, fid in enumerate(stored.fids)}
    captions, clips = np.array([places[fid] for fid in stored.caption_fids]), np.arange(len(stored.fids))
    values = per_query_both_directions(stored.scores, captions)
    names = (stored.fids, stored.tids)
    sides = {"text_to_audio": (stored.scores.T, captions, clips), "audio_to_text": (stored.scores, clips, captions)}
    return {direction: Ranking(direction, *side, values[direction], *names) for direction, side in sides.items()}


def read_history(trial: Path) -> list[dict[str, float]]:
    """The lines of a trial's metrics.jsonl, one an epoch."""
    path = trial / HISTORY
    require_file(path, "main.py")
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not history or not all("epoch" in results for results in history):
            raise ValueError("no epochs")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not the epochs that main.py wrote ({error}); resume the trial to mend it") from None
    return history


def training_provenance(trial: Path) -> dict[str, object]:
    """What the trial says of its training, flat: the seed, the data's digests, each run's machine and versions."""
    entry = read_provenance(trial).get(TRAINING)
    if entry is None:
        return {}
    content = entry.model_dump(exclude_defaults=True)
    runs = {f"run {number}": run for number, run in enumerate(content.pop("runs", []), start=1)}
    return flat(content | runs)


class MetricRow(NamedTuple):
    """A line of the metrics table."""

    split: str
    direction: str
    estimates: dict[str, Estimate]
    chance: float  # mAP of random scores
    queries: int
    tied: int


def _metric_row(split: str, ranking: Ranking) -> MetricRow:
    clips = len(ranking.fids)
    captions = ranking.query_clips if ranking.direction == "text_to_audio" else ranking.item_clips
    chance = both_directions(np.zeros((clips, len(captions)), np.float32), captions)  # all tied: the expected value
    return MetricRow(
        split,
        ranking.direction,
        estimates(ranking.values, ranking.query_clips, clips),
        chance[ranking.direction]["mAP"],
        len(ranking.query_clips),
        int(ranking.values["tied"].sum()),
    )


def _trial_curves(history: list[dict[str, float]], best_epoch: int) -> list[Picture]:
    return [plot_utils.curves(title, [_line(history, title, key)], log, best_epoch) for title, key, log in PANELS]


def _line(history: list[dict[str, float]], name: str, key: str, style: int = 0, faint: bool = False) -> Line:
    points = [(results["epoch"], results[key]) for results in history if key in results]
    epochs, values = zip(*points, strict=True) if points else ((), ())
    return Line(name, epochs, values, style, faint)


def _histograms(ranking: Ranking) -> list[Picture]:
    relevance = ranking.relevance
    shares = rank_shares(ranking.values["first_rank"], relevance.sum(axis=1), len(ranking.item_clips))
    positive, negative = positives_and_negatives(ranking.scores, relevance)
    return [
        plot_utils.rank_histogram("Ranks", *shares),
        plot_utils.score_histogram("Scores", positive, negative),
        plot_utils.margin_histogram("Margins", positive, negative),
    ]


# --- the gallery -----------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """A clip of the page."""

    name: str  # as the data set has it: text, not to be used as a path
    source: str  # of its copy, as the page links it


class Result(NamedTuple):
    """A result of a query, as the page shows it."""

    rank: int
    score: float
    right: bool
    clip: Clip | None  # what was found by a caption,
    caption: str | None  # or by a clip
    picture: dict


class Query(NamedTuple):
    """A query with its first results, and the best right one where it is not among those."""

    clip: Clip
    captions: list[str]  # the query itself, or those of the clip
    first_rank: float  # of the right result,
    tied: bool  # with wrong ones: expected
    top: float  # the similarity that the pictures draw brightest
    results: list[Result]


class Gallery:
    """Queries of a split with what they find, to look at and to listen to.

    Args:
        model: in evaluation mode, on the CPU.
        words: its vocabulary.
        conf: the trial's configuration.
        ranking: of the split data_conf.eval_data, whose rows and columns the split's files must have.
        page: where pictures and clips go.
    """

    def __init__(self, model: CRNNWordModel, words: list[str], conf: Conf, ranking: Ranking, page: "Page"):
        name, paths = conf.data_conf.eval_data, DatasetPaths(conf.data_conf.dataset)
        self.model, self.words, self.page, self.hop = model, words, page, conf.audio_logmel.hop
        self.split: Split = load_split(paths, name, words, conf.audio_logmel.recipe, cache="disk")
        if (self.split.fids, self.split.tids) != (ranking.fids, ranking.tids):
            raise UserError(
                f"{paths.text(name)}: not the captions that were scored; run postprocessing/1_xmodal_scores.py again"
            )
        self.captions = read_table(paths.text(name), TEXT_COLUMNS, INDEXING)["raw_text"]
        self.files = clip_files(paths, name, self.split.fids)
        self.frames: dict[int, Tensor] = {}  # embeddings (T, E) of the clips met so far

    def groups(self, ranking: Ranking) -> dict[str, list[Query]]:
        """Some of the best, the typical and the worst queries of a direction."""
        positive, negative = positives_and_negatives(ranking.scores, ranking.relevance)
        margin = positive - negative
        chosen = choose_queries(ranking.values["first_rank"], margin, ranking.query_clips, EACH)
        return {name: [self._query(ranking, query) for query in queries] for name, queries in chosen.items()}

    def _query(self, ranking: Ranking, query: int) -> Query:
        scores, own = ranking.scores[query], ranking.query_clips[query]
        order = np.argsort(-scores, kind="stable")
        right = ranking.item_clips[order] == own  # by rank
        places = list(range(min(TOP, len(order))))
        if not right[:TOP].any():
            places.append(int(right.argmax()))
        pairs = [self._pair(ranking, query, int(order[place])) for place in places]
        maps = [self._alignment(*pair) for pair in pairs]
        top = max(float(similarities.max()) for similarities in maps)
        results = [
            self._result(ranking, place, float(scores[order[place]]), bool(right[place]), pair, similarities, top)
            for place, pair, similarities in zip(places, pairs, maps, strict=True)
        ]
        by_text = ranking.direction == "text_to_audio"
        captions = [query] if by_text else np.flatnonzero(ranking.item_clips == own)
        first_rank, tied = float(ranking.values["first_rank"][query]), bool(ranking.values["tied"][query])
        return Query(self._clip(own), [self.captions[i] for i in captions], first_rank, tied, top, results)

    def _pair(self, ranking: Ranking, query: int, item: int) -> tuple[int, int]:
        """The clip and the caption that a query and an item are."""
        return (item, query) if ranking.direction == "text_to_audio" else (query, item)

    def _result(
        self, ranking: Ranking, place: int, score: float, right: bool, pair: tuple[int, int], similarities: np.ndarray,
        top: float,
    ) -> Result:  # fmt: skip
        clip, caption = pair
        words = [self.words[word] for word in self.split.captions[caption]]
        log_mel = self.split.log_mels[clip].numpy()
        picture = self.page.picture(plot_utils.alignment(log_mel, similarities, words, self.hop, top))
        if ranking.direction == "text_to_audio":
            return Result(place + 1, score, right, self._clip(clip), None, picture)
        return Result(place + 1, score, right, None, self.captions[caption], picture)

    @torch.no_grad()
    def _alignment(self, clip: int, caption: int) -> np.ndarray:
        """(T, W) similarities of a clip's frames with a caption's words."""
        if clip not in self.frames:
            self.frames[clip] = self.model.audio_branch(self.split.log_mels[clip].unsqueeze(0))[0]
        words = self.model.text_branch(self.split.captions[caption].unsqueeze(0))[0]
        return alignment_map(self.frames[clip], words).numpy()

    def _clip(self, clip: int) -> Clip:
        path = self.files[clip]
        return Clip(path.name, self.page.clip(path, self.split.fids[clip]))


def clip_files(paths: DatasetPaths, split: str, fids: list[str]) -> list[Path]:
    """The audio files of a split's clips; UserError where one is not listed, or lies outside of the data set."""
    clips = read_clips(paths, split)
    for fid in fids:
        if fid not in clips:
            raise UserError(f"{paths.audio_info}: lists no clip {fid} of {split}, which was scored; score again")
    return [paths.clip(split, clips[fid].file) for fid in fids]


# --- several trials --------------------------------------------------------------------------------------


def write_comparison(trials: list[Path], out: Path) -> Path:
    """Write comparison.html, .md and .csv of finished trials into the folder `out`; the page's path.

    Metrics are those of the trials' data_conf.eval_data split; trials that differ only in their seeds are one row.

    Raises UserError where a trial has no metrics, or its data are not those of the first.
    """
    results = [read_result(trial) for trial in dict.fromkeys(trial.resolve() for trial in trials)]
    for result in results[1:]:
        _require_same_data(results[0], result)
    groups = group_trials(results)
    best = {(side, metric): best_groups(groups, side, metric) for side in DIRECTIONS for metric in METRICS}
    with whole_folder(out, COMPARISON) as folder:
        page = Page(folder)
        page.render(
            "comparison.html",
            COMPARISON,
            split=results[0].settings["data_conf.eval_data"],
            queries={side: results[0].metrics[side]["queries"] for side in DIRECTIONS},
            directions=DIRECTIONS,
            metrics=METRICS,
            groups=groups,
            best=best,
            strokes=[_stroke(i) for i in range(len(groups))],
            curves=[page.picture(picture) for picture in _compared_curves(groups)],
        )
        (folder / "comparison.md").write_text(comparison_markdown(groups, best), encoding="utf-8")
        write_csv(folder / "comparison.csv", *comparison_csv(groups))
    return out / COMPARISON


def read_result(trial: Path) -> TrialResult:
    """What a comparison needs of a trial; UserError where it is not there."""
    settings = flat(trial_conf(trial, []).model_dump())
    check_made(trial, SCORING, MEASURING)
    path, split = trial / "retrieval_metrics.json", settings["data_conf.eval_data"]
    content = read_json(path, MEASURING)
    try:
        metrics = {
            side: {key: float(content[split][side][key]) for key in (*METRICS, "queries")} for side in DIRECTIONS
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not all metrics of the split {split}; run {MEASURING} again") from None
    return TrialResult(trial, settings, metrics, read_history(trial))


def _require_same_data(one: TrialResult, other: TrialResult) -> None:
    def data(result: TrialResult) -> tuple:
        return result.settings["data_conf.eval_data"], *(int(result.metrics[side]["queries"]) for side in DIRECTIONS)

    if data(one) != data(other):
        split, captions, clips = data(other)
        raise UserError(
            f"{other.trial}: measured on {split} ({clips} clips, {captions} captions), but {one.trial} on "
            f"{data(one)[0]} ({data(one)[2]} clips, {data(one)[1]} captions); compare trials of one data set"
        )


def comparison_markdown(groups: list[Group], best: dict[tuple[str, str], set[str]]) -> str:
    """A table for each direction: mean ± standard deviation over seeds, the best mean in bold."""
    lines = []
    for side, title in DIRECTIONS.items():
        lines += [f"**{title}**", "", f"| | seeds | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 2) + "|"]
        for group in groups:
            cells = [_spread(group, side, metric) for metric in METRICS]
            cells = [
                f"**{cell}**" if group.label in best[side, metric] else cell
                for metric, cell in zip(METRICS, cells, strict=True)
            ]
            label = "".join(f"\\{sign}" if sign in "\\|*_`<>[]" else sign for sign in group.label)
            lines.append(f"| {label} | {len(group.results)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _spread(group: Group, direction: str, metric: str) -> str:
    mean, std = group.mean(direction, metric), group.std(direction, metric)
    return shown(metric, mean) + ("" if std is None else f" ± {shown(metric, std)}")


def comparison_csv(groups: list[Group]) -> tuple[list[str], list[list[object]]]:
    """Header and rows, a row for each group and direction; the standard deviation of one seed is empty."""
    header = ["strategy", "trials", "direction", "seeds"]
    header += [f"{metric}_{what}" for metric in METRICS for what in ("mean", "std")]
    rows = []
    for group in groups:
        for side in DIRECTIONS:
            row = [group.results[0].strategy, group.label, side, len(group.results)]
            for metric in METRICS:
                row += [group.mean(side, metric), group.std(side, metric)]
            rows.append(row)
    return header, rows


def _compared_curves(groups: list[Group]) -> list[Picture]:
    pictures = []
    for title, key, log in PANELS:
        drawn = []
        for style, group in enumerate(groups):
            seeds = [_line(result.history, group.label, key, style, faint=True) for result in group.results]
            drawn += [*seeds, _mean_line(seeds)]
        pictures.append(plot_utils.curves(title, drawn, log))
    return pictures


def _stroke(style: int) -> dict[str, str]:
    """How a line of STYLES is drawn in the page's own legend."""
    colour, dashes = plot_utils.STYLES[style % len(plot_utils.STYLES)]
    width = 1.8  # as in `plot_utils.curves`, whose dashes are in widths
    return {"colour": plot_utils.variable(colour), "dashes": " ".join(f"{width * dash:g}" for dash in dashes)}


def _mean_line(seeds: list[Line]) -> Line:
    """The mean over seeds, of the epochs that all of them have."""
    by_epoch = [dict(zip(line.epochs, line.values, strict=True)) for line in seeds]
    epochs = sorted(set.intersection(*map(set, by_epoch)))
    values = [float(np.mean([values[epoch] for values in by_epoch])) for epoch in epochs]
    return seeds[0]._replace(epochs=epochs, values=values, faint=False)


# --- files -----------------------------------------------------------------------------------------------


class Page:
    """A page and the files beside it, in a folder that nobody has seen yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pictures = 0

    def picture(self, picture: Picture) -> dict:
        """Write a figure; what an <img> says of it."""
        self.pictures += 1
        source = f"figures/{self.pictures:03d}.svg"
        self._path(source).write_text(picture.svg, encoding="utf-8")
        return {"src": source, "alt": picture.alt, "width": picture.width, "height": picture.height}

    def clip(self, path: Path, fid: str) -> str:
        """Copy a clip under a name that needs no quoting; where it is, from the page."""
        if not path.is_file():
            raise UserError(f"{path}: no such audio file; the report plays copies of the clips: put it back")
        source = f"clips/{fid}{path.suffix.lower()}"
        if not self._path(source).exists():
            shutil.copyfile(path, self.folder / source)
        return source

    def render(self, template: str, name: str, **content: object) -> None:
        """Fill a template; whatever is put into it is escaped."""
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {"plain": plain}
        environment.globals |= {"shown": shown, "colours": plot_utils.colour_variables(":root")}
        (self.folder / name).write_text(environment.get_template(template).render(content), encoding="utf-8")

    def _path(self, source: str) -> Path:
        path = self.folder / source
        path.parent.mkdir(exist_ok=True)
        return path
