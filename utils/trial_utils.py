"""Trial directories: configuration, log, metrics and checkpoints of one training run."""

import argparse
import json
import logging
import math
import pickle
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models.core import CRNNWordModel
from utils.conf_utils import (
    DEFAULT_CONF,
    Conf,
    command_parser,
    flat,
    load_conf,
    parse_command,
    refuse_conf_beside,
    save_conf,
)
from utils.distributed_utils import rank, world_size
from utils.index_utils import DatasetPaths
from utils.io_utils import UserError, require_file, whole_file
from utils.model_utils import NonFiniteStep
from utils.provenance_utils import Entry, check_files, digests, read_provenance, record, versions
from utils.tensorboard_utils import EpochEvents

CONF, METRICS, LOG = "conf.yaml", "metrics.jsonl", "train.log"
BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"

TRAINING = "main.py"  # its entry in the trial's provenance.json

COLLAPSED_SPREAD = 1e-3  # standard deviation of the scores; a model that tells clips apart has above 0.01
COLLAPSED_LOSS = 0.02  # distance from twice the margin, relative

# What a resumed run may change: where things are, how far to go, steps that lie behind it, and what stands around it.
RESUME_MAY_CHANGE = {
    "trial_series",
    "trial_base",
    "data_conf.dataset",
    "data_conf.eval_data",
    "data_conf.cache",
    "param_conf.num_epoch",
    "demo_dataset",
    "text_cleaning",
    "clotho_dataset",
    "word2vec_embeddings",
    "audio_logmel.workers",
    "audio_logmel.backend",
    "log_tensorboard",
    "sweep_conf",
    "ray_conf",
}


class Stateful(Protocol):
    """What a checkpoint keeps the state of: a module, an optimiser, a schedule."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


# --- directories -----------------------------------------------------------------------------------------


def create_trial(conf: Conf) -> Path:
    """Make a new trial directory, named by time, strategy and seed, and store the resolved configuration in it."""
    return create_directory(conf, f"{conf.objective}_seed{conf.param_conf.seed}")


def create_directory(conf: Conf, name: str) -> Path:
    """Make a new directory in the trial series, named by time and `name`, and store the configuration in it."""
    series = Path(conf.trial_base) / conf.trial_series
    directory = series / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
    series.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            directory.mkdir()
        except FileExistsError:  # another run in the same second
            directory = directory.with_name(directory.name + "+")
            continue
        save_conf(conf, directory / CONF)
        return directory


def newest_trial(conf: Conf) -> Path:
    """The newest trial of a configuration's series that has a checkpoint."""
    series = Path(conf.trial_base) / conf.trial_series
    trials = [path.parent for path in series.glob(f"*/{BEST}") if (path.parent / CONF).is_file()]
    if not trials:
        raise UserError(f"{series}: no trained trial yet; run main.py first, or name one with --trial")
    return max(trials, key=lambda trial: (trial / CONF).stat().st_mtime_ns)


def trial_conf(trial: Path, overrides: list[str]) -> Conf:
    """A trial's own configuration, with the command line's changes."""
    if not (trial / CONF).is_file():
        raise UserError(f"{trial}: not a trial directory (it has no {CONF})")
    return load_conf(trial / CONF, overrides)


def trial_from_command(description: str) -> tuple[Path, Conf]:
    """Parse a postprocessing script's command line: the trial that --trial names, or the configuration's newest."""
    return trial_of(parse_command(trial_parser(description)))


