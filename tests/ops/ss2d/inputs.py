"""Inputs of the scans, and the checks that every fast backend passes."""

from functools import partial

import pytest
import torch

from contrast_arch.ops import BACKENDS, ss2d_scan
from contrast_arch.ops.ss2d.reference import scan_order


def ss2d_inputs(shape, dtype=torch.float64, dt_bias=0.0, parameter_dtype=None):
    """x, p and the four parameters for (B, H, W, D, N, R); ``dt_bias`` moves the step size."""
    B, H, W, D, N, R = shape

    def normal(*size):
        return torch.randn(*size, dtype=torch.float64)

    features = [normal(B, H, W, D), normal(B, H, W, 4, R + 2 * N)]
    parameters = [normal(4, D, R) * 0.3, normal(4, D) * 0.5 + dt_bias, normal(4 * D, N) * 0.3, 1 + 0.1 * normal(4 * D)]
    tensors = [t.to(dtype) for t in features] + [t.to(parameter_dtype or dtype) for t in parameters]
    return [t.requires_grad_() for t in tensors]


def outputs_and_gradients(function, inputs, weight):
    y = function(*inputs)
    return [y, *torch.autograd.grad(y, inputs, weight.to(y.dtype))]


def on(backend):
    return lambda *inputs: ss2d_scan(*inputs, backend=backend)


def check_definition(backend, shape, dtype=torch.float32, dt_bias=0.0):
    """Output and gradients against the float64 definition on the same numbers, relative to the largest of each.

    Where exp(dt A) is below float32 A's gradient is too, hence the absolute part.
    """
    inputs = ss2d_inputs(shape, dtype, dt_bias)
    weight = torch.randn(inputs[0].shape)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    expected = outputs_and_gradients(on("reference"), wide, weight)
    names = ["y", "x", "p", "dt_w", "dt_b", "A_logs", "Ds"]
    tolerance, absolute = (1e-11, 1e-12) if dtype == torch.float64 else (5e-6 if dt_bias else 2e-6, 1e-7)
    for name, a, b in zip(names, outputs_and_gradients(on(backend), inputs, weight), expected, strict=True):
        assert a.isfinite().all(), name
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max() + absolute, name


def check_half_precision(backend, image):
    """x, p, y and their gradients in half precision; the error is that of rounding the result once."""
    for dtype in (torch.float16, torch.bfloat16):
        inputs = ss2d_inputs((1, *image, 2, 1, 2), dtype, parameter_dtype=torch.float32)
        weight = torch.randn(inputs[0].shape).to(dtype)
        wide = [t.detach().float().requires_grad_() for t in inputs]
        full = outputs_and_gradients(on(backend), wide, weight)
        half = outputs_and_gradients(on(backend), inputs, weight)
        assert [t.dtype for t in half] == [dtype] * 3 + [torch.float32] * 4
        for a, b in zip(half, full, strict=True):
            torch.testing.assert_close(a.float(), b, rtol=2 * torch.finfo(a.dtype).eps, atol=1e-6)


def check_layout_and_states(backend, image):
    """The same bits from inputs that are not contiguous, under autocast, and from backward without kept states.

    The latter is that of an exported network.
    """
    inputs = ss2d_inputs((2, *image, 3, 1, 1), torch.float32)
    weight = torch.randn(2, *image[::-1], 3).transpose(1, 2)
    expected = outputs_and_gradients(on(backend), inputs, weight.contiguous())
    strided = [t.detach().permute(3, 2, 1, 0, *range(4, t.dim())).contiguous() for t in inputs[:2]]
    strided = [t.permute(3, 2, 1, 0, *range(4, t.dim())).requires_grad_() for t in strided]
    assert not strided[0].is_contiguous()
    operator = BACKENDS["ss2d"][backend].ss2d
    found = [outputs_and_gradients(on(backend), strided + inputs[2:], weight)]
    found.append(outputs_and_gradients(lambda *t: operator(*t, False)[0], inputs, weight.contiguous()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found.append(outputs_and_gradients(on(backend), inputs, weight.contiguous()))
    assert operator(*inputs, False)[1].numel() == 0
    for values in found:
        assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))


def check_empty(backend, image):
    for shape in ((0, *image, 3, 1, 2), (2, 0, 4, 3, 1, 2)):
        inputs = ss2d_inputs(shape, torch.float32)
        y, *gradients = outputs_and_gradients(on(backend), inputs, torch.empty(shape[:4]))
        assert y.shape == shape[:4]
        for gradient, t in zip(gradients, inputs, strict=True):
            assert gradient.shape == t.shape and not gradient.any()


def check_nan(backend, image):
    """It comes out, and stays in its image: steps behind the end read no pixel."""
    clean = [t.detach() for t in ss2d_inputs((2, *image, 2, 1, 1), torch.float32)]
    expected = on(backend)(*clean)
    for which in range(6):
        inputs = [t.clone() for t in clean]
        inputs[which].view(-1)[0] = float("nan")
        y = on(backend)(*inputs)
        assert y[0].isnan().any()
        assert which > 1 or torch.equal(y[1], expected[1])


def check_order_of_pixels(backend, image):
    """An input that only the first visited pixel of each direction has is told apart by direction."""
    H, W = image
    for direction in range(4):
        first = scan_order(H, W, direction)[0].item()
        x = torch.zeros(1, H, W, 1)
        x.view(-1)[first] = 1
        p = torch.zeros(1, H, W, 4, 3)
        p[..., direction, 1:] = 1  # B = C = 1 in this direction only
        y = on(backend)(x, p, torch.zeros(4, 1, 1), torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4)).view(-1)
        expected = 0.5 ** torch.arange(H * W) * torch.log(torch.tensor(2.0))  # dt = softplus(0) = ln 2
        torch.testing.assert_close(y[scan_order(H, W, direction)], expected)


def check_operators(backend, image):
    """PyTorch's own checks of the two operators, and wrong shapes: a traced network calls them without ss2d_scan."""
    inputs = ss2d_inputs((1, *image, 2, 1, 1), torch.float32)
    operator, backward = BACKENDS["ss2d"][backend].ss2d, getattr(torch.ops.contrast_arch, f"ss2d_{backend}_backward")
    torch.library.opcheck(operator, (*inputs, True))
    fixed = [t.detach() for t in inputs]
    torch.library.opcheck(backward, (*operator(*fixed, True), *fixed), test_utils=("test_schema", "test_faketensor"))
    for index, name in enumerate(["p", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds"], start=1):
        wrong = [*fixed[:index], fixed[index][1:], *fixed[index + 1 :]]
        for call in (partial(operator, *wrong, True), partial(backward, fixed[0], fixed[0], *wrong)):
            with pytest.raises(ValueError, match=f"ss2d_scan: {name} has shape"):
                call()
    with pytest.raises(ValueError, match=f"ss2d_{backend}_backward: dy has shape"):
        backward(fixed[0][:, 1:], torch.empty(0), *fixed)


CHECKS = (
    check_half_precision,
    check_layout_and_states,
    check_empty,
    check_nan,
    check_order_of_pixels,
    check_operators,
)
