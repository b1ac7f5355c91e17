"""A trial's report: TRIAL/report/report.html."""

from pathlib import Path
from typing import NamedTuple

from utils.common.folders import atomic_folder
from utils.common.steps import SCORING, TRAINING
from utils.conf.schema import flat
from utils.metric_utils import chance_map
from utils.report import figures
from utils.report.bootstrap import Estimate, estimates
from utils.report.figures import Picture
from utils.report.gallery import Gallery
from utils.report.negatives import Negatives
from utils.report.numbers import METRICS, rank_shares
from utils.report.page import DIRECTIONS, Page, line_of, panels_of
from utils.report.rankings import Ranking, load_rankings
from utils.trial.caveats import caveat_of
from utils.trial.checks import check_metrics, check_trial
from utils.trial.history import collapse_warning
from utils.trial.identity import training_of
from utils.trial.relevance import as_measured
from utils.trial.score_files import word_scores_path
from utils.trial.trial import Trial

REPORT = "report.html"
POOLED = {  # what a word's score is, by score.frames
    "mean": "the mean of its row",
    "max": "the highest of its row, underlined in red",
    "softmax": "the mean of its row weighted towards its best frames, those underlined in red",
}


def write_report(trial: Trial, given: bool = False) -> Path:
    """Write TRIAL/report/ from the trial's scores, checkpoint and history; its page's path.

    The folder holds all that the page needs: report.html, figures/ and clips/, copies of the clips that it plays.
    Further right pairs are those of the record of measuring, with `given` as in `as_measured`.

    Raises UserError where something that the report needs is missing, or not of one run.
    """
    path, splits = trial.path, trial.conf.data_conf.splits
    check_trial(trial, TRAINING, SCORING, reads=[word_scores_path(path, split) for split in splits])
    check_metrics(trial)
    best, history, caveat = trial.best, trial.history, caveat_of(trial)
    trial = as_measured(trial, given)  # as retrieval_metrics.json has it
    conf, provenance = trial.conf, training_provenance(path)
    names = list(dict.fromkeys([conf.data_conf.eval_data, *splits]))  # the split for the results first
    main, rows = {}, []
    for name in names:  # those of one split are held, and in the end the first's
        rankings = load_rankings(trial, name, best.epoch, str(best.score))
        rows += [_metric_row(name, ranking) for ranking in rankings.values()]
        main = main or rankings
    with atomic_folder(path / "report", REPORT) as folder:
        page = Page(folder)
        gallery = Gallery(best, conf, main["text_to_audio"], page)
        page.render(
            "report.html",
            REPORT,
            trial=path.resolve().name,
            strategy=conf.objective,
            seed=conf.param_conf.seed,
            epoch=best.epoch,
            epochs=history[-1]["epoch"],
            warnings=list(filter(None, [caveat and caveat.line, collapse_warning(history[-1], conf)])),
            split=names[0],
            splits=names,
            directions=DIRECTIONS,
            metrics=METRICS,
            rows=rows,
            own_negatives=any("hubness" in results for results in history),
            curves=[page.picture(picture) for picture in _trial_curves(history, best.epoch)],
            histograms={side: list(map(page.picture, _histograms(ranking))) for side, ranking in main.items()},
            pooled=POOLED[best.score.frames],
            negatives=Negatives(best, conf, page).section(),
            galleries={direction: gallery.groups(ranking) for direction, ranking in main.items()},
            settings=flat(conf.model_dump()),
            provenance=provenance,
        )
    return path / "report" / REPORT


def training_provenance(trial: Path) -> dict[str, object]:
    """The trial's record of its training, flat: the seed, the data's digests, each run's machine and versions."""
    content = training_of(trial).model_dump(exclude_defaults=True, exclude={"settings", "token"})
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
    return MetricRow(
        split,
        ranking.direction,
        estimates(ranking.values, ranking.query_clips, clips),
        chance_map(ranking.relevant, len(ranking.item_clips)),
        len(ranking.query_clips),
        int(ranking.values["tied"].sum()),
    )


def _trial_curves(history: list[dict[str, float]], best_epoch: int) -> list[Picture]:
    panels = panels_of(history)
    return [figures.curves(title, [line_of(history, title, key)], log, best_epoch) for title, key, log in panels]


def _histograms(ranking: Ranking) -> list[Picture]:
    shares = rank_shares(ranking.values["first_rank"], ranking.relevant, len(ranking.item_clips))
    return [
        figures.rank_histogram("Ranks", *shares),
        figures.score_histogram("Scores", ranking.positive, ranking.negative),
        figures.margin_histogram("Margins", ranking.positive, ranking.negative),
    ]