def trial_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every postprocessing script takes."""
    parser = command_parser(description)
    parser.add_argument(
        "--trial", type=Path, metavar="DIR", help="trial directory (default: the configuration's newest trial)"
    )
    return parser


def trial_of(args: argparse.Namespace) -> tuple[Path, Conf]:
    """The trial that parsed arguments mean, and its configuration."""
    refuse_conf_beside(args, "trial")
    trial = args.trial or newest_trial(load_conf(args.conf or DEFAULT_CONF, args.overrides))
    conf = trial_conf(trial, args.overrides)
    if args.trial and args.overrides:
        require_same_run(trial, conf)
    return trial, conf


def resume_conf(trial: Path, overrides: list[str]) -> Conf:
    """The configuration to resume a trial with; changes that would mix two experiments are refused.

    A trial that was killed before its first checkpoint starts from its beginning.
    """
    conf = trial_conf(trial, overrides)
    require_same_run(trial, conf)
    return conf


def require_same_run(trial: Path, conf: Conf) -> None:
    """Raise UserError where going on with a trial by this configuration would mix two experiments."""
    begun = (trial / LAST).exists()
    before = flat(load_checkpoint(trial / LAST)["conf"] if begun else trial_conf(trial, []).model_dump())
    after = flat(conf.model_dump())
    for key in sorted(before.keys() | after.keys()):
        free = any(key == prefix or key.startswith(prefix + ".") for prefix in RESUME_MAY_CHANGE)
        if before.get(key) != after.get(key) and not free:
            raise UserError(
                f"{trial}: {key} is {after.get(key)!r} but the trial was run with {before.get(key)!r}; "
                "resume without the change, or start a new trial"
            )


def check_data(trial: Path, conf: Conf) -> None:
    """Raise UserError where the data set's files are not those that a trial was trained on."""
    if entry := read_provenance(trial).get(TRAINING):
        complaint = f"has changed since {trial} was begun; set data_conf.dataset to its data, or start a new trial"
        check_files(conf.data_conf.dataset, entry.inputs, complaint)


# --- checkpoints -----------------------------------------------------------------------------------------


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint onto the CPU; only tensors and plain values are loaded, nothing in the file can run code."""
    require_file(path, "main.py")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own message advises to load it by other means
        raise UserError(
            f"{path}: not a loadable checkpoint: damaged, or with more than tensors and values, which could run code"
        ) from None
    except Exception as error:  # torch raises many types for damaged files
        raise UserError(f"{path}: not a loadable checkpoint ({_first_line(error)})") from None
    try:
        _check_form(checkpoint)
    except Exception as error:  # whatever the values' types give rise to
        raise UserError(f"{path}: not a checkpoint that main.py wrote ({_first_line(error)})") from None
    if not all(torch.isfinite(weights).all() for weights in checkpoint["model"].values()):
        raise UserError(f"{path}: holds weights that are not finite: training has diverged; start a new trial")
    return checkpoint


def _check_form(checkpoint: dict) -> None:
    """Raise an exception where a checkpoint's values are not of the types and sizes that they must have."""
    if missing := {"model", "words", "conf", "history", "epoch"} - checkpoint.keys():
        raise ValueError(f"without {', '.join(sorted(missing))}")
    if not isinstance(checkpoint["words"], list) or not all(isinstance(word, str) for word in checkpoint["words"]):
        raise ValueError("words is no list of words")
    if type(checkpoint["epoch"]) is not int:
        raise ValueError(f"epoch is {checkpoint['epoch']!r:.80}")
    if not isinstance(checkpoint["conf"], dict) or not isinstance(checkpoint["history"], list):
        raise ValueError("conf or history is of another type")
    for results in checkpoint["history"]:
        if not {"epoch", "lr", "val_obj", "val_map"} <= results.keys() or not all(map(math.isfinite, results.values())):
            raise ValueError(f"history: {results!r:.80}")
    for name, weights in checkpoint["model"].items():
        if weights.layout is not torch.strided or weights.is_quantized:
            raise ValueError(f"{name} is stored in a form of its own")


def load_model(path: Path) -> tuple[CRNNWordModel, list[str], int]:
    """A checkpoint's model, in evaluation mode, its vocabulary (V words, id 0 the padding) and its epoch."""
    checkpoint = load_checkpoint(path)
    words = checkpoint["words"]
    try:
        model = CRNNWordModel.from_state_dict(checkpoint["model"])
    except Exception as error:  # the sizes are the file's: torch raises many types for those that cannot be
        raise UserError(f"{path}: not a checkpoint of CRNNWordModel ({_first_line(error)})") from None
    if len(words) != len(model.text_enc.embedding.weight):
        raise UserError(f"{path}: holds {len(words)} words but {len(model.text_enc.embedding.weight)} word vectors")
    return model.eval(), words, checkpoint["epoch"]


