"""Inputs of the scans, and what is compared of them."""

import torch

from contrast_arch.ops import BACKENDS, ss2d_scan
from contrast_arch.ops.ss2d.reference import scan_order


def ss2d_inputs(shape, dtype=torch.float64, dt_bias=0.0, parameter_dtype=None):
    """x, p and the four parameters for (B, H, W, D, N, R); ``dt_bias`` moves the step size."""
    B, H, W, D, N, R = shape

    def normal(*size):
        return torch.randn(*size, dtype=torch.float64)

    features = [normal(B, H, W, D), normal(B, H, W, 4, R + 2 * N)]
    parameters = [
        normal(4, D, R) * 0.3,
        normal(4, D) * 0.5 + dt_bias,
        normal(4 * D, N) * 0.3,
        1 + 0.1 * normal(4 * D),
    ]
    tensors = [t.to(dtype) for t in features] + [t.to(parameter_dtype or dtype) for t in parameters]
    return [t.requires_grad_() for t in tensors]


def outputs_and_gradients(function, inputs, weight):
    y = function(*inputs)
    return [y, *torch.autograd.grad(y, inputs, weight.to(y.dtype))]


def check_operators(name, inputs):
    """PyTorch's own checks of a backend's two operators; the gradient has no gradient of its own."""
    operator = BACKENDS["ss2d"][name].ss2d
    torch.library.opcheck(operator, (*inputs, True))
    fixed = [t.detach() for t in inputs]
    backward = getattr(torch.ops.contrast_arch, f"ss2d_{name}_backward")
    torch.library.opcheck(backward, (*operator(*fixed, True), *fixed), test_utils=("test_schema", "test_faketensor"))


def check_backward_without_states(name, inputs):
    """Check that backward without kept states, as in an exported network, gives the same bits of the gradients."""
    operator = BACKENDS["ss2d"][name].ss2d
    weight = torch.randn(inputs[0].shape)
    kept, worked_out = (
        outputs_and_gradients(lambda *t, keep=keep: operator(*t, keep)[0], inputs, weight) for keep in (True, False)
    )
    assert operator(*inputs, False)[1].numel() == 0
    for a, b in zip(kept, worked_out, strict=True):
        assert torch.equal(a, b)


def on(backend):
    return lambda *inputs: ss2d_scan(*inputs, backend=backend)


def check_against_definition(backend, inputs, tolerance, absolute=0.0):
    """Output and gradients against the float64 definition on the same numbers, relative to the largest of each."""
    weight = torch.randn(inputs[0].shape)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    expected = outputs_and_gradients(on("reference"), wide, weight)
    names = ["y", "x", "p", "dt_w", "dt_b", "A_logs", "Ds"]
    for name, a, b in zip(names, outputs_and_gradients(on(backend), inputs, weight), expected, strict=True):
        assert a.isfinite().all(), name
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max() + absolute, name


def check_half_precision(backend, dtype):
    """x, p, y and their gradients in half precision; the error is that of rounding the result once."""
    inputs = ss2d_inputs((1, 5, 7, 5, 1, 2), dtype, parameter_dtype=torch.float32)
    weight = torch.randn(inputs[0].shape).to(dtype)
    wide = [t.detach().float().requires_grad_() for t in inputs]
    full = outputs_and_gradients(on(backend), wide, weight)
    half = outputs_and_gradients(on(backend), inputs, weight)
    assert [t.dtype for t in half] == [dtype] * 3 + [torch.float32] * 4
    for a, b in zip(half, full, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2 * torch.finfo(a.dtype).eps, atol=1e-6)


def check_not_contiguous(backend):
    inputs = ss2d_inputs((2, 3, 5, 4, 1, 2), torch.float32)
    strided = [t.detach().permute(3, 2, 1, 0, *range(4, t.dim())).contiguous() for t in inputs[:2]]
    strided = [t.permute(3, 2, 1, 0, *range(4, t.dim())).requires_grad_() for t in strided]
    weight = torch.randn(2, 5, 3, 4).transpose(1, 2)
    assert not strided[0].is_contiguous()
    for a, b in zip(
        outputs_and_gradients(on(backend), strided + inputs[2:], weight),
        outputs_and_gradients(on(backend), inputs, weight.contiguous()),
        strict=True,
    ):
        assert torch.equal(a, b)


def check_empty(backend, shape):
    inputs = ss2d_inputs(shape, torch.float32)
    y, *gradients = outputs_and_gradients(on(backend), inputs, torch.empty(shape[:4]))
    assert y.shape == shape[:4]
    for gradient, t in zip(gradients, inputs, strict=True):
        assert gradient.shape == t.shape and not gradient.any()


def check_nan(backend, which):
    """It comes out, and stays in its image."""
    inputs = [t.detach() for t in ss2d_inputs((2, 3, 5, 3, 1, 2), torch.float32)]
    clean = on(backend)(*inputs)
    inputs[which].view(-1)[0] = float("nan")
    y = on(backend)(*inputs)
    assert y[0].isnan().any()
    if which < 2:
        assert torch.equal(y[1], clean[1])


def check_order_of_pixels(backend):
    """An input that only the last visited pixel of each direction can see is told apart by direction."""
    H, W = 3, 4
    for direction in range(4):
        first = scan_order(H, W, direction)[0].item()
        x = torch.zeros(1, H, W, 1)
        x.view(-1)[first] = 1
        p = torch.zeros(1, H, W, 4, 3)
        p[..., direction, 1:] = 1  # B = C = 1 in this direction only
        y = on(backend)(x, p, torch.zeros(4, 1, 1), torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4)).view(-1)
        expected = 0.5 ** torch.arange(H * W) * torch.log(torch.tensor(2.0))  # dt = softplus(0) = ln 2
        torch.testing.assert_close(y[scan_order(H, W, direction)], expected)
