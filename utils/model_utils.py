"""Training: the model with what trains it, a step, an epoch, and when to stop."""

import math
import shutil
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models.audio_encoders import TIME_POOLING, CRNNEncoder, send
from models.core import CRNNWordModel
from utils.common.errors import UserError
from utils.common.memory import free_memory, keep_freed_memory
from utils.common.processes import (
    all_reduce_gradients,
    all_reduce_sum,
    gather_rows,
    rank,
    seeded_apart,
    shard,
    world_size,
)
from utils.common.steps import INDEXING
from utils.criterion_utils import CRITERIA, LossTerms, negative_mask
from utils.data_utils import Batch, Split
from utils.dataset.paths import DatasetPaths
from utils.device_utils import Draws, FiniteSteps
from utils.negative_utils import pick_statistics
from utils.score_utils import AT_ONCE, BatchScores, batch_scores, self_step_score_matrix

if TYPE_CHECKING:
    from utils.conf.schema import Conf

# How many times over a step holds its images and similarities, gradients and the heap's gaps among them: fitted to 22
# peaks of resident memory on a CPU, from 8 x 500 to 2 x 20000 frames, 10 to 1280 words, in either precision
IMAGE_COPIES, WORD_COPIES, PAIR_COPIES = 2.1, 6.5, 2
OFF_BY = 1.26  # at the most, there
# torch.compile's mode "reduce-overhead": it records a CUDA graph for each padded length that it meets, and replays it
# without launching kernels one by one; without the warning that there are many lengths
CUDA_GRAPHS = {"options": {"triton.cudagraphs": True, "triton.cudagraph_dynamic_shape_warn_limit": None}}


@dataclass
class TrainState:
    """A model with what trains it."""

    model: CRNNWordModel
    criterion: nn.Module  # one of utils.criterion_utils.CRITERIA
    optimizer: torch.optim.Optimizer
    scheduler: ReduceLROnPlateau
    device: torch.device
    precision: str = "float32"  # of the encoder: float32 | bfloat16
    mask_words: bool = False  # scores average over each caption's own words, not over the batch's padded length
    mask_frames: bool = False  # the same for a clip's frames

    def __post_init__(self):
        self.finite = FiniteSteps(self.optimizer, self.device)

    @property
    def parts(self) -> dict[str, object]:
        """What a checkpoint keeps the state of, by name."""
        names = ("model", "criterion", "optimizer", "scheduler")
        return {name: getattr(self, name) for name in names}


def build_state(conf: "Conf", word_vectors: np.ndarray, device: torch.device) -> TrainState:
    """The configured model around the word vectors (V, E), its objective and its optimiser, on a device.

    Weights are drawn from torch's generator.
    """
    params = conf.param_conf
    model = build_model(conf, word_vectors)
    prepare_model(conf, model, device)
    criterion = CRITERIA[params.criterion](**getattr(conf.criteria, params.criterion).model_dump()).to(device)
    optimizer, scheduler = build_optimizer(conf, model, criterion)
    return TrainState(model, criterion, optimizer, scheduler, device, params.precision, **conf.score.model_dump())


def require_memory(conf: "Conf", dim: int, split: Split, device: torch.device) -> float:
    """Say, and return, what bytes a step by the split's longest batch will need, estimated, and which clip it is as
    long as.

    Several ranks share the memory of a CPU; each has a GPU's for its shard alone.

    Raises UserError where that is more than is free, and by more than an estimate is off.
    """
    from utils.dataset.index import read_table  # with pandas, which training itself does without

    pairs, clip = min(conf.param_conf.batch_size, len(split.captions)), int(np.argmax(split.frames))
    share, free = pairs, free_memory()
    if device.type == "cuda":
        share, free = math.ceil(pairs / world_size()), torch.cuda.mem_get_info(device)[0]
    frames, words = split.frames[clip], pairs * max(map(len, split.captions))
    name, paths, fid = conf.data_conf.train_data, DatasetPaths(conf.data_conf.dataset), split.fids[clip]
    table = read_table(paths.text(name), ["fid", "file_name"], INDEXING)
    file_name = table.loc[table["fid"] == fid, "file_name"].iloc[0]
    need = step_memory(conf, dim, share, frames, words)
    batch = f"the longest batch, {share} clips x {frames} frames (as clip {fid}, {file_name!r}, has)"
    sizes = f"about {need / 1e9:.2f} GB of the {free / 1e9:.2f} GB of memory that are free"
    if need > OFF_BY * free:
        raise UserError(
            f"{name}: {batch}, needs {sizes}; shorten that clip or leave it out, or lower param_conf.batch_size"
        )
    print(f"{name}: {batch}, needs {sizes}")
    return need


