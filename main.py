"""Train a model on the configured data. Writes checkpoints and metrics into a trial directory."""

import argparse

from utils.common.counts import counted
from utils.common.errors import begin_command, run_command
from utils.conf.command import command_parser, conf_unless, parse_command, path_argument


def read_command() -> tuple[argparse.Namespace, "Conf | None"]:
    """The arguments, and the configuration of a new trial or sweep."""
    parser = command_parser(__doc__)
    parser.add_argument("--resume", type=path_argument, metavar="DIR", help="trial to resume, or with --sweep a sweep")
    grid = "train, score and compare a trial at every point of the grid in sweep_conf"
    parser.add_argument("--sweep", action="store_true", help=grid)
    args = parse_command(parser)
    return args, conf_unless(args, "resume")


if __name__ == "__main__":
    begin_command(read_command)

import shlex
import time
from functools import partial
from pathlib import Path

import torch

from utils.common.io import progress
from utils.common.processes import (
    broadcast_weights,
    describe,
    on_rank_zero,
    pick_device,
    process_group,
    require_one_process,
    require_pair_each,
)
from utils.common.steps import TRAINING
from utils.conf.schema import Conf
from utils.criterion_utils import TripletLoss
from utils.data_utils import batches
from utils.device_utils import Diverged
from utils.evaluation_utils import evaluate
from utils.model_utils import build_state, seed_epoch, train_epoch
from utils.sweep.points import create_sweep, resume_sweep
from utils.sweep.run import run_sweep
from utils.trial.directory import create_trial, resume_trial, training_lock
from utils.trial.history import has_settled
from utils.trial.identity import training_of
from utils.trial.record import TrialRecord, require_tensorboard
from utils.trial.start import TrainingData, load_start, load_training_data
from utils.trial.trial import Trial


@process_group()
def main() -> None:
    args, conf = read_command()
    if args.sweep:
        require_one_process("--sweep")
        sweep = resume_sweep(args.resume, args.overrides) if args.resume else create_sweep(conf)
        run_sweep(sweep, train)
    elif args.resume:
        train_trial(resume_trial(args.resume, args.overrides).conf, args.resume)
    else:
        train_trial(conf)


def train_trial(conf: Conf, path: Path | None = None) -> None:
    """Train a trial: the one to resume at `path`, or a new one."""
    if conf.log_tensorboard:
        require_tensorboard()
    require_pair_each(conf.param_conf.batch_size)
    data = load_training_data(conf)
    path = path or on_rank_zero(partial(create_trial, conf, data.files))
    try:
        with training_lock(path):
            train(Trial(path, conf), data)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; to resume: python {TRAINING} --resume {shlex.quote(str(path))}") from None


def train(trial: Trial, data: TrainingData) -> None:
    """Run the epochs that are missing from the trial's record; epoch 0 only evaluates."""
    conf, params = trial.conf, trial.conf.param_conf
    torch.manual_seed(params.seed)
    state = build_state(conf, data.vectors, pick_device(), data.train.captions, data.train.width)
    metrics = {name: TripletLoss(**settings.model_dump()) for name, settings in conf.metrics.items()}
    loader = batches(data.train, params.batch_size, shuffle=True)
    record = TrialRecord(trial, data.words)
    record.restore(state.checkpointables)
    if params.start_from and not record.history:
        record.log(load_start(state, conf, training_of(trial.path).sources))
    record.begin_run(state.device)
    broadcast_weights(state.model)
    sizes = f"{counted(len(data.train.captions), 'pair')}, {counted(len(loader), 'batch')} an epoch"
    record.log(f"{trial}: {sizes}, on {describe(state.device)}")

    for epoch in range(len(record.history), params.num_epoch + 1):
        if has_settled(record.history, conf):
            record.log("the validation objective has settled: stopped")
            break
        start = time.perf_counter()
        draws = seed_epoch(params.seed, epoch)
        results = {"epoch": epoch, "lr": state.optimizer.param_groups[0]["lr"]}
        try:
            if epoch > 0:
                results |= train_epoch(state, progress(loader, f"epoch {epoch}", total=len(loader)), draws)
            if state.average:
                state.average.add(state.model, epoch)
            results |= evaluate(state, data.val, metrics, params.batch_size)
        except Diverged as error:
            record.stop_at(epoch, error, [data.train.fids[clip] for clip in error.clips])
        state.scheduler.step(results["val_obj"])
        record.add(results, time.perf_counter() - start, state.checkpointables)
    record.close()


if __name__ == "__main__":
    run_command(main)
