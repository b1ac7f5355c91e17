"""LeakyReLU and power-average pooling of the CRNN, in one fast pass."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1  # of LeakyReLU below 0


class LeakyLPPool4(nn.Module):
    """LeakyReLU(0.1), then power-average pooling with p = 4: the fourth root of the sum of x^4 over each window.

    nn.LeakyReLU and nn.LPPool2d(4, window) in one, by squares and square roots: they take a fraction of the time. The
    sum is kept above 1e-30, so that the gradient at an all-zero window is 0, where the exact root has none.
    """

    def __init__(self, window: tuple[int, int]):
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, M) -> (N, C, T // window[0], M // window[1]), at least float32."""
        return _LeakyLPPool4.apply(x, self.window)


class _LeakyLPPool4(torch.autograd.Function):
    """z = leaky(x), y = (sum z^4)^(1/4), dy/dz = (z / y)^3; clip by clip on a CPU, whose cache holds one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[int, int]) -> Tensor:
        sums = []
        for z in _leaky_clips(x, SLOPE):
            z.mul_(z).mul_(z)
            sums.append(F.avg_pool2d(z, window).to(torch.promote_types(x.dtype, torch.float32)))
        y = torch.cat(sums).mul_(window[0] * window[1]).clamp_(min=1e-30).sqrt_().sqrt_()
        ctx.save_for_backward(x, y)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        height, width = ctx.window
        rows, columns = y.shape[2] * height, y.shape[3] * width  # what lies beyond was not pooled
        scale = (grad_y / (y * y * y))[:, :, :, None, :, None]  # (N, C, T/h, 1, M/w, 1)
        grad_x = torch.empty_like(x)
        # z^3 dz/dx is x^3 above 0 and SLOPE^4 x^3 below: the cube of a leaky x
        cubed = _leaky_clips(x, SLOPE ** (4 / 3))
        for z, part_scale, part_grad in zip(cubed, _clips(scale), _clips(grad_x), strict=True):
            windows = z.pow_(3)[:, :, :rows, :columns].unflatten(3, (-1, width)).unflatten(2, (-1, height))
            windows.mul_(part_scale)  # (n, C, T/h, h, M/w, w), a view
            part_grad.copy_(z)
        grad_x[:, :, rows:] = 0
        grad_x[:, :, :, columns:] = 0
        return grad_x, None


def _leaky_clips(x: Tensor, slope: float) -> Iterator[Tensor]:
    """LeakyReLU of `_clips`, to be overwritten. A CPU has all of them in one place, which its cache keeps, and at least
    in float32, the type that it computes in; a GPU stays with x's: the range of bfloat16 holds fourth powers."""
    if _whole(x):
        yield F.leaky_relu(x, slope)
        return
    z = torch.empty_like(x[:1], dtype=torch.promote_types(x.dtype, torch.float32))
    for clip in _clips(x):
        yield F.leaky_relu_(z.copy_(clip), slope)


def _clips(x: Tensor) -> tuple[Tensor, ...]:
    """Views of a batch, clip by clip, or of the whole of it."""
    return (x,) if _whole(x) else x.split(1)


def _whole(x: Tensor) -> bool:
    """Whether a batch is taken at once: by a GPU, or a compiler."""
    return x.is_cuda or torch.compiler.is_compiling()
