"""Every fast path against the sequential definition: outputs and gradients, at sizes that fit nothing."""

import pytest
import torch

from contrast_arch.ops import BACKENDS, selective_scan, ss2d_scan
from contrast_arch.ops.ss2d import torch as backend_torch
from contrast_arch.ops.ss2d.reference import scan_order
from tests.ops.ss2d.inputs import (
    check_backward_without_states,
    check_operators,
    on,
    outputs_and_gradients,
    ss2d_inputs,
)

SHAPES = [  # B, H, W, D, N, R
    (2, 8, 16, 12, 1, 3),
    (1, 7, 9, 5, 4, 1),
    (1, 1, 1, 2, 1, 1),
    (2, 1, 5, 4, 2, 2),
    (1, 5, 1, 3, 1, 4),
    (1, 33, 31, 3, 3, 2),
    (1, 63, 64, 2, 1, 1),
]


def test_scan_order_of_a_small_image():
    # Pixels 0 1 2 / 3 4 5.
    assert scan_order(2, 3, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert scan_order(2, 3, 1).tolist() == [0, 3, 1, 4, 2, 5]
    assert scan_order(2, 3, 2).tolist() == [5, 4, 3, 2, 1, 0]
    assert scan_order(2, 3, 3).tolist() == [5, 2, 4, 1, 3, 0]


def test_definition_by_hand():
    # h1 = ln2 * 3 * 2, h2 = h1 / 2 + ln2 * 5 * 1 (exp(-ln2) = 1/2); y = C h + D u.
    ln2 = torch.log(torch.tensor(2.0, dtype=torch.float64))
    u = torch.tensor([[[3.0, 5.0]]], dtype=torch.float64)
    B = torch.tensor([[[2.0, 1.0]]], dtype=torch.float64)
    C = torch.tensor([[[1.0, 10.0]]], dtype=torch.float64)
    A, D = torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    h1 = 6 * ln2
    h2 = h1 / 2 + 5 * ln2
    expected = torch.stack([h1 + 1.5, 10 * h2 + 2.5])
    for backend in ("torch", "reference"):
        y = selective_scan(u, ln2.expand(1, 1, 2), A, B, C, D, backend=backend)
        torch.testing.assert_close(y[0, 0], expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ss2d_scan_matches_definition(shape):
    inputs = ss2d_inputs(shape)
    weight = torch.randn(shape[:4], dtype=torch.float64)
    expected = outputs_and_gradients(lambda *t: ss2d_scan(*t, backend="reference"), inputs, weight)
    for a, b in zip(outputs_and_gradients(ss2d_scan, inputs, weight), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("images", [1, 2])
def test_images_one_or_two_at_a_time(monkeypatch, images):
    """The path of large images gives the results of small ones, also where the last block of the batch is smaller."""
    inputs = ss2d_inputs((3, 9, 11, 4, 2, 2))
    weight = torch.randn(3, 9, 11, 4, dtype=torch.float64)
    together = outputs_and_gradients(ss2d_scan, inputs, weight)
    monkeypatch.setattr(backend_torch, "_IMAGES_TOGETHER_LIMIT", images * 9 * 11 * 4)
    for a, b in zip(outputs_and_gradients(ss2d_scan, inputs, weight), together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dt_bias", [-13.0, 0.0, 20.0, 120.0])
def test_float32_keeps_small_and_large_steps(dt_bias):
    """dt from 1e-6 to 120: no overflow, and no digits lost where softplus' derivative is small."""
    shape = (1, 12, 13, 6, 2, 2)
    inputs = ss2d_inputs(shape, dt_bias=dt_bias)
    weight = torch.randn(shape[:4], dtype=torch.float64)
    expected = outputs_and_gradients(lambda *t: ss2d_scan(*t, backend="reference"), inputs, weight)
    single = [t.detach().float().requires_grad_() for t in inputs]
    for a, b in zip(outputs_and_gradients(ss2d_scan, single, weight), expected, strict=True):
        # Where exp(dt A) is below float32 the gradient of A is too: hence the absolute part.
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-5 * b.abs().max().item() + 1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_float32_state(dtype):
    """Half input gives the float32 result on the same numbers, rounded once."""
    inputs = ss2d_inputs((1, 16, 17, 4, 1, 2), dtype)
    wide = [t.detach().float().requires_grad_() for t in inputs]
    weight = torch.randn(1, 16, 17, 4).to(dtype)
    half = outputs_and_gradients(ss2d_scan, inputs, weight)
    full = outputs_and_gradients(ss2d_scan, wide, weight)
    for a, b in zip(half, full, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def test_autocast_changes_nothing():
    inputs = ss2d_inputs((1, 8, 8, 4, 1, 2), torch.float32)
    weight = torch.randn(1, 8, 8, 4)
    expected = outputs_and_gradients(ss2d_scan, inputs, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = outputs_and_gradients(ss2d_scan, inputs, weight)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_narrow_the_definition(dtype):
    """The gradient is asked for outside, as in training."""

    def under_autocast(*inputs):
        with torch.autocast("cpu", dtype=dtype):
            return ss2d_scan(*inputs, backend="reference")

    inputs = ss2d_inputs((1, 3, 5, 4, 1, 2), torch.float32)
    weight = torch.randn(1, 3, 5, 4)
    expected = outputs_and_gradients(on("reference"), inputs, weight)
    for a, b in zip(outputs_and_gradients(under_autocast, inputs, weight), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(1, 3, 2, 2, 1, 1), (1, 2, 3, 2, 2, 2)], ids=str)
def test_ss2d_gradcheck(shape):
    assert torch.autograd.gradcheck(ss2d_scan, ss2d_inputs(shape))


def test_operators_pass_opcheck():
    check_operators("torch", ss2d_inputs((2, 3, 5, 3, 2, 2)))


def test_backward_without_saved_states():
    check_backward_without_states("torch", ss2d_inputs((2, 3, 5, 3, 2, 2)))


def test_empty_batch():
    inputs = ss2d_inputs((0, 3, 5, 3, 2, 2))
    y, *gradients = outputs_and_gradients(ss2d_scan, inputs, torch.empty(0, 3, 5, 3))
    assert y.shape == (0, 3, 5, 3)
    assert all(g.shape == t.shape and not g.any() for g, t in zip(gradients, inputs, strict=True))


def test_not_contiguous_and_partial_gradients():
    inputs = ss2d_inputs((2, 6, 5, 4, 1, 2))
    strided = [t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in inputs[:2]] + inputs[2:]
    torch.testing.assert_close(ss2d_scan(*strided), ss2d_scan(*inputs))
    x = inputs[0].detach().requires_grad_()
    fixed = [t.detach() for t in inputs[1:]]
    (only_x,) = torch.autograd.grad(ss2d_scan(x, *fixed).sum(), x)
    torch.testing.assert_close(only_x, torch.autograd.grad(ss2d_scan(*inputs).sum(), inputs[0])[0])


@pytest.mark.parametrize("which", range(6))
def test_nan_goes_through(which):
    inputs = [t.detach().float() for t in ss2d_inputs((1, 5, 7, 3, 1, 2))]
    inputs[which].view(-1)[0] = float("nan")
    assert ss2d_scan(*inputs).isnan().any()


def test_nan_stays_in_its_image():
    """Steps behind the end of a sequence read no pixel: 35 steps are no whole number of chunks."""
    inputs = [t.detach().float() for t in ss2d_inputs((2, 5, 7, 3, 1, 2))]
    clean = ss2d_scan(*inputs)
    inputs[0][0] = float("nan")
    assert torch.equal(ss2d_scan(*inputs)[1], clean[1])


def test_backward_of_the_last_pixel_ignores_a_nan_in_the_first():
    """Channels do not mix and directions 0 and 1 end in the last pixel; with p zero nothing is carried at all."""
    x = torch.zeros(1, 5, 7, 2)
    x[0, 0, 0, 0] = float("nan")
    p = torch.zeros(1, 5, 7, 4, 4)
    x.requires_grad_()
    parameters = [t.detach().float() for t in ss2d_inputs((1, 5, 7, 2, 1, 2))[2:]]
    (grad,) = torch.autograd.grad(ss2d_scan(x, p, *parameters).sum(), x)
    assert grad[..., 1].isfinite().all()


def test_saved_memory_of_a_block():
    """Beyond its inputs a scan keeps the carried states only: less than half a MiB at 64x64, D 60."""
    inputs = ss2d_inputs((1, 64, 64, 60, 1, 4), torch.float32)
    known = {t.untyped_storage().data_ptr() for t in inputs}
    saved = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in known:
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = ss2d_scan(*inputs)
    assert y.requires_grad
    assert 0 < sum(saved.values()) < 2**19


def sequence_inputs(groups, length=37, batch=2, dim=6, state=3):
    def normal(*size):
        return torch.randn(*size, dtype=torch.float64)

    shape = (batch, state, length) if groups is None else (batch, groups, state, length)
    A = -torch.rand(dim, state, dtype=torch.float64) - 0.1
    tensors = [normal(batch, dim, length), normal(batch, dim, length), A, normal(*shape), normal(*shape)]
    tensors += [normal(dim), normal(dim)]
    return [t.requires_grad_() for t in tensors]


@pytest.mark.parametrize("groups", [None, 1, 2, 3])
def test_selective_scan_matches_definition(groups):
    inputs = sequence_inputs(groups)
    weight = torch.randn(2, 6, 37, dtype=torch.float64)

    def function(backend):
        return lambda *t: selective_scan(*t, delta_softplus=True, backend=backend)

    expected = outputs_and_gradients(function("reference"), inputs, weight)
    for a, b in zip(outputs_and_gradients(function("torch"), inputs, weight), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_selective_scan_gradcheck():
    inputs = sequence_inputs(None, length=5, batch=1, dim=2, state=2)
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t, delta_softplus=True), inputs)


def test_selective_scan_without_options():
    u, delta, A, B, C = sequence_inputs(None)[:5]
    delta = delta.abs()
    torch.testing.assert_close(
        selective_scan(u, delta, A, B, C),
        selective_scan(u, delta, A, B, C, backend="reference"),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("backend", BACKENDS["ss2d"])
def test_wrong_shapes_are_named_by_the_operators(backend):
    """A traced network calls them without ss2d_scan."""
    inputs = [t.detach() for t in ss2d_inputs((1, 2, 3, 4, 1, 2), torch.float32)]
    names = ["p", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds"]
    backward = getattr(torch.ops.contrast_arch, f"ss2d_{backend}_backward", None)
    for index, name in enumerate(names, start=1):
        wrong = [*inputs[:index], inputs[index][1:], *inputs[index + 1 :]]
        with pytest.raises(ValueError, match=f"ss2d_scan: {name} has shape"):
            BACKENDS["ss2d"][backend].ss2d(*wrong, True)
        if backward is not None:
            with pytest.raises(ValueError, match=f"ss2d_scan: {name} has shape"):
                backward(inputs[0], torch.empty(0), *wrong)
    if backward is not None:
        with pytest.raises(ValueError, match=f"ss2d_{backend}_backward: dy has shape"):
            backward(inputs[0][:, 1:], torch.empty(0), *inputs)


def test_wrong_shapes_and_backends_are_named():
    inputs = ss2d_inputs((1, 2, 3, 4, 1, 2))
    with pytest.raises(ValueError, match=r"p has shape \(1, 2, 3, 4, 3\), expected \(1, 2, 3, 4, 4\)"):
        ss2d_scan(inputs[0], inputs[1][..., :3], *inputs[2:])
    with pytest.raises(ValueError, match=r"ss2d: backend 'xpu': expected one of reference, torch, cpu, cuda"):
        ss2d_scan(*inputs, backend="xpu")
    u, delta, A, B, C = sequence_inputs(None)[:5]
    with pytest.raises(ValueError, match="'cuda' is not one of reference, torch"):
        selective_scan(*sequence_inputs(None)[:5], backend="cuda")
    with pytest.raises(ValueError, match="C has shape"):
        selective_scan(u, delta, A, B, C[..., 1:])
    with pytest.raises(ValueError, match="must be"):
        selective_scan(u, delta, A, torch.randn(2, 4, 3, 37), C)
