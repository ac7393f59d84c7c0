import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from contrast_arch.layers import attention
from contrast_arch.layers.attention import FORMS, OverlapAttention, PositionBias, WindowAttention
from contrast_arch.layers.windows import relative_position_index


def explicit_attention(q, k, v, heads, bias, mask):
    """One pair of windows at a time."""
    out = torch.empty_like(q)
    width = q.shape[-1] // heads
    for b in range(q.shape[0]):
        for w in range(q.shape[1]):
            for m in range(heads):
                part = slice(m * width, (m + 1) * width)
                logits = q[b, w, :, part] @ k[b, w, :, part].T / width**0.5
                if bias is not None:
                    logits = logits + bias[m]
                if mask is not None:
                    logits = logits + mask[w]
                out[b, w, :, part] = F.softmax(logits, -1) @ v[b, w, :, part]
    return out


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("position_bias", ["table", "computed", None])
def test_attend_is_softmax_attention(grad, masked, position_bias):
    """Both the plain and the fused form, with and without bias and mask."""
    layer = OverlapAttention(6, 2, 1.0, 2, nn.LayerNorm, nn.Identity(), position_bias)
    q, k, v = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 16, 6), torch.randn(2, 3, 16, 6)
    mask = torch.randn(3, 4, 16) if masked else None
    with torch.set_grad_enabled(grad):
        out = layer.attend(q, k, v, mask)
    torch.testing.assert_close(out, explicit_attention(q, k, v, 2, layer.bias(), mask))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_forced_form_has_the_gradients_of_the_definition(monkeypatch, form, masked, batch):
    """That of the bias table included; heads of width 3 are padded as they are on a GPU."""
    monkeypatch.setattr(PositionBias, "form", form)
    monkeypatch.setitem(attention.HEAD_DIM_MULTIPLE, "cpu", 8)
    layer = OverlapAttention(6, 2, 1.0, 2, nn.LayerNorm, nn.Identity())
    q, k, v = (torch.randn(batch, 3, n, 6).requires_grad_() for n in (4, 16, 16))
    mask = torch.randn(3, 4, 16) if masked else None
    wanted = (q, k, v, layer.relative_position_bias_table)
    weight = torch.randn(batch, 3, 4, 6)
    out = layer.attend(q, k, v, mask)
    expected = explicit_attention(q, k, v, 2, layer.bias(), mask)
    torch.testing.assert_close(out, expected)
    for a, b in zip(
        torch.autograd.grad(out, wanted, weight), torch.autograd.grad(expected, wanted, weight), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("trained", ["all", "bias", "nothing"])
def test_form_follows_what_wants_a_gradient(trained):
    bias = torch.zeros(2, 4, 4, requires_grad=trained != "nothing")
    q = torch.zeros(1, 2, 2, 4, 3, requires_grad=trained == "all")
    assert attention.fastest_form(q, q, q, bias) == ("fused" if trained == "nothing" else "windows")
    assert attention.fastest_form(q, q, q, None) == "fused"
    with torch.no_grad():
        assert attention.fastest_form(q, q, q, bias) == "fused"


@pytest.mark.parametrize(
    "dtype, trained, form",
    [
        ("float32", "all", "fused"),
        ("bfloat16", "all", "fused"),
        ("float64", "all", "windows"),
        ("float32", "bias", "windows"),
        ("float64", "nothing", "fused"),
    ],
)
def test_form_on_a_gpu(dtype, trained, form):
    """No weights are kept for a bias to which PyTorch's fused kernel gives no gradient."""
    with FakeTensorMode():
        bias = torch.empty(2, 16, 36, device="cuda", requires_grad=trained != "nothing")
        q, k, v = (
            torch.empty(1, 3, 2, n, 4, device="cuda", dtype=getattr(torch, dtype), requires_grad=trained == "all")
            for n in (16, 36, 36)
        )
        assert attention.fastest_form(q, k, v, bias) == form
        if form == "windows":
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
                out = FORMS[form](q, k, v, bias)
            assert [t.shape for t in kept] == [out.shape, q.shape, k.shape, v.shape, bias.shape]


def test_fused_and_plain_form_have_the_same_gradients():
    q, k, v = (torch.randn(1, 2, 4, 6).requires_grad_() for _ in range(3))
    with_bias = WindowAttention(6, 2, 2)
    nn.init.zeros_(with_bias.relative_position_bias_table)
    without = OverlapAttention(6, 2, 0.0, 2, nn.LayerNorm, nn.Identity(), position_bias=None)
    plain = torch.autograd.grad(with_bias.attend(q, k, v).square().sum(), (q, k, v))
    fused = torch.autograd.grad(without.attend(q, k, v).square().sum(), (q, k, v))
    for a, b in zip(plain, fused, strict=True):
        torch.testing.assert_close(a, b)


def test_shifted_windows_do_not_see_around_the_border():
    """A change in the last column must not reach the first one, though the cyclic shift puts them side by side."""
    layer = WindowAttention(4, 4, 2, shift=2)
    x = torch.randn(1, 8, 8, 4)
    changed = x.clone()
    changed[:, :, -1] += 1
    differs = (layer(x) - layer(changed)).abs().amax((0, 1, 3)) > 1e-6
    assert differs.tolist() == [False] * 6 + [True] * 2


def test_a_window_sees_its_enlarged_surroundings_only():
    layer = OverlapAttention(4, 4, 0.5, 2, nn.LayerNorm, nn.Identity())
    x = torch.randn(1, 4, 12, 4)
    for column, reaches in ((0, [0]), (3, [0, 1]), (4, [0, 1]), (5, [1]), (8, [1, 2])):
        changed = x.clone()
        changed[:, :, column] += torch.randn(4)
        differs = (layer(x) - layer(changed)).abs().amax((0, 1, 3)) > 1e-7
        assert differs.view(3, 4).any(1).nonzero().flatten().tolist() == reaches, column


def test_bias_is_kept_until_the_table_changes():
    attend = PositionBias(2, 4, 6, "table")
    table = attend.relative_position_bias_table
    assert attend.bias().requires_grad
    with torch.no_grad():
        first = attend.bias()
        assert attend.bias() is first
        assert torch.equal(first, table.t()[:, relative_position_index(4, 6)])
        table.mul_(2)
        torch.testing.assert_close(attend.bias(), 2 * first)
        attend.load_state_dict({"relative_position_bias_table": torch.ones_like(table)})
        assert (attend.bias() == 1).all()
        table.data = torch.full_like(table, 3)
        assert (attend.bias() == 3).all()
        assert attend.double().bias().dtype == torch.float64
    with torch.inference_mode():
        assert (attend.bias() == 3).all()
    with torch.no_grad():
        assert not attend.bias().is_inference()  # it could not be kept for a backward pass
    assert attend.bias().requires_grad
    assert "_kept" not in attend.state_dict() and copy.deepcopy(attend)._kept is None
