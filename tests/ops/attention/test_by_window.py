"""Window attention with a trained bias on the CPU: numbers, gradients, and what it keeps."""

import pytest
import torch

from contrast_arch.ops.attention.by_window import attend_by_window
from contrast_arch.ops.attention.reference import attend
from tests.ops.ss2d.inputs import outputs_and_gradients


def inputs(bias_windows, dtype=torch.float64, batch=2, windows=3, heads=2, queries=4, keys=9, dim=5):
    shapes = [(batch, windows, heads, n, dim) for n in (queries, keys, keys)]
    shapes.append((*([windows] if bias_windows else []), heads, queries, keys))
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("bias_windows", [False, True])
def test_is_the_plain_form_with_its_gradients(bias_windows):
    tensors = inputs(bias_windows)
    weight = torch.randn(tensors[0].shape, dtype=torch.float64)
    expected = outputs_and_gradients(attend, tensors, weight)
    for a, b in zip(outputs_and_gradients(attend_by_window, tensors, weight), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_large_logits_do_not_overflow():
    tensors = inputs(False, torch.float32)
    tensors[3] = (tensors[3].detach() * 200).requires_grad_()
    weight = torch.randn(tensors[0].shape)
    expected = outputs_and_gradients(attend, [t.detach().double().requires_grad_() for t in tensors], weight)
    for a, b in zip(outputs_and_gradients(attend_by_window, tensors, weight), expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    """The bias stays float32, as a parameter does under autocast."""
    wide = [t.detach().to(dtype).float().requires_grad_() for t in inputs(False)]
    half = [t.detach().to(dtype).requires_grad_() for t in wide[:3]] + wide[3:]
    weight = torch.randn(wide[0].shape).to(dtype)
    full = outputs_and_gradients(attend_by_window, wide, weight)
    narrow = outputs_and_gradients(attend_by_window, half, weight)
    assert [t.dtype for t in narrow] == [dtype] * 4 + [torch.float32]
    for a, b in zip(narrow, full, strict=True):
        # The gradient starts from the rounded output.
        torch.testing.assert_close(a.float(), b, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_wrong_shapes_are_named():
    q, k, v, bias = (t.detach() for t in inputs(True))
    operators = torch.ops.contrast_arch
    for wrong, message in (
        ((q, k[..., 1:], v, bias), r"k has shape \(2, 3, 2, 9, 4\), expected \(2, 3, 2, 9, 5\)"),
        ((q, k, v[:, :, :, 1:], bias), r"v has shape \(2, 3, 2, 8, 5\), expected \(2, 3, 2, 9, 5\)"),
        ((q, k, v, bias[1:]), r"bias has shape \(2, 2, 4, 9\), expected \(3, 2, 4, 9\)"),
        ((q, k, v, bias[0, 1:]), r"bias has shape \(1, 4, 9\), expected \(2, 4, 9\)"),
        ((q[0], k, v, bias), r"q \(3, 2, 4, 5\) must be \(B, windows, M, queries, d\)"),
    ):
        with pytest.raises(ValueError, match=f"window_attention: {message}"):
            operators.window_attention(*wrong)
        with pytest.raises(ValueError, match=f"window_attention: {message}"):
            operators.window_attention_backward(q, q, *wrong)
    with pytest.raises(ValueError, match="window_attention_backward: dy has shape"):
        operators.window_attention_backward(q[1:], q, q, k, v, bias)


def test_no_weights_are_kept():
    """Of OCAB's 256 x 576 weights for each of 6 heads, 3.4 MiB a window, nothing; q, k, v and the output only."""
    tensors = inputs(False, torch.float32, batch=1, windows=2, heads=6, queries=256, keys=576, dim=10)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        y = attend_by_window(*tensors)
    assert y.requires_grad
    assert sum(kept) == y.numel() + sum(t.numel() for t in tensors)


def test_operators_pass_opcheck():
    tensors = inputs(True)
    torch.library.opcheck(torch.ops.contrast_arch.window_attention, tensors)
    fixed = [t.detach() for t in tensors]
    y = attend_by_window(*fixed)
    torch.library.opcheck(
        torch.ops.contrast_arch.window_attention_backward, (y, y, *fixed), test_utils=("test_schema", "test_faketensor")
    )