def _check_states(checkpoint: dict, optimizer: Optimizer, scheduler: ReduceLROnPlateau) -> None:
    """Raise an exception where the optimizer's or the schedule's state is none: torch itself notices too late."""
    sizes = [weight.shape for group in optimizer.param_groups for weight in group["params"]]
    for place, state in checkpoint["optimizer"]["state"].items():
        moments = torch.stack([state["exp_avg"], state["exp_avg_sq"]])  # (2, *size)
        if moments.shape[1:] != sizes[place] or not moments.isfinite().all() or not 0 < state["step"].item() < 2**40:
            raise ValueError(f"the optimizer's state of weight {place}")
    groups, own_groups = checkpoint["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"]
    for group, own in zip(groups, own_groups, strict=True):
        if any(group[key] != value for key, value in own.items() if key not in ("lr", "fused")):
            raise ValueError("the optimizer's settings")
        if not 0 <= group["lr"] < math.inf:
            raise ValueError(f"the learning rate {group['lr']!r:.80}")
    before, after = checkpoint["scheduler"], scheduler.state_dict()
    if {key: type(value) for key, value in before.items()} != {key: type(value) for key, value in after.items()}:
        raise ValueError("the state of the learning-rate schedule")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# --- the record of a run ---------------------------------------------------------------------------------


class TrialRecord:
    """What a trial directory holds of a run, kept as the run goes on: checkpoints, metrics.jsonl, train.log, events.

    Of several processes the first writes them; the others' records hold the history alone.

    Args:
        trial: the directory; where it holds a checkpoint, the record goes on from there.
        conf: the resolved configuration.
        words: the vocabulary, id 0 the padding.
    """

    def __init__(self, trial: Path, conf: Conf, words: list[str]):
        self.trial, self.conf, self.words = trial, conf, words
        self.checkpoint = load_checkpoint(trial / LAST) if (trial / LAST).exists() else None
        self.history: list[dict[str, float]] = self.checkpoint["history"] if self.checkpoint else []
        self.logger = _logger(trial / LOG)
        self.events: EpochEvents | None = None

    @property
    def best(self) -> dict[str, float]:
        """The results of the best epoch, the earliest on a tie."""
        if self.conf.param_conf.select_by == "val_obj":
            return min(self.history, key=lambda results: results["val_obj"])
        return max(self.history, key=lambda results: results["val_map"])

    def restore(self, parts: dict[str, Stateful]) -> None:
        """Bring the parts of a run, by name, to where its last checkpoint left them; a new run stays as it is.

        Raises UserError where the data or the checkpoint are of another run; then the trial directory is as it was.
        """
        check_data(self.trial, self.conf)
        if self.checkpoint is not None:
            self._load(parts)
        if rank() > 0:
            return
        save_conf(self.conf, self.trial / CONF)
        if self.history:  # a kill may have come between the last checkpoint and what follows it
            self._write_metrics()
            if self.best is self.history[-1]:
                with whole_file(self.trial / BEST) as temporary:
                    shutil.copyfile(self.trial / LAST, temporary)
        if self.conf.log_tensorboard:
            self.events = EpochEvents(self.trial, self.history)

    def _load(self, parts: dict[str, Stateful]) -> None:
        if self.checkpoint["words"] != self.words:
            raise UserError(f"{self.trial}: the vocabulary is not the one that the trial began with; start a new trial")
        try:
            _check_states(self.checkpoint, parts["optimizer"], parts["scheduler"])
            for name, part in parts.items():
                part.load_state_dict(self.checkpoint[name])
        except Exception as error:  # as in load_model
            raise UserError(f"{self.trial / LAST}: does not fit this trial ({_first_line(error)})") from None
        self.checkpoint = None  # a second copy of the model and the optimizer

    def begin_run(self, device: torch.device) -> None:
        """Add this run to the trial's provenance: where, by what and on which data it trains."""
        if rank() > 0:
            return
        conf, paths = self.conf, DatasetPaths(self.conf.data_conf.dataset)
        splits = (conf.data_conf.train_data, conf.data_conf.val_data)
        inputs = digests(paths.root, [*map(paths.text, splits), paths.word_embeds, *map(paths.log_mels, splits)])
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        run = {"first_epoch": len(self.history), "device": name, "processes": world_size()}
        run |= {"threads": torch.get_num_threads()} | versions()
        entry = read_provenance(self.trial).get(TRAINING, Entry(inputs=inputs, seed=conf.param_conf.seed, runs=[]))
        entry.runs.append(run)
        record(self.trial, TRAINING, entry)

    def stop_at(self, epoch: int, step: NonFiniteStep, fids: list[str]) -> NoReturn:
        """Raise UserError for a step that was not finite, on these clips."""
        good = f"{LAST} holds epoch {epoch - 1}" if self.history else "there is no checkpoint yet"
        raise UserError(
            f"{self.trial}: diverged in epoch {epoch}: {step}; the batch's clips are {' '.join(fids)}; {good}; start "
            "a new trial with a lower AdamOptimizer.lr, or look at these clips"
        )

    def add(self, results: dict[str, float], seconds: float, parts: dict[str, Stateful]) -> None:
        """Keep an epoch's results and the state after it; once the last checkpoint is written, the epoch counts.

        The seconds that it took go to the log alone: the rest is the same in every run.
        """
        self.history.append(results)
        if rank() > 0:
            return
        checkpoint = {
            **{name: part.state_dict() for name, part in parts.items()},
            "words": self.words,
            "history": self.history,  # all that the stopper and the choice of the best look at
            "epoch": results["epoch"],  # with the seed, the state of every generator: see seed_epoch
            "best": self.best,
            "conf": self.conf.model_dump(),
        }
        improved = self.best is results
        for name in (LAST, BEST) if improved else (LAST,):
            # a stream: by a path's name the bytes would differ
            with whole_file(self.trial / name) as temporary, temporary.open("wb") as stream:
                torch.save(checkpoint, stream)
        self._write_metrics()
        if self.events:
            self.events.add(results)
        self.say(f"{epoch_line(results)}  {seconds:.1f} s{' *' if improved else ''}")
        if warning := collapse_warning(results, self.conf):
            self.logger.warning(warning)

    def _write_metrics(self) -> None:
        with whole_file(self.trial / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(epoch) + "\n" for epoch in self.history), encoding="utf-8")

    def say(self, line: str) -> None:
        """Print a line, and keep it in train.log."""
        self.logger.info(line)

    def close(self) -> None:
        """End the run's record: say which epoch was best."""
        best, params = self.best, self.conf.param_conf
        self.say(f"best epoch by {params.select_by}: {best['epoch']} -> {self.trial / BEST}")
        if self.events:
            self.events.close()


