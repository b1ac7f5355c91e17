"""Training and evaluation of a model over a split."""

import shutil
import statistics
from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models.audio_encoders import TIME_POOLING
from models.core import CRNNWordModel
from utils.conf_utils import Conf
from utils.criterion_utils import CRITERIA, Criterion, LossTerms, negative_mask
from utils.data_utils import Batch, Split
from utils.distributed_utils import drawing_apart, sum_gradients, world_size
from utils.io_utils import UserError, keep_freed_memory
from utils.metric_utils import both_directions
from utils.sampling_utils import BatchScores
from utils.score_utils import caption_word_weights, pair_scores, self_score_matrix, step_score_matrix, step_weights

LENGTH_STEP = 64  # frames; clips are padded to multiples, since convolutions keep memory for every size that they meet


def build_model(conf: Conf, word_vectors: np.ndarray) -> CRNNWordModel:
    """The configured model around the word vectors (V, E); its weights are drawn from torch's generator."""
    settings = conf.CRNNWordModel
    return CRNNWordModel(
        settings.audio_enc.in_dim,
        settings.audio_enc.out_dim,
        torch.from_numpy(word_vectors),
        settings.text_enc.trainable,
    )


def prepare_model(conf: Conf, model: CRNNWordModel, device: torch.device) -> None:
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
        model.audio_enc.cnn.compile(dynamic=True)  # in place: the state dict's keys stay


def build_criterion(conf: Conf) -> Criterion:
    """The configured training objective."""
    name = conf.param_conf.criterion
    return CRITERIA[name](**getattr(conf.criteria, name).model_dump())


def build_optimizer(conf: Conf, *modules: nn.Module) -> tuple[torch.optim.Adam, ReduceLROnPlateau]:
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


class NonFiniteStep(Exception):
    """A loss or a gradient that is NaN or infinite; the model is as it was before the step.

    Args:
        loss, gradient_norm: which of the two it is shows.
        clips: (N,) the batch's clips.
    """

    def __init__(self, loss: float, gradient_norm: float, clips: list[int]):
        super().__init__(f"the loss is {loss:g} and the gradient's length {gradient_norm:g}")
        self.clips = clips


def train_step(
    model: CRNNWordModel,
    batch: Batch,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    precision: str = "float32",
    generator: torch.Generator | None = None,
) -> LossTerms:
    """One update by one batch; the loss and the share of active triplets stay on the device, detached.

    `generator` draws random negatives (None: torch's own). Several processes take the same step together.
    Raises NonFiniteStep, before the update.
    """
    batch = batch.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        steps = model.audio_steps(batch.audio)
    terms = criterion.of_steps(
        steps.to(batch.audio.dtype),  # under autocast it is bfloat16
        batch.audio.shape[1],
        model.text_branch(batch.text),
        batch.clips,
        batch.audio_lens,
        batch.text_lens,
        generator,
    )
    optimizer.zero_grad(set_to_none=True)
    terms.loss.backward()
    sum_gradients(model.parameters())  # the criterion's are whole in every process already
    gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    if not torch.isfinite(terms.loss + norm):
        raise NonFiniteStep(terms.loss.item(), norm.item(), batch.clips.tolist())
    optimizer.step()
    return LossTerms(terms.loss.detach(), terms.active)


