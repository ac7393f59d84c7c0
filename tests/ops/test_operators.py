"""Derivatives of the operators beyond the first, and functorch's transforms of them."""

import warnings
from functools import partial

import pytest
import torch
from torch.autograd import forward_ad

from contrast_arch.layers.windows import relative_position_rows
from contrast_arch.ops import IndexedBias, overlap_attention, ss2d_scan, window_attention
from contrast_arch.ops.attention import cpu as attention_cpu
from contrast_arch.ops.attention.by_window import attend_by_window
from tests.ops.ss2d.inputs import ss2d_inputs

REFUSED = r"^contrast_arch::{name} has no {kind} derivative; the definition has: CONTRAST_ARCH_BACKEND=reference$"


def leaf(*shape):
    return torch.randn(shape, requires_grad=True)


def table():
    return IndexedBias(leaf(2, 25), *relative_position_rows(2, 4))


def scan(backend):
    x, *others = ss2d_inputs((1, 2, 3, 2, 1, 1), torch.float32)
    return lambda x: ss2d_scan(x, *others, backend=backend), x


def of_windows():
    k, v, bias = leaf(1, 3, 2, 16, 3), leaf(1, 3, 2, 16, 3), table()
    return lambda q: attend_by_window(q, k, v, *bias, None), leaf(1, 3, 2, 4, 3)


def overlapping():
    bias = table()
    return lambda qkv: attention_cpu.overlap_attention(qkv, bias, 2, 2, 4), leaf(1, 4, 4, 18)


# Operator -> a function of one tensor, and that tensor.
OPERATORS = {
    "ss2d_torch": lambda: scan("torch"),
    "ss2d_cpu": lambda: scan("cpu"),
    "window_attention": of_windows,
    "overlap_attention": overlapping,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_that_are_refused(name):
    """Second ones, and forward mode, also of the gradient: PyTorch itself would give tangents of zero.

    vmap is a loop; functorch's grad is an error of PyTorch's, which has no rule for operators like these.
    """
    function, x = OPERATORS[name]()
    y = function(x)
    dy = torch.ones_like(y)
    message = REFUSED.format(name=name, kind="forward-mode")
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(y, x, forward_ad.make_dual(dy, dy))
    (first,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED.format(name=name, kind="second")):
        first.square().sum().backward()
    x = x.detach()
    for trained in (True, False):
        with torch.set_grad_enabled(trained):
            with pytest.raises(RuntimeError, match=message):
                torch.func.jvp(function, (x,), (x,))
            with forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
                function(forward_ad.make_dual(x, x))
    images = torch.stack([x, 2 * x])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*performance drop.*")
        torch.testing.assert_close(torch.vmap(function)(images), torch.stack([function(image) for image in images]))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda x: function(x).sum())(x)


def attend(attention, sizes, rows, qkv, biases):
    return attention(qkv, IndexedBias(biases, *rows), 2, *sizes)


def test_the_definition_has_second_derivatives(monkeypatch):
    """As the messages say; tangents too."""
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", "reference")
    qkv = torch.randn(1, 2, 2, 6, dtype=torch.float64, requires_grad=True)
    found = [(ss2d_scan, ss2d_inputs((1, 1, 2, 1, 1, 1)))]
    for attention, *sizes, key_size in ((window_attention, 2, None), (overlap_attention, 2, 4, 4)):
        rows = relative_position_rows(2, key_size)
        biases = torch.randn(2, (1 + (key_size or 2)) ** 2, dtype=torch.float64, requires_grad=True)
        found.append((partial(attend, attention, sizes, rows), [qkv, biases]))
    for function, inputs in found:
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
