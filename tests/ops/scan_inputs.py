"""Inputs of the scans, and what is compared of them."""

import torch


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
