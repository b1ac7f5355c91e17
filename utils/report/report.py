"""A trial's report: TRIAL/report/report.html."""

from pathlib import Path

from utils.common.folders import atomic_folder
from utils.common.steps import SCORING, TRAINING
from utils.conf.schema import flat
from utils.metric_utils import chance_map
from utils.report.bootstrap import estimates
from utils.report.curves import curves, line_of, panels_of
from utils.report.figures import Picture
from utils.report.gallery import Gallery
from utils.report.histograms import margin_histogram, rank_histogram, score_histogram
from utils.report.negatives import Negatives
from utils.report.numbers import METRICS, rank_shares
from utils.report.page import DIRECTIONS, Page
from utils.report.rankings import Ranking, load_rankings
from utils.trial.checks import caveat_of, check_metrics, check_trial
from utils.trial.history import collapse_warning
from utils.trial.identity import training_of
from utils.trial.relevance import as_measured
from utils.trial.score_files import word_scores_path
from utils.trial.trial import Trial

REPORT = "report.html"
POOLED = {  # a word's score, by score.frames, or at the clip level
    "mean": "the mean of its row",
    "max": "the highest value of its row, underlined in red",
    "softmax": "a mean of its row, weighted towards its best frames, underlined in red",
}


def write_report(trial: Trial, given: bool = False) -> Path:
    """Write TRIAL/report/ from the trial's scores, checkpoint and history. Returns the page's path.

    The folder holds report.html, figures/, and clips/ with copies of the clips that the page plays. Extra relevant
    pairs are those of the metrics' record, with `given` as in `as_measured`.

    Raises UserError where an input is missing or from another run.
    """
    path, splits = trial.path, trial.conf.data_conf.splits
    check_trial(trial, TRAINING, SCORING, reads=[word_scores_path(path, split) for split in splits])
    check_metrics(trial)
    best, history, caveat = trial.best, trial.history, caveat_of(trial)
    trial = as_measured(trial, given)  # relevance as in retrieval_metrics.json
    conf, provenance = trial.conf, training_provenance(path)
    names = list(dict.fromkeys([conf.data_conf.eval_data, *splits]))  # the split of the results first
    main, rows = {}, []
    for name in names:  # one split in memory at a time, beside the first
        rankings = load_rankings(trial, name, best.epoch, str(best.score))
        rows += [_metric_row(name, direction, ranking) for direction, ranking in rankings.items()]
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
            curves=[
                page.picture(curves(title, [line_of(history, title, key)], log, best.epoch))
                for title, key, log in panels_of(history)
            ],
            histograms={side: list(map(page.picture, _histograms(ranking))) for side, ranking in main.items()},
            level=conf.score.level,
            pooled=POOLED[best.score.frames],
            negatives=Negatives(best, conf, page).section(),
            galleries={direction: gallery.groups(ranking) for direction, ranking in main.items()},
            settings=flat(conf.model_dump()),
            provenance=provenance,
        )
    return path / "report" / REPORT


def training_provenance(trial: Path) -> dict[str, object]:
    """The record of the training, flat: the seed, the data's digests, each run's machine and versions."""
    content = training_of(trial).model_dump(exclude_defaults=True, exclude={"settings", "token"})
    runs = {f"run {number}": run for number, run in enumerate(content.pop("runs", []), start=1)}
    return flat(content | runs)


def _metric_row(split: str, direction: str, ranking: Ranking) -> dict[str, object]:
    """A row of the metrics table; chance is the mAP of random scores."""
    return {
        "split": split,
        "direction": direction,
        "estimates": estimates(ranking.queries, direction),
        "chance": chance_map(ranking.relevant, len(ranking.item_clips)),
        "queries": len(ranking.query_clips),
        "tied": int(ranking.values["tied"].sum()),
    }


def _histograms(ranking: Ranking) -> list[Picture]:
    shares = rank_shares(ranking.values["first_rank"], ranking.relevant, len(ranking.item_clips))
    return [
        rank_histogram("Ranks", *shares),
        score_histogram("Scores", ranking.positive, ranking.negative),
        margin_histogram("Margins", ranking.positive, ranking.negative),
    ]
