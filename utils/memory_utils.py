"""Estimate the memory of a training step before the trial directory is made."""

import math

import numpy as np
import torch

from models.audio_encoders import CRNNEncoder
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.memory import free_memory
from utils.common.processes import world_size
from utils.common.steps import INDEXING
from utils.conf.schema import Conf
from utils.criterion_utils import compares_clips
from utils.data_utils import Split
from utils.dataset.index import read_table
from utils.dataset.paths import DatasetPaths
from utils.fast_score_utils import AT_ONCE
from utils.model_utils import build_criterion

# How many copies of its images and similarities a step holds, with gradients and gaps of the heap: fitted to 22 peaks
# of resident memory on a CPU, from 8 x 500 to 2 x 20000 frames, 10 to 1280 words, in both precisions
IMAGE_COPIES, PAIR_COPIES = 2.1, 2
WORD_COPIES = {"mean": 6.5, "max": 8.2, "softmax": 8.2}  # by the pool over frames
OFF_BY = 1.26  # the largest error of the estimate there


def require_memory(conf: Conf, dim: int, split: Split, device: torch.device) -> float:
    """Print and return the estimated bytes of a step with the split's longest batch, and name the clip that sets them.

    On CPUs all ranks share the memory; on GPUs each rank has one for its shard.

    Raises UserError where the estimate exceeds the free memory by more than its error.
    """
    pairs, clip = min(conf.param_conf.batch_size, len(split.captions)), int(np.argmax(split.frames))
    share, free = pairs, free_memory()
    if device.type == "cuda":
        share, free = math.ceil(pairs / world_size()), torch.cuda.mem_get_info(device)[0]
    frames, words = split.frames[clip], pairs * max(map(len, split.captions))
    name, paths, fid = conf.data_conf.train_data, DatasetPaths(conf.data_conf.dataset), split.fids[clip]
    table = read_table(paths.text(name), ["fid", "file_name"], INDEXING)
    file_name = table.loc[table["fid"] == fid, "file_name"].iloc[0]
    need = step_memory(conf, dim, share, frames, words)
    if conf.data_conf.audio == "features":  # a batch, its norm and dropout; embeddings with their gradients
        need += 4 * share * frames * (3 * split.width + 2 * dim)
    batch = f"the longest batch, {counted(share, 'clip')} x {frames} frames (as clip {fid}, {file_name!r}, has)"
    sizes = f"about {need / 1e9:.2f} GB of the {free / 1e9:.2f} GB of memory that are free"
    if need > OFF_BY * free:
        raise UserError(
            f"{name}: {batch}, needs {sizes}; shorten that clip or leave it out, or lower param_conf.batch_size"
        )
    print(f"{name}: {batch}, needs {sizes}")
    return need


@torch.no_grad()
def step_memory(conf: Conf, dim: int, clips: int, frames: int, words: int) -> float:
    """The bytes of a training step, within a quarter of the measured ones.

    They hold the CNN's images of log-mels, the similarities of frames with words, and those of frames with frames where
    the strategy compares clips.

    Args:
        dim: E, the embedding dimension.
        clips, frames: the size of the padded batch, or of a rank's shard.
        words: the padded words of all captions of the batch.
    """
    of_frame = WORD_COPIES[conf.score.frames] * 4 * words if conf.score.level == "frame" else 0
    if conf.data_conf.audio == "logmels":  # features pass no CNN
        of_frame += IMAGE_COPIES * _images_of_frame(conf, dim)
    compares = conf.score.level == "frame" and compares_clips(build_criterion(conf))
    return clips * frames * of_frame + compares * PAIR_COPIES * 4 * min(frames**2, AT_ONCE)


def _images_of_frame(conf: Conf, dim: int) -> float:
    """The bytes of the CNN's images for a frame of log-mels."""
    encoder, images = CRNNEncoder(conf.audio_logmel.n_mels, dim).eval(), 0
    x = torch.zeros(1, 1, encoder.rate, conf.audio_logmel.n_mels)
    with torch.autocast("cpu", torch.bfloat16, enabled=conf.param_conf.precision == "bfloat16"):
        for layer in encoder.cnn:
            before, x = x, layer(x)
            images += x.nbytes if x.data_ptr() != before.data_ptr() else 0
    return images / encoder.rate