@torch.no_grad()
def step_memory(conf: "Conf", dim: int, clips: int, frames: int, words: int) -> float:
    """Bytes that a training step takes, within a quarter of what it took where it was measured.

    They are those of the CNN's images, whose sizes its layers tell, of the similarities of frames with words, and of
    frames with frames where a strategy compares clips.

    Args:
        dim: E, the embedding dimension.
        clips, frames: of the padded batch, or of a rank's shard.
        words: of all the batch's captions, padded.
    """
    encoder, images = CRNNEncoder(conf.audio_logmel.n_mels, dim).eval(), 0
    x = torch.zeros(1, 1, TIME_POOLING, conf.audio_logmel.n_mels)
    with torch.autocast("cpu", torch.bfloat16, enabled=conf.param_conf.precision == "bfloat16"):
        for layer in encoder.cnn:
            before, x = x, layer(x)
            images += x.nbytes if x.data_ptr() != before.data_ptr() else 0
    of_frame = IMAGE_COPIES * images / TIME_POOLING + WORD_COPIES * 4 * words
    compares = conf.param_conf.criterion == "TripletLoss" and conf.criteria.TripletLoss.sampling.endswith("audio-NS")
    return clips * frames * of_frame + compares * PAIR_COPIES * 4 * min(frames**2, AT_ONCE)


def build_model(conf: "Conf", word_vectors: np.ndarray) -> CRNNWordModel:
    """The configured model around the word vectors (V, E)."""
    trainable = conf.CRNNWordModel.text_enc.trainable
    return CRNNWordModel(conf.audio_logmel.n_mels, word_vectors.shape[1], torch.from_numpy(word_vectors), trainable)


def prepare_model(conf: "Conf", model: CRNNWordModel, device: torch.device) -> None:
    """Move the model to its device, and set up what makes it fast there, as far as the configuration allows."""
    model.to(device)
    if device.type == "cpu":
        keep_freed_memory()
    elif world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place: the parameters and the state dict's keys stay
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = conf.param_conf.tf32
    if conf.param_conf.compile:
        if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise UserError("param_conf.compile: true needs a C++ compiler; install one, or set it to false")
        options = CUDA_GRAPHS if device.type == "cuda" else {}
        model.audio_enc.cnn.compile(dynamic=True, **options)  # in place: the state dict's keys stay


def build_optimizer(conf: "Conf", *modules: nn.Module) -> tuple[torch.optim.Adam, ReduceLROnPlateau]:
    """Adam over the modules' trainable parameters, and its learning-rate schedule on the validation objective."""
    trainable = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trainable, **conf.AdamOptimizer.model_dump(), fused=trainable[0].is_cuda)
    schedule = conf.ReduceLROnPlateau.model_dump()
    return optimizer, ReduceLROnPlateau(optimizer, mode="min", threshold_mode="abs", **schedule)


def seed_epoch(seed: int, epoch: int) -> torch.Generator:
    """Make an epoch's shuffling, dropout and random negatives a function of (seed, epoch) alone.

    So a resumed run needs no generator's state to go on exactly as it would have. Shuffling and dropout draw from
    torch's generator, negatives from the one returned: they do not depend on how processes share the dropout.
    """
    order, negatives = np.random.SeedSequence([seed, epoch]).generate_state(2)
    torch.manual_seed(int(order))
    return torch.Generator().manual_seed(int(negatives))


