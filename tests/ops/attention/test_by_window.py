"""Window attention with a trained bias on the CPU: numbers, gradients, and what it keeps."""

import pytest
import torch

from contrast_arch.ops import IndexedBias
from contrast_arch.ops.attention.by_window import attend_by_window
from contrast_arch.ops.attention.reference import attend
from tests.ops.attention.inputs import gathered_rows
from tests.ops.ss2d.inputs import outputs_and_gradients

ROWS = gathered_rows(4, 9)


def inputs(dtype=torch.float64, batch=2, windows=3, heads=2, queries=4, keys=9, dim=5):
    shapes = [(batch, windows, heads, n, dim) for n in (queries, keys, keys)] + [(heads, queries * keys)]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def by_window(q, k, v, table, mask=None):
    return attend_by_window(q, k, v, table, *ROWS, mask)


def definition(q, k, v, table, mask=None):
    return attend(q, k, v, IndexedBias(table, *ROWS), mask)


@pytest.mark.parametrize("masked", [False, True])
def test_is_the_plain_form_with_its_gradients(masked):
    tensors, mask = inputs(), torch.randn(3, 4, 9) if masked else None
    weight = torch.randn(tensors[0].shape, dtype=torch.float64)
    found, expected = (
        outputs_and_gradients(lambda *t, way=way: way(*t, mask), tensors, weight) for way in (by_window, definition)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_large_logits_do_not_overflow():
    tensors = inputs(torch.float32)
    tensors[3] = (tensors[3].detach() * 200).requires_grad_()
    weight = torch.randn(tensors[0].shape)
    expected = outputs_and_gradients(definition, [t.detach().double().requires_grad_() for t in tensors], weight)
    for a, b in zip(outputs_and_gradients(by_window, tensors, weight), expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    """The bias stays float32, as a parameter does under autocast."""
    wide = [t.detach().to(dtype).float().requires_grad_() for t in inputs()]
    half = [t.detach().to(dtype).requires_grad_() for t in wide[:3]] + wide[3:]
    weight = torch.randn(wide[0].shape).to(dtype)
    full = outputs_and_gradients(by_window, wide, weight)
    narrow = outputs_and_gradients(by_window, half, weight)
    assert [t.dtype for t in narrow] == [dtype] * 4 + [torch.float32]
    for a, b in zip(narrow, full, strict=True):
        # The gradient starts from the rounded output.
        torch.testing.assert_close(a.float(), b, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_wrong_shapes_are_named():
    q, k, v, table = (t.detach() for t in inputs())
    mask, operators = torch.zeros(3, 4, 9), torch.ops.contrast_arch
    for wrong, message in (
        ((q, k[..., 1:], v, table, *ROWS, mask), r"k has shape \(2, 3, 2, 9, 4\), expected \(2, 3, 2, 9, 5\)"),
        ((q, k, v[:, :, :, 1:], table, *ROWS, mask), r"v has shape \(2, 3, 2, 8, 5\), expected \(2, 3, 2, 9, 5\)"),
        ((q, k, v, table, *ROWS, mask[1:]), r"mask has shape \(2, 4, 9\), expected \(3, 4, 9\)"),
        ((q, k, v, table[1:], *ROWS, None), r"bias has shape \(1, 4, 9\), expected \(2, 4, 9\)"),
        ((q, k, v, table[0], *ROWS, None), r"table \(36,\) must be \(M, rows\), query_rows \(4,\)"),
        ((q[0], k, v, table, *ROWS, mask), r"q \(3, 2, 4, 5\) must be \(B, windows, M, queries, d\)"),
    ):
        with pytest.raises(ValueError, match=f"window_attention: {message}"):
            operators.window_attention(*wrong)
        with pytest.raises(ValueError, match=f"window_attention: {message}"):
            operators.window_attention_backward(q, q, *wrong)
    with pytest.raises(ValueError, match="window_attention_backward: dy has shape"):
        operators.window_attention_backward(q[1:], q, q, k, v, table, *ROWS, mask)


def test_operators_pass_opcheck():
    tensors, mask = inputs(), torch.zeros(3, 4, 9)
    torch.library.opcheck(torch.ops.contrast_arch.window_attention, (*tensors, *ROWS, mask))
    fixed = [t.detach() for t in tensors]
    torch.library.opcheck(
        torch.ops.contrast_arch.window_attention_backward,
        (fixed[0], fixed[0], *fixed, *ROWS, mask),
        test_utils=("test_schema", "test_faketensor"),
    )
