"""The record of a run, written while it trains."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from utils.common.errors import UserError
from utils.common.io import atomic_write, written
from utils.common.processes import on_rank_zero, rank, world_size
from utils.common.steps import TRAINING
from utils.conf.load import save_conf
from utils.device_utils import Diverged
from utils.trial.checkpoint import check_states, checkpoint_bytes, first_line, load_checkpoint
from utils.trial.checks import check_data
from utils.trial.history import History, as_lines, best_of, collapse_warning, epoch_line, is_finished
from utils.trial.identity import identity, mark_diverged, training_of
from utils.trial.names import BEST, CONF, LAST, LOG, METRICS
from utils.trial.provenance import record, versions
from utils.trial.trial import Trial


class TrialRecord:
    """The record of a run in a trial directory: checkpoints, metrics.jsonl, train.log and TensorBoard events.

    Rank zero writes them; on the other ranks the record holds the history alone.

    Args:
        trial: where its directory holds a checkpoint, the record goes on from there.
        words: the vocabulary, id 0 the padding.
    """

    def __init__(self, trial: Trial, words: list[str]):
        self.trial, self.words = trial, words
        self.path, self.conf = trial.path, trial.conf
        self.identity, last = identity(self.path), self.path / LAST
        self.checkpoint = load_checkpoint(last, self.identity) if last.exists() else None
        self.history: History = self.checkpoint["history"] if self.checkpoint else []
        self.events = None  # TensorBoard's SummaryWriter, on rank zero where log_tensorboard asks for it

    @property
    def best(self) -> dict[str, float]:
        """The results of the best epoch."""
        return best_of(self.history, self.conf)

    def restore(self, checkpointables: dict[str, Any]) -> None:
        """Load the states that the last checkpoint keeps, if there is one, into objects by name.

        Raises UserError where the data or the checkpoint are of another run; the trial directory is then unchanged.
        """
        check_data(self.trial, TRAINING)
        if self.history:
            self._require_fit()
        if self.checkpoint is not None:
            self._load(checkpointables)
        if rank() > 0:
            return
        log = self.path / LOG
        if log.is_symlink() or (log.exists() and not log.is_file()):  # it is appended to; the other files are replaced
            raise UserError(f"{log}: is a link or no file; lines are not added to it: remove it")
        path = self.path / CONF
        before = path.stat() if is_finished(self.history, self.conf) else None
        save_conf(self.conf, path)
        if before:  # its time says which trial is the newest: a finished trial keeps the time
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if self.history:  # a kill may have come between the last checkpoint and what follows it
            self._write_metrics()
            if self.best is self.history[-1]:
                with atomic_write(self.path / BEST) as temporary:
                    shutil.copyfile(self.path / LAST, temporary)
        if self.conf.log_tensorboard:
            self.events = event_writer(self.path, self.history, self.identity)

    def _require_fit(self) -> None:
        """Raise UserError where fewer epochs are asked for than are trained, or the best checkpoint is gone.

        Where the best epoch is the last, its checkpoint is restored from the last.
        """
        asked, trained = self.conf.param_conf.num_epoch, self.history[-1]["epoch"]
        if asked < trained:
            raise UserError(f"{self.trial}: param_conf.num_epoch is {asked}, but {trained} are trained; ask for those")
        if self.best is self.history[-1]:
            return
        path, epoch = self.path / BEST, self.best["epoch"]
        if not path.exists():
            what = f"is gone, and {LAST} is of epoch {trained}, not of the best, {epoch}"
            raise UserError(f"{path}: {what}; put it back, or start a new trial")
        if (found := load_checkpoint(path, self.identity)["epoch"]) != epoch:
            raise UserError(f"{path}: of epoch {found}, but the best is {epoch}; put that back, or start a new trial")

    def _load(self, checkpointables: dict[str, Any]) -> None:
        if self.checkpoint["words"] != self.words:
            raise UserError(f"{self.trial}: the vocabulary is not the one that the trial began with; start a new trial")
        try:
            check_states(self.checkpoint, checkpointables["optimizer"], checkpointables["scheduler"])
            groups = self.checkpoint["optimizer"]["param_groups"]
            for group, current in zip(groups, checkpointables["optimizer"].param_groups, strict=True):
                group["fused"] = current["fused"]  # depends on the device; torch puts the step counters by it
            for name, stateful in checkpointables.items():
                stateful.load_state_dict(self.checkpoint.get(name, {}))  # earlier checkpoints lack the score
        except Exception as error:  # torch raises many types
            raise UserError(f"{self.path / LAST}: does not fit this trial ({first_line(error)})") from None
        self.checkpoint = None  # frees a second copy of the model and the optimizer

    def begin_run(self, device: torch.device) -> None:
        """Record this run's machine and versions in the trial's provenance."""
        if rank() > 0:
            return
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        run = {"first_epoch": len(self.history), "device": name, "processes": world_size()}
        run |= {"threads": torch.get_num_threads()} | versions()
        entry = training_of(self.path)
        record(self.path, TRAINING, entry.model_copy(update={"runs": [*entry.runs, run]}))

    def stop_at(self, epoch: int, error: Diverged, fids: list[str]) -> NoReturn:
        """Record in provenance.json and train.log that the trial diverged on these clips; raise UserError."""
        batch = f"; the batch's clips are {' '.join(dict.fromkeys(fids))}" if fids else ""
        how = f"diverged in epoch {epoch}: {error}"
        good = f"{LAST} holds epoch {epoch - 1}" if self.history else "there is no checkpoint yet"
        mark = partial(mark_diverged, self.path, how)
        if fids:  # in a step, which all ranks take
            on_rank_zero(mark)
        elif rank() == 0:
            mark()
        self.log(f"{how}{batch}")
        raise UserError(
            f"{self.trial}: {how}{batch}; {good}; start a new trial with a lower AdamOptimizer.lr, or look at "
            "these clips"
        )

    def add(self, results: dict[str, float], seconds: float, checkpointables: dict[str, Any]) -> None:
        """Save an epoch's results and states. The epoch counts once the last checkpoint is written.

        The seconds go to the log alone, so that all other files are the same in every run.
        """
        self.history.append(results)
        if rank() > 0:
            return
        checkpoint = {
            **{name: stateful.state_dict() for name, stateful in checkpointables.items()},
            "words": self.words,
            "history": self.history,  # for the stopper and the choice of the best epoch
            "epoch": results["epoch"],  # with the seed, the state of every generator: see seed_epoch
            "best": self.best,
            "conf": self.conf.model_dump(),
            "trial": self.identity,
        }
        improved, content = self.best is results, checkpoint_bytes(checkpoint)
        for name in (LAST, BEST) if improved else (LAST,):
            with atomic_write(self.path / name) as temporary:
                temporary.write_bytes(content)
        mark_diverged(self.path, None)  # resumed, perhaps on another machine
        self._write_metrics()
        if self.events:
            write_events(self.events, results)
        self.log(f"{epoch_line(results)}  {seconds:.1f} s{' *' if improved else ''}")
        if warning := collapse_warning(results, self.conf):
            self.log(warning)

    def _write_metrics(self) -> None:
        with atomic_write(self.path / METRICS) as temporary:
            temporary.write_text(as_lines(self.history), encoding="utf-8")

    def log(self, line: str) -> None:
        """Print a line and append it to train.log."""
        print(line, flush=True)
        if rank() == 0:
            with written(self.path / LOG), (self.path / LOG).open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")

    def close(self) -> None:
        """Log the best epoch, and close the event file."""
        best, params = self.best, self.conf.param_conf
        self.log(f"best epoch by {params.select_by}: {best['epoch']} -> {self.path / BEST}")
        if self.events:
            self.events.close()


def require_tensorboard() -> None:
    """Raise UserError unless TensorBoard is installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"log_tensorboard is true, but TensorBoard cannot be imported ({error}): "
            "pip install tensorboard==2.20.0, or set it to false"
        ) from None


def event_writer(trial: Path, history: History, identity: str):
    """A SummaryWriter of the trial's event file, which gets what metrics.jsonl has.

    The names of a trial's event files end with its identity. Those of its earlier runs, and no others, are replaced.
    """
    from torch.utils.tensorboard import SummaryWriter  # an optional requirement

    suffix = f".{identity}"
    for old in trial.glob(f"events.out.tfevents.*{suffix}"):
        old.unlink()
    writer = SummaryWriter(str(trial), filename_suffix=suffix)
    for results in history:
        write_events(writer, results)
    return writer


def write_events(writer, results: dict[str, float]) -> None:
    """Write an epoch's results at once."""
    for name, value in results.items():
        if name != "epoch":
            writer.add_scalar(name, value, global_step=results["epoch"])
    writer.flush()
