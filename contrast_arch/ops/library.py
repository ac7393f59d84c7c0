"""SS2D's core as operators of PyTorch's library, one pair for each fast backend.

``torch.ops.contrast_arch.ss2d_NAME(x, p, dt_w, dt_b, A_logs, Ds, keep) -> (y, states)`` and ``ss2d_NAME_backward(dy,
states, x, p, dt_w, dt_b, A_logs, Ds) -> gradients``; torch.compile, torch.export and autocast do not look inside.
Shapes are those of ``reference.py``. A backend is a module with

- ``forward`` and ``backward`` of these signatures. ``states`` is what backward can use of the forward pass; with
  ``keep`` false it is empty, shape (0,), and backward works it out again. Outputs are contiguous, each in a storage of
  its own, gradients in the dtypes of the tensors they belong to;
- ``count_chunks(length)``, which gives the shape of ``states``, and ``why_not(device, double)``.

Under autocast the operators take x and p in whatever dtype the layers before them give, and compute in float32.
"""

import torch

from contrast_arch.ops import cpu, numba, triton
from contrast_arch.ops.reference import compute_dtype, states_shape

NAMESPACE = "contrast_arch"
AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

_FORWARD = "(Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds, bool keep) -> (Tensor, Tensor)"
_BACKWARD = (
    "(Tensor dy, Tensor states, Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_fragment = torch.library.Library(NAMESPACE, "FRAGMENT")


def define(name, forward, backward, schemas, fake):
    """Register a function and its gradient as ``contrast_arch::NAME`` and ``contrast_arch::NAME_backward``.

    Args:
        backward: takes the gradient of the output, what was kept of the forward pass, and at last the inputs; gives
            the gradients of the inputs in their shapes and dtypes.
        schemas: of the two.
        fake: the forward function without its numbers; that of ``backward`` follows from its inputs.

    Returns:
        The two operators. Their autocast rule: inputs keep their dtypes, and nothing inside is narrowed.
    """
    functions = {f"{NAMESPACE}::{name}": forward, f"{NAMESPACE}::{name}_backward": backward}
    operators = [
        torch.library.custom_op(full_name, function, mutates_args=(), schema=schema)
        for (full_name, function), schema in zip(functions.items(), schemas, strict=True)
    ]
    operators[0].register_fake(fake)
    inputs = schemas[1].split("->")[1].count("Tensor")
    operators[1].register_fake(lambda *tensors: tuple(t.new_empty(t.shape) for t in tensors[-inputs:]))
    for full_name, operator in zip(functions, operators, strict=True):
        for device_type, key in AUTOCAST_KEYS.items():

            def rule(*args, device_type=device_type, operator=operator):
                with torch.autocast(device_type, enabled=False):
                    return operator(*args)

            _fragment.impl(full_name, rule, key)
    return operators


def _define(name, backend):
    def fake(x, p, dt_w, dt_b, A_logs, Ds, keep):
        dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
        shape = states_shape(x, A_logs, backend.count_chunks(x.shape[1] * x.shape[2])) if keep else (0,)
        return x.new_empty(x.shape), x.new_empty(shape, dtype=dtype)

    forward, backward = define(f"ss2d_{name}", backend.forward, backend.backward, (_FORWARD, _BACKWARD), fake)

    def set_up(ctx, inputs, output):
        ctx.save_for_backward(output[1], *inputs[:-1])
        ctx.set_materialize_grads(False)

    def gradient(ctx, dy, d_states):
        if dy is None:
            return (None,) * 7
        return (*backward(dy, *ctx.saved_tensors), None)

    forward.register_autograd(gradient, setup_context=set_up)
    return forward


_FAST = {"torch": cpu, "numba": numba, "triton": triton}
OPERATORS = {name: _define(name, backend) for name, backend in _FAST.items()}