def epoch_line(results: dict[str, float]) -> str:
    """An epoch's results on one line."""
    training = ""
    if "train_loss" in results:
        training = f"loss {results['train_loss']:.4f}  active {results['active_triplets']:.2f}  "
    return (
        f"epoch {results['epoch']:3d}  {training}val_obj {results['val_obj']:.4f}  "
        f"val mAP t2a {results['val_map_text_to_audio']:.3f} a2t {results['val_map_audio_to_text']:.3f}  "
        f"score std {results['score_std']:.4f}  lr {results['lr']:.0e}"
    )


def collapse_warning(results: dict[str, float], conf: Conf) -> str | None:
    """A warning where the features have collapsed: training loss at twice the margin, and all scores equal."""
    loss, spread = results.get("train_loss", math.inf), results["score_std"]
    criterion = conf.criteria.TripletLoss
    if conf.param_conf.criterion != "TripletLoss":
        return None
    if not math.isclose(loss, 2 * criterion.margin, rel_tol=COLLAPSED_LOSS) or spread >= COLLAPSED_SPREAD:
        return None
    advice = "Word vectors that are all alike do this as well: look at what step 3 says."
    if criterion.sampling == "hard-NS":
        advice = "The paper finds this with hard negatives by cross-modality score (hard-NS); semi-hard-NS avoids it."
    return (
        f"WARNING: the features have collapsed under {criterion.sampling}: the loss sits at twice the margin "
        f"({loss:.4f}) and all scores are equal (standard deviation {spread:.1e}), so retrieval is at chance. {advice}"
    )


class _LogFile(logging.FileHandler):
    """A log that stops the run where it cannot be written, as every other output does."""

    def handleError(self, record: logging.LogRecord) -> NoReturn:
        raise UserError(f"{self.baseFilename}: could not be written; is the disk full?") from None


def _logger(path: Path) -> logging.Logger:
    """A logger to the terminal and to a file; of several processes the first has the file."""
    logger = logging.getLogger(str(path))
    logger.setLevel(logging.INFO)
    handlers = [logging.StreamHandler(sys.stdout)]
    if rank() == 0:
        handlers.append(_LogFile(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    return logger
