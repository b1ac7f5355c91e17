"""Training: the state (model, score, criterion, optimiser), a step, an epoch, and the stopper."""

import shutil
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models.audio_encoders import CRNNEncoder, FeatureEncoder
from models.core import CRNNWordModel
from models.tensors import to_device
from models.text_encoders import WordEncoder
from utils.common.errors import UserError
from utils.common.memory import keep_freed_memory
from utils.common.processes import (
    all_reduce_gradients,
    all_reduce_sum,
    gather_rows,
    rank,
    seeded_apart,
    shard,
    world_size,
)
from utils.conf.schema import Conf
from utils.criterion_utils import CRITERIA, LossTerms, negative_mask
from utils.device_utils import Draws, FiniteSteps
from utils.negative_utils import pick_statistics
from utils.score_utils import Batch, BatchScores, Score, configured_score
from utils.swa_utils import WeightAverage

# torch.compile's mode "reduce-overhead": it records a CUDA graph for each padded length that it meets, and replays it
# without launching kernels one by one; without the warning that there are many lengths
CUDA_GRAPHS = {"options": {"triton.cudagraphs": True, "triton.cudagraph_dynamic_shape_warn_limit": None}}


@dataclass
class TrainState:
    """A model, its score and criterion, and what updates them."""

    model: CRNNWordModel
    criterion: nn.Module  # one of utils.criterion_utils.CRITERIA
    optimizer: torch.optim.Optimizer
    scheduler: ReduceLROnPlateau
    device: torch.device
    precision: str = "float32"  # of the encoder: float32 | bfloat16
    score: Score = field(default_factory=Score)
    average: WeightAverage | None = None

    def __post_init__(self):
        self.finite = FiniteSteps(self.optimizer, self.device)

    @property
    def evaluated(self) -> CRNNWordModel:
        """The model that is evaluated and saved: the trained one, or its weight average."""
        return self.model if self.average is None else self.average.module

    @property
    def checkpointables(self) -> dict[str, object]:
        """The objects whose state a checkpoint keeps, by name."""
        names = ("score", "criterion", "optimizer", "scheduler")
        trained = {} if self.average is None else {"trained": self.model}
        return {"model": self.evaluated} | {name: getattr(self, name) for name in names} | trained


def build_state(
    conf: Conf,
    word_vectors: np.ndarray,
    device: torch.device,
    captions: Iterable[Tensor] = (),
    in_dim: int | None = None,
) -> TrainState:
    """Build the configured model around the word vectors (V, W), its score, criterion and optimiser, on a device.

    `captions`, the training split's word ids, set the idf of a score that weighs words by it. `in_dim` is the dimension
    of the features; None: log-mels. Weights are drawn from torch's generator.
    """
    params = conf.param_conf
    model = build_model(conf, word_vectors, in_dim)
    prepare_model(conf, model, device)
    criterion = build_criterion(conf).to(device)
    score = configured_score(conf.score.model_dump(), len(word_vectors))
    score.count_words(captions)
    optimizer, scheduler = build_optimizer(conf, model, criterion, score.to(device))
    average = None if params.average_from is None else WeightAverage(model, params.average_from)
    return TrainState(model, criterion, optimizer, scheduler, device, params.precision, score, average)


def build_model(conf: Conf, word_vectors: np.ndarray, in_dim: int | None = None) -> CRNNWordModel:
    """The configured model around the word vectors (V, W), on features of `in_dim` dimensions, or on log-mels."""
    audio, text, words = conf.CRNNWordModel.audio_enc, conf.CRNNWordModel.text_enc, torch.from_numpy(word_vectors)
    out_dim = encoder_dim(conf, words.shape[1], in_dim)
    if audio.name == "features":
        encoder = FeatureEncoder(out_dim, audio.dropout)
    else:
        encoder = CRNNEncoder(conf.audio_logmel.n_mels, out_dim, audio.dropout)
    return CRNNWordModel(encoder, WordEncoder(words, text.trainable), audio.projection, text.projection)


def encoder_dim(conf: Conf, words: int, in_dim: int | None) -> int:
    """The dimension of the audio encoder's outputs, for word vectors of `words` dimensions and features of `in_dim`.

    Raises UserError where clips and captions would be of different dimensions, or nothing would be trained.
    """
    audio, text = conf.CRNNWordModel.audio_enc, conf.CRNNWordModel.text_enc
    text_dim, why = text.projection or words, None
    one_number = "set audio_enc.projection and text_enc.projection to one number"
    out_dim = in_dim if audio.name == "features" else audio.out_dim or (words if audio.projection else text_dim)
    audio_dim = audio.projection or out_dim
    if audio.name == "features" and not (audio.projection or text.projection or text.trainable):
        why = f"nothing would be trained, as audio_enc.name is features; {one_number}"
    elif audio.name == "crnn" and out_dim % 2:
        todo = "set audio_enc.out_dim or text_enc.projection to an even number"
        why = f"the CRNN's two directions cannot share {out_dim} dimensions; {todo}"
    elif audio_dim != text_dim:
        why = f"clips would have {audio_dim} dimensions but captions {text_dim}; {one_number}"
    if why:
        raise UserError(f"CRNNWordModel: {why}")
    return out_dim


