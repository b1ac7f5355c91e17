"""Tensor operations that the encoders and the scores share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(encoded: Tensor, frames: int) -> Tensor:
    """(N, L, K) -> (N, frames, K) by linear interpolation in time (align_corners=False)."""
    if encoded.shape[1] == frames:
        return encoded
    image = encoded.unsqueeze(2).permute(0, 3, 1, 2)  # (N, K, L, 1), channels last: K runs fastest in memory
    image = F.interpolate(image, size=(frames, 1), mode="bilinear", align_corners=False)  # (N, K, T, 1)
    return image.permute(0, 2, 3, 1).squeeze(2)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device. Copies to CUDA start from pinned memory, so that the host does not wait for them."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
