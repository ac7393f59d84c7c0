"""SS2D's core as operators of PyTorch's library, one pair for each fast backend.

``torch.ops.contrast_arch.ss2d_NAME(x, p, dt_w, dt_b, A_logs, Ds, keep) -> (y, states)`` and ``ss2d_NAME_backward(dy,
states, x, p, dt_w, dt_b, A_logs, Ds) -> gradients``; torch.compile, torch.export and autocast do not look inside.
Shapes are those of ``reference.py``. A backend is a module with

- ``forward`` and ``backward`` of these signatures. ``states`` is what backward can use of the forward pass; with
  ``keep`` false it is empty, shape (0,), and backward works it out again. Outputs are contiguous, each in a storage of
  its own, gradients in the dtypes of the tensors they belong to;
- ``states_shape(x, A_logs)``, ``why_not(device, double)``.

Under autocast the operators take x and p in whatever dtype the layers before them give, and compute in float32.
"""

import torch

from contrast_arch.ops import cpu, triton
from contrast_arch.ops.reference import compute_dtype

NAMESPACE = "contrast_arch"
AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

_FORWARD = "(Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds, bool keep) -> (Tensor, Tensor)"
_BACKWARD = (
    "(Tensor dy, Tensor states, Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_fragment = torch.library.Library(NAMESPACE, "FRAGMENT")


def without_autocast(name, operator):
    """Register the autocast rule: inputs keep their dtypes, and nothing inside is narrowed."""
    for device_type, key in AUTOCAST_KEYS.items():

        def rule(*args, device_type=device_type):
            with torch.autocast(device_type, enabled=False):
                return operator(*args)

        _fragment.impl(name, rule, key)


def _define(name, backend):
    names = f"{NAMESPACE}::ss2d_{name}", f"{NAMESPACE}::ss2d_{name}_backward"
    forward = torch.library.custom_op(names[0], backend.forward, mutates_args=(), schema=_FORWARD)
    backward = torch.library.custom_op(names[1], backend.backward, mutates_args=(), schema=_BACKWARD)

    def fake_forward(x, p, dt_w, dt_b, A_logs, Ds, keep):
        dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
        return x.new_empty(x.shape), x.new_empty(backend.states_shape(x, A_logs) if keep else (0,), dtype=dtype)

    def fake_backward(dy, states, *inputs):
        return tuple(t.new_empty(t.shape) for t in inputs)

    def set_up(ctx, inputs, output):
        ctx.save_for_backward(output[1], *inputs[:-1])
        ctx.set_materialize_grads(False)

    def gradient(ctx, dy, d_states):
        if dy is None:
            return (None,) * 7
        return (*backward(dy, *ctx.saved_tensors), None)

    forward.register_fake(fake_forward)
    forward.register_autograd(gradient, setup_context=set_up)
    backward.register_fake(fake_backward)
    without_autocast(names[0], forward)
    without_autocast(names[1], backward)
    return forward


OPERATORS = {name: _define(name, backend) for name, backend in (("torch", cpu), ("triton", triton))}
