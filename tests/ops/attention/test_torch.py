"""Attention in windows in plain PyTorch: numbers, gradients, and the choice between its two ways."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from contrast_arch.layers.windows import relative_position_rows
from contrast_arch.ops import IndexedBias
from contrast_arch.ops.attention import reference
from contrast_arch.ops.attention import torch as backend_torch
from contrast_arch.ops.attention.by_window import attend_by_window
from tests.ops.attention.inputs import gathered_rows

BACKENDS = {"reference": reference, "torch": backend_torch}


def explicit_attention(q, k, v, bias, mask):
    """One pair of windows at a time."""
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for w in range(q.shape[1]):
            for m in range(q.shape[2]):
                logits = q[b, w, m] @ k[b, w, m].T / q.shape[-1] ** 0.5
                if bias is not None:
                    logits = logits + bias[m]
                if mask is not None:
                    logits = logits + mask[w]
                out[b, w, m] = F.softmax(logits, -1) @ v[b, w, m]
    return out


def inputs(batch=2, grad=True):
    q, k, v = (torch.randn(batch, 3, 2, n, 3, requires_grad=grad) for n in (4, 16, 16))
    return q, k, v, torch.randn(2, 25, requires_grad=grad)


@pytest.mark.parametrize("backend, fused", [("reference", False), ("torch", False), ("torch", True)])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_output_and_gradients_are_those_of_the_definition(monkeypatch, backend, fused, masked, batch):
    """That of the bias table included; heads of width 3 are padded as they are on a GPU."""
    if fused:
        monkeypatch.setattr(backend_torch, "wants_windows", lambda *tensors: False)
    monkeypatch.setitem(backend_torch.HEAD_DIM_MULTIPLE, "cpu", 8)
    *qkv, table = inputs(batch)
    bias = IndexedBias(table, *relative_position_rows(2, 4))
    mask = torch.randn(3, 4, 16) if masked else None
    weight = torch.randn(batch, 3, 2, 4, 3)
    out = BACKENDS[backend].attend(*qkv, bias, mask)
    expected = explicit_attention(*qkv, bias.gathered(), mask)
    torch.testing.assert_close(out, expected)
    for a, b in zip(*(torch.autograd.grad(y, (*qkv, table), weight) for y in (out, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [True, False])
def test_gradients_of_a_bias_are_worked_out_in_parts(monkeypatch, masked):
    """PyTorch makes one for each window, which must not be large together."""
    monkeypatch.setattr(backend_torch, "wants_windows", lambda *tensors: False)
    *qkv, table = inputs(batch=3)
    bias = IndexedBias(table, *relative_position_rows(2, 4))
    mask = torch.randn(3, 4, 16) if masked else None
    whole = backend_torch.attend(*qkv, bias, mask)
    # Of two windows; with a mask those of an image are one, and count as heads.
    monkeypatch.setattr(backend_torch, "BIAS_GRADIENT_BYTES", (3 if masked else 1) * 2 * 2 * 4 * 16 * 4)
    attention, sizes = F.scaled_dot_product_attention, []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, *rest, **more: sizes.append(len(q)) or attention(q, *rest, **more)
    )
    out = backend_torch.attend(*qkv, bias, mask)
    assert sizes == ([2, 1] if masked else [2, 2, 2, 2, 1])
    torch.testing.assert_close(out, whole)
    weight = torch.randn_like(out)
    for a, b in zip(*(torch.autograd.grad(y, (*qkv, table), weight) for y in (out, whole)), strict=True):
        torch.testing.assert_close(a, b)
    sizes.clear()
    with torch.no_grad():
        backend_torch.attend(*qkv, bias, mask)
    assert len(sizes) == 1


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_bias(backend, masked):
    *qkv, _ = inputs(grad=False)
    mask = torch.randn(3, 4, 16) if masked else None
    torch.testing.assert_close(BACKENDS[backend].attend(*qkv, None, mask), explicit_attention(*qkv, None, mask))


@pytest.mark.parametrize("trained", ["all", "bias", "nothing"])
def test_windows_are_taken_for_a_bias_that_is_trained(trained):
    bias = IndexedBias(torch.zeros(2, 16, requires_grad=trained != "nothing"), *gathered_rows(4, 4))
    q = torch.zeros(1, 2, 2, 4, 3, requires_grad=trained == "all")
    assert backend_torch.wants_windows(q, q, q, bias) == (trained != "nothing")
    assert not backend_torch.wants_windows(q, q, q, None)
    with torch.no_grad():
        assert not backend_torch.wants_windows(q, q, q, bias)


@pytest.mark.parametrize(
    "dtype, trained, right, by_window",
    [
        ("float32", "all", True, False),
        ("bfloat16", "all", True, False),
        ("float64", "all", True, True),
        ("float32", "bias", True, True),
        ("float64", "nothing", True, False),
        ("float32", "all", False, True),
        ("float32", "nothing", False, True),
    ],
)
def test_choice_on_a_gpu(monkeypatch, dtype, trained, right, by_window):
    """No weights are kept for a bias to which PyTorch's fused kernel gives no gradient; nor is a wrong one used."""
    monkeypatch.setattr(backend_torch, "_fused_is_right", lambda device: right)
    with FakeTensorMode():
        table = torch.empty(2, 16 * 36, device="cuda", requires_grad=trained != "nothing")
        bias = IndexedBias(table, *(t.to("cuda") for t in gathered_rows(16, 36)))
        q, k, v = (
            torch.empty(1, 3, 2, n, 4, device="cuda", dtype=getattr(torch, dtype), requires_grad=trained == "all")
            for n in (16, 36, 36)
        )
        assert backend_torch.wants_windows(q, k, v, bias) == by_window
        if by_window and trained != "nothing":
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
                out = attend_by_window(q, k, v, *bias, None)
            assert [t.shape for t in kept] == [t.shape for t in (out, q, k, v, *bias)]