def build_criterion(conf: Conf) -> nn.Module:
    """The configured training loss."""
    name = conf.param_conf.criterion
    return CRITERIA[name](**getattr(conf.criteria, name).model_dump())


def prepare_model(conf: Conf, model: CRNNWordModel, device: torch.device) -> None:
    """Move the model to its device, and set the configured options that make it fast there."""
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


def build_optimizer(conf: Conf, *modules: nn.Module) -> tuple[torch.optim.Adam, ReduceLROnPlateau]:
    """Adam over the modules' trainable parameters, and its learning-rate schedule on the validation objective."""
    trainable = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    settings = conf.AdamOptimizer.model_dump()
    settings["decoupled_weight_decay"] &= settings["weight_decay"] > 0  # else it plays no part: it may change
    fused = trainable[0].is_cuda or conf.data_conf.audio == "features"  # on a CPU it rounds otherwise than published
    optimizer = torch.optim.Adam(trainable, **settings, fused=fused)
    schedule = conf.ReduceLROnPlateau.model_dump()
    return optimizer, ReduceLROnPlateau(optimizer, mode="min", threshold_mode="abs", **schedule)


def seed_epoch(seed: int, epoch: int) -> torch.Generator:
    """Make an epoch's shuffling, dropout and random negatives a function of (seed, epoch) alone.

    A resumed run therefore continues exactly, without stored generator states. Shuffling and dropout draw from torch's
    generator. Random negatives draw from the returned one, so they do not depend on how processes share the dropout.
    """
    order, draws = np.random.SeedSequence([seed, epoch]).generate_state(2)
    torch.manual_seed(int(order))
    return torch.Generator().manual_seed(int(draws))


def train_step(state: TrainState, batch: Batch, negatives: Tensor, draws: Draws | None = None) -> LossTerms:
    """Update the model with one batch of N pairs; the returned terms stay on the device, without gradient.

    Several ranks take the same step together. The draws of random negatives are the same on every rank; None: torch's
    own generator. `negatives` are (N, N) of `negative_mask`.

    Raises Diverged before the update; on CUDA some steps later, which have not changed anything: see `FiniteSteps`.
    """
    batch, draws = batch.to(state.device), draws or Draws(None, state.device)
    own_clips = batch._replace(audio_lens=batch.audio_lens[shard(len(batch.text))])
    with torch.autocast(state.device.type, torch.bfloat16, enabled=state.precision == "bfloat16"):
        encoded = state.score.encode_audio(state.model, batch.audio, state.score.training_lengths(own_clips))
    encoded = encoded.to(batch.audio.dtype)  # (N, L, E), bfloat16 under autocast; of several ranks, this one's shard
    words = state.score.encode_text(state.model, batch)
    scores = state.score(encoded, words, own_clips)
    if world_size() > 1:
        scores = gather_scores(state, scores, encoded, batch)
    terms = state.criterion(scores, to_device(negatives, state.device), draws.take(2, *negatives.shape))
    state.optimizer.zero_grad(set_to_none=True)
    terms.loss.backward()
    # the criterion's gradients are complete on every rank
    all_reduce_gradients([*state.model.parameters(), *state.score.parameters()])
    gradients = [weight.grad for group in state.optimizer.param_groups for weight in group["params"]]
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    state.finite.add(terms.loss, norm, batch.clips)
    state.optimizer.step()
    return terms._replace(loss=terms.loss.detach())


def gather_scores(state: TrainState, scores: BatchScores, encoded: Tensor, batch: Batch) -> BatchScores:
    """Gather the scores of all N pairs of a batch from the ranks, each of which scored its shard of the clips.

    On every rank the gradient flows through its own outputs `encoded` (n, L, E) alone.
    """
    pairs = len(batch.text)

    def audio_audio() -> Tensor:
        anchors = range(rank(), pairs, world_size())  # interleaved: rows of a triangle differ in length
        return all_reduce_sum(state.score.audio_audio(gather_rows(encoded.detach(), pairs), batch, anchors))

    return scores._replace(audio_text=gather_rows(scores.audio_text, pairs), audio_audio=audio_audio)


def train_epoch(
    state: TrainState, batches: Iterable[Batch], generator: torch.Generator | None = None
) -> dict[str, float]:
    """Train on the batches once; batches without any negative are skipped.

    Returns the means over batches of the loss, of the share of active triplets and, for a loss with a sampling
    strategy, of `pick_statistics`. The picks stay on the device until the end of the epoch.
    """
    state.model.train()
    draws, terms = Draws(generator, state.device), []
    for batch in seeded_apart(batches):
        negatives = negative_mask(batch.clips)
        if negatives.any():
            terms.append(train_step(state, batch, negatives, draws))
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

    The first check comes after `grace_period` results.
    Source: Ray Tune's TrialPlateauStopper, which the published code uses.
    """

    def __init__(self, std: float, num_results: int, grace_period: int):
        self.std, self.num_results, self.grace_period = std, num_results, grace_period

    def should_stop(self, objectives: list[float]) -> bool:
        """Whether to stop after epochs with these objectives."""
        if len(objectives) < max(self.grace_period, self.num_results):
            return False
        return statistics.pstdev(objectives[-self.num_results :]) < self.std
