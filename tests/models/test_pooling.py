"""The CRNN's pooling against PyTorch's own."""

import pytest
import torch

from models.pooling import LeakyLPPool4


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("window", [(2, 4), (1, 4)])
def test_pooling_is_the_librarys_with_its_gradient(window, memory_format):
    x = torch.randn(2, 3, 9, 14).to(memory_format=memory_format).requires_grad_()
    ours, theirs = LeakyLPPool4(window)(x), torch.nn.LPPool2d(4, window)(torch.nn.functional.leaky_relu(x, 0.1))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_pooling_of_zeros_has_a_zero_gradient():
    x = torch.zeros(1, 1, 2, 4, requires_grad=True)
    LeakyLPPool4((2, 4))(x).sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_of_bfloat16_is_computed_in_float32(memory_format):
    x = torch.randn(3, 4, 9, 14).bfloat16().to(memory_format=memory_format).requires_grad_()
    exact = x.detach().double().requires_grad_()
    ours, theirs = LeakyLPPool4((2, 4))(x), LeakyLPPool4((2, 4))(exact)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=0)
    weights = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), x)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), exact)
    assert gradient.dtype == torch.bfloat16  # rounded once: by 2^-8 of it at the most
    torch.testing.assert_close(gradient.double(), expected, rtol=1.01 * 2**-8, atol=1e-12)