@pytest.fixture
def cudnn(monkeypatch):
    """True or False for each call of PyTorch's attention on a GPU: whether it may take cuDNN's kernel."""
    found, sdpa_kernel = [], backend_torch.sdpa_kernel

    @contextmanager
    def untraceable(backends):
        # As this context is to torch.compile of PyTorch 2.4 and 2.5.
        torch._dynamo.graph_break()
        with sdpa_kernel(backends):
            found.append(torch.backends.cuda.cudnn_sdp_enabled())
            yield

    monkeypatch.setattr(backend_torch, "sdpa_kernel", untraceable)
    return found


@pytest.mark.parametrize("biased", [True, False])
def test_a_gpu_does_not_take_the_kernel_of_cudnn(cudnn, biased):
    with FakeTensorMode():
        bias = torch.empty(2, 16, 36, device="cuda") if biased else None
        q, k = (torch.empty(2, 3, 2, n, 4, device="cuda") for n in (16, 36))
        assert backend_torch.attend_fused(q, k, k, bias).shape == q.shape
    assert cudnn == [False] and torch.backends.cuda.cudnn_sdp_enabled()


def test_attention_on_a_gpu_compiles_to_one_graph(cudnn):
    """Values and gradients are those of PyTorch's attention."""
    q, k, v = (torch.randn(6, 2, n, 8, requires_grad=True) for n in (4, 16, 16))
    bias = torch.randn(1, 2, 4, 16, requires_grad=True)
    inputs = q, k, v, bias
    torch.compiler.reset()
    run = partial(backend_torch._fused_on_cuda, scale=0.5)
    out = torch.compile(lambda *inputs: run(*inputs), fullgraph=True, backend="aot_eager")(*inputs)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=0.5)
    weight = torch.randn_like(out)
    torch.testing.assert_close(out, expected)
    for a, b in zip(*(torch.autograd.grad(y, inputs, weight) for y in (out, expected)), strict=True):
        torch.testing.assert_close(a, b)
    assert cudnn and not any(cudnn)


def test_self_test_of_the_fused_kernel(monkeypatch, caplog):
    device = torch.device("cpu")
    assert backend_torch._fused_error(device) < 1e-6
    right = backend_torch.attend_fused
    monkeypatch.setattr(backend_torch, "attend_fused", lambda q, k, v, bias: right(q, k, v, bias * 1.01))
    assert backend_torch._fused_error(device) > 1e-4
    backend_torch._fused_verdict.cache_clear()
    assert not backend_torch._fused_is_right(device)
    assert "attention on cpu runs one window at a time, slower: PyTorch's fused kernel: its self-test" in caplog.text
    backend_torch._fused_verdict.cache_clear()
