"""Inputs of the scans, and what is compared of them."""

import torch

from contrast_arch.ops import library


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
    operator = library.OPERATORS[name]
    torch.library.opcheck(operator, (*inputs, True))
    fixed = [t.detach() for t in inputs]
    backward = getattr(torch.ops.contrast_arch, f"ss2d_{name}_backward")
    torch.library.opcheck(backward, (*operator(*fixed, True), *fixed), test_utils=("test_schema", "test_faketensor"))


def check_backward_without_states(name, inputs):
    """What an exported network does: nothing is kept, and the gradients are the same bits."""
    operator = library.OPERATORS[name]
    weight = torch.randn(inputs[0].shape)
    kept, worked_out = (
        outputs_and_gradients(lambda *t, keep=keep: operator(*t, keep)[0], inputs, weight) for keep in (True, False)
    )
    assert operator(*inputs, False)[1].numel() == 0
    for a, b in zip(kept, worked_out, strict=True):
        assert torch.equal(a, b)