def train_step(
    state: TrainState, batch: Batch, negatives: Tensor, generator: torch.Generator | Tensor | None = None
) -> LossTerms:
    """One update by one batch of N pairs; what comes of its loss stays on the device, without gradient.

    Several ranks take the same step together.

    Args:
        negatives: (N, N) of `negative_mask`.
        generator: of random negatives, or their draws (2, N, N); None is torch's own.

    Raises:
        Diverged: before the update; on CUDA some steps later, none of which has changed anything: see `FiniteSteps`.
    """
    batch = batch.to(state.device)
    with torch.autocast(state.device.type, torch.bfloat16, enabled=state.precision == "bfloat16"):
        steps = state.model.audio_steps(batch.audio)
    scores = step_scores(state, batch, steps.to(batch.audio.dtype))  # under autocast steps are bfloat16
    terms = state.criterion(scores, send(negatives, state.device), generator)
    state.optimizer.zero_grad(set_to_none=True)
    terms.loss.backward()
    all_reduce_gradients(state.model.parameters())  # the criterion's are whole on every rank already
    gradients = [weight.grad for group in state.optimizer.param_groups for weight in group["params"]]
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    state.finite.add(terms.loss, norm, batch.clips)
    state.optimizer.step()
    return terms._replace(loss=terms.loss.detach())


def step_scores(state: TrainState, batch: Batch, steps: Tensor) -> BatchScores:
    """The scores of a batch of N pairs, from the steps (n, L, E) of this rank's shard of its clips.

    Every rank gets them all, with that part of the gradient that goes through its own steps.
    """
    pairs, frames = len(batch.text), batch.audio.shape[1]
    audio_lens = batch.audio_lens if state.mask_frames else None
    text_lens = batch.text_lens if state.mask_words else None
    own_lens = None if audio_lens is None else audio_lens[shard(pairs)]
    scores = batch_scores(steps, frames, state.model.text_branch(batch.text), own_lens, text_lens)
    if world_size() == 1:
        return scores

    def audio_audio() -> Tensor:
        own_rows = range(rank(), pairs, world_size())  # of a triangle: every so many, for equal work
        everyones = gather_rows(steps.detach(), pairs)
        return all_reduce_sum(self_step_score_matrix(everyones, frames, audio_lens, own_rows))

    return scores._replace(audio_text=gather_rows(scores.audio_text, pairs), audio_audio=audio_audio)


def train_epoch(
    state: TrainState, batches: Iterable[Batch], generator: torch.Generator | None = None
) -> dict[str, float]:
    """One pass over the batches; batches without any negative are skipped.

    Returns the mean over batches of the loss, of the share of active triplets and of the `pick_statistics`, which a
    loss without a strategy has not. What was picked stays on the device until the end of the epoch.
    """
    state.model.train()
    draws, terms = Draws(generator, state.device) if state.device.type == "cuda" else None, []
    for batch in seeded_apart(batches):
        negatives = negative_mask(batch.clips)
        if negatives.any():
            drawn = draws.take(2, *negatives.shape) if draws else generator
            terms.append(train_step(state, batch, negatives, drawn))
    state.finite.read()
    if not terms:
        return {"train_loss": 0.0, "active": 0.0}
    return {
        "train_loss": torch.stack([term.loss for term in terms]).mean().item(),
        "active": torch.stack([term.active for term in terms]).mean().item(),
        **pick_statistics([term.picked for term in terms if term.picked is not None]),
    }


class PlateauStopper:
    """Stop once the last `num_results` validation objectives hardly differ: population standard deviation below `std`.

    Args:
        std, num_results: see above.
        grace_period: results before the first look.

    Source: Ray Tune's TrialPlateauStopper, which the published code uses.
    """

    def __init__(self, std: float, num_results: int, grace_period: int):
        self.std, self.num_results, self.grace_period = std, num_results, grace_period

    def should_stop(self, objectives: list[float]) -> bool:
        """Whether to stop after the epochs with these objectives."""
        if len(objectives) < max(self.grace_period, self.num_results):
            return False
        return statistics.pstdev(objectives[-self.num_results :]) < self.std
