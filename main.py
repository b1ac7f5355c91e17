"""Train a model: configuration -> data -> model -> epochs -> checkpoints in a trial directory."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from utils.conf_utils import DEFAULT_CONF, Conf, command_parser, load_conf, parse_command, refuse_conf_beside
from utils.criterion_utils import TripletLoss
from utils.data_utils import Split, batches, load_split
from utils.distributed_utils import (
    by_first,
    describe,
    process_group,
    require_one_process,
    require_pair_each,
    start_alike,
    training_device,
)
from utils.embed_utils import load_embeddings
from utils.index_utils import DatasetPaths
from utils.io_utils import progress, run_command
from utils.model_utils import (
    NonFiniteStep,
    PlateauStopper,
    build_criterion,
    build_model,
    build_optimizer,
    evaluate,
    prepare_model,
    seed_epoch,
    train_epoch,
)
from utils.provenance_utils import check_steps
from utils.step_utils import PREPROCESSING
from utils.sweep_utils import create_sweep, resume_sweep, run_sweep
from utils.tensorboard_utils import require_tensorboard
from utils.trial_utils import TrialRecord, create_trial, resume_conf


@process_group()
def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--resume", type=Path, metavar="TRIAL_DIR", help="go on with a trial, by its own configuration")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="train, score and compare a trial at every point of sweep_conf; --resume SWEEP_DIR goes on with a sweep",
    )
    args = parse_command(parser)
    refuse_conf_beside(args, "resume")
    if args.sweep:
        require_one_process("--sweep")
    if args.resume:
        conf = (resume_sweep if args.sweep else resume_conf)(args.resume, args.overrides)
    else:
        conf = load_conf(args.conf or DEFAULT_CONF, args.overrides)
    if args.sweep:
        run_sweep(args.resume or create_sweep(conf), run_trial)
    else:
        run_trial(conf, lambda: args.resume or create_trial(conf))


def run_trial(conf: Conf, open_trial: Callable[[], Path]) -> None:
    """Train by a configuration, in the directory that `open_trial` gives once configuration and data have been read."""
    if conf.log_tensorboard:
        require_tensorboard()
    require_pair_each(conf.param_conf.batch_size)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, *PREPROCESSING)
    words, vectors = load_embeddings(paths.word_embeds, conf.CRNNWordModel.audio_enc.out_dim)
    train_split, val_split = (
        load_split(paths, split, words, conf.audio_logmel.recipe, conf.data_conf.cache, needs_negatives=True)
        for split in (conf.data_conf.train_data, conf.data_conf.val_data)
    )
    torch.manual_seed(conf.param_conf.seed)
    model = build_model(conf, vectors)
    record = TrialRecord(by_first(open_trial), conf, words)
    train(conf, model, train_split, val_split, record)


def train(conf: Conf, model: torch.nn.Module, train_split: Split, val_split: Split, record: TrialRecord) -> None:
    """Run the epochs that the record does not hold yet; epoch 0 only evaluates."""
    params = conf.param_conf
    device = training_device()
    prepare_model(conf, model, device)
    criterion = build_criterion(conf).to(device)
    optimizer, scheduler = build_optimizer(conf, model, criterion)
    parts = {"model": model, "criterion": criterion, "optimizer": optimizer, "scheduler": scheduler}
    metrics = {name: TripletLoss(**settings.model_dump()) for name, settings in conf.metrics.items()}
    stopper = PlateauStopper(**conf.TrialPlateauStopper.model_dump())
    loader = batches(train_split, params.batch_size, shuffle=True)
    record.restore(parts)
    record.begin_run(device)
    start_alike(model)
    record.say(
        f"{record.trial}: {len(train_split.captions)} pairs, {len(loader)} batches an epoch, on {describe(device)}"
    )

    for epoch in range(len(record.history), params.num_epoch + 1):
        if stopper.should_stop([results["val_obj"] for results in record.history]):
            record.say("the validation objective has settled: stopped")
            break
        started = time.perf_counter()
        draws = seed_epoch(params.seed, epoch)
        results = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
        if epoch > 0:
            steps = progress(loader, f"epoch {epoch}", total=len(loader))
            try:
                results |= train_epoch(model, steps, criterion, optimizer, device, params.precision, draws)
            except NonFiniteStep as step:
                record.stop_at(epoch, step, [train_split.fids[clip] for clip in step.clips])
        results |= by_first(lambda: evaluate(model, val_split, criterion, metrics, params.batch_size, device))
        scheduler.step(results["val_obj"])
        record.add(results, time.perf_counter() - started, parts)
    record.close()


if __name__ == "__main__":
    run_command(main)