def train_epoch(
    model: CRNNWordModel,
    batches: Iterable[Batch],
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    precision: str = "float32",
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """One pass over the batches; batches without any negative are skipped.

    Returns the mean over batches of the loss and of the share of active triplets.
    """
    model.train()
    terms = [
        train_step(model, batch, criterion, optimizer, device, precision, generator)
        for batch in drawing_apart(batches)
        if negative_mask(batch.clips).any()
    ]
    if not terms:
        return {"train_loss": 0.0, "active_triplets": 0.0}
    return {
        "train_loss": torch.stack([term.loss for term in terms]).mean().item(),
        "active_triplets": torch.stack([term.active for term in terms]).mean().item(),
    }


@torch.no_grad()
def encode_clips(model: CRNNWordModel, split: Split, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Each clip's index and steps (1, L, E), each clip encoded once, at its own length; shortest clips first."""
    order = np.argsort(split.frames, kind="stable")
    at_once = 64 if device.type == "cuda" else 4
    for start in range(0, len(order), at_once):
        clips = order[start : start + at_once].tolist()
        log_mels = [split.log_mels[clip] for clip in clips]
        lens = torch.tensor([len(log_mel) for log_mel in log_mels])
        audio = pad_sequence(log_mels, batch_first=True)
        audio = F.pad(audio, (0, 0, 0, -audio.shape[1] % LENGTH_STEP))
        steps = model.audio_steps(audio.to(device), lens)
        for i, clip in enumerate(clips):
            yield clip, steps[i : i + 1, : lens[i] // TIME_POOLING]


class SplitScores:
    """Scores of a split under a model, from one encoding of each clip.

    Args:
        model: in evaluation mode on `device`.
        split: C clips, M captions.
        keep_steps: keep what clips were encoded to, for the strategies that compare clips with clips.
        all_words: score every word that the model knows, by id, for texts to come; else those of the captions.
    """

    def __init__(
        self,
        model: CRNNWordModel,
        split: Split,
        device: torch.device,
        keep_steps: bool = False,
        all_words: bool = False,
    ):
        self.model, self.split, self.device = model, split, device
        self.steps: dict[int, Tensor] = {}  # C of (1, L, E), if kept
        vocabulary = model.text_enc.embedding.num_embeddings if all_words else None
        words, weights = caption_word_weights([ids.numpy() for ids in split.captions], vocabulary)  # (V,), (M, V)
        self.word_scores = self._word_scores(words, keep_steps)  # (V, C) float32
        self.cross = np.ascontiguousarray((weights @ self.word_scores).T)  # (C, M) float32: masked scores

    @torch.no_grad()
    def _word_scores(self, words: np.ndarray, keep_steps: bool) -> np.ndarray:
        """(V, C): the score of each word with every clip."""
        embeds = self.model.text_branch(torch.from_numpy(words).to(self.device).unsqueeze(1))  # (V, 1, E)
        frames = self.split.frames
        scores = torch.empty(len(words), len(frames), device=self.device)
        for clip, steps in encode_clips(self.model, self.split, self.device):
            scores[:, clip] = step_score_matrix(steps, frames[clip], embeds)[0]
            if keep_steps:
                self.steps[clip] = steps.clone()  # not the batch that it is a part of
        return scores.cpu().numpy()

    @torch.no_grad()
    def _audio_scores(self, clips: np.ndarray) -> Tensor:
        """(N, N): scores of clips with clips, every pair at its own lengths."""
        steps, frames = [self.steps[clip] for clip in clips], self.split.frames
        weights = [step_weights(part, frames[clip]) for part, clip in zip(steps, clips, strict=True)]
        scores = torch.empty(len(clips), len(clips))
        for i, j in combinations_with_replacement(range(len(clips)), 2):
            scores[i, j] = scores[j, i] = pair_scores(steps[i][0], weights[i][0], steps[j], weights[j])[0]
        return scores

    @torch.no_grad()
    def of_batch(self, captions: np.ndarray, mask_words: bool) -> BatchScores:
        """Scores among some captions (N,) and their clips, as a batch of the loss.

        Frames are averaged over each clip's own length; words over the longest caption of the batch, as published,
        unless mask_words. S_padded = n_words / W_max * S_masked, exactly.
        """
        clips = self.split.caption_clips[captions]
        cross = torch.from_numpy(self.cross[np.ix_(clips, captions)])
        text = pad_sequence([self.split.captions[caption] for caption in captions], batch_first=True)
        lens = torch.tensor([len(self.split.captions[caption]) for caption in captions])

        def text_text() -> Tensor:
            return self_score_matrix(self.model.text_branch(text.to(self.device)), lens if mask_words else None).cpu()

        cross = cross if mask_words else cross * (lens / lens.max())
        return BatchScores(cross, text_text, lambda: self._audio_scores(clips))

    def objective(self, criterion: Criterion, batch_size: int) -> float:
        """The mean loss over batches of the split's pairs, in one fixed shuffled order and with fixed draws."""
        order = np.random.default_rng(0).permutation(len(self.split.captions))
        generator = torch.Generator().manual_seed(0)
        losses = []
        for start in range(0, len(order), batch_size):
            captions = order[start : start + batch_size]
            clips = torch.from_numpy(self.split.caption_clips[captions])
            if negative_mask(clips).any():
                scores = self.of_batch(captions, criterion.mask_words)
                losses.append(criterion.of_scores(scores, clips, generator).loss.item())
        return statistics.fmean(losses) if losses else 0.0


def evaluate(
    model: CRNNWordModel,
    split: Split,
    criterion: Criterion,
    metrics: dict[str, Criterion],
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """The validation objective, further losses, mAP in both directions and the spread of the scores."""
    model.eval()
    scores = SplitScores(model, split, device, keep_steps=True)
    if not np.isfinite(scores.cross).all():
        raise UserError("the validation scores are not finite: training has diverged; lower AdamOptimizer.lr")
    retrieval = both_directions(scores.cross, split.caption_clips)
    text_to_audio, audio_to_text = retrieval["text_to_audio"]["mAP"], retrieval["audio_to_text"]["mAP"]
    return {
        "val_obj": scores.objective(criterion, batch_size),
        **{f"val_{name}": scores.objective(metric, batch_size) for name, metric in metrics.items()},
        "val_map_text_to_audio": text_to_audio,
        "val_map_audio_to_text": audio_to_text,
        "val_map": (text_to_audio + audio_to_text) / 2,
        "score_std": float(scores.cross.std(dtype=np.float64)),
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
