"""Operators of PyTorch's library, and the state of PyTorch around a call of one.

torch.compile, torch.export and autocast do not look inside an operator. Under autocast it takes its tensors in whatever
dtype the layers before it give, and computes in float32.
"""

import contextlib
from collections.abc import Callable

import torch
from torch.autograd import forward_ad

NAMESPACE = "contrast_arch"
AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

FRAGMENT = torch.library.Library(NAMESPACE, "FRAGMENT")


def exporting() -> bool:
    """True while torch.export records a network; PyTorch before 2.7 cannot say."""
    return getattr(torch.compiler, "is_exporting", bool)()


def recording() -> bool:
    """True while torch.export or torch.jit.trace records a network, for other sizes and perhaps other machines."""
    return exporting() or torch.jit.is_tracing()


def no_autocast(device: torch.device):
    """Keep autocast from running matrix products in half precision; nothing to trace where it does not act."""
    # The meta device has none.
    acts = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if acts else contextlib.nullcontext()


def compute_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype of what is accumulated: float64 if any input is, float32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def check_shapes(function: str, expected: dict[str, tuple[torch.Tensor, tuple]]) -> None:
    """Raise ValueError unless tensors, by the name of their argument, have the shapes expected of them."""
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{function}: {name} has shape {tuple(tensor.shape)}, expected {shape}")


def _no_derivative(name, kind):
    return RuntimeError(
        f"{NAMESPACE}::{name} has no {kind} derivative; the definition has: {NAMESPACE.upper()}_BACKEND=reference"
    )


def _refuse_forward_mode(name):
    """Raise under forward-mode differentiation; with torch.func.jvp PyTorch would give tangents of zero.

    Operators do not get to see which of their inputs has a tangent.
    """
    if forward_ad._current_level >= 0:
        raise _no_derivative(name, "forward-mode")


def _register(name, inputs, results, function, fake):
    schema = f"({', '.join(inputs)}) -> ({', '.join(['Tensor'] * results)})"
    operator = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    for device_type, key in AUTOCAST_KEYS.items():

        def rule(*args, device_type=device_type):
            with torch.autocast(device_type, enabled=False):
                return operator(*args)

        FRAGMENT.impl(f"{NAMESPACE}::{name}", rule, key)
    return operator


def define(
    name: str,
    inputs: str,
    results: str,
    kept: slice,
    forward: Callable,
    backward: Callable,
    outputs: Callable,
    *more,
) -> Callable:
    """Register a function and its gradient as ``contrast_arch::NAME`` and ``contrast_arch::NAME_backward``.

    Args:
        inputs: names of the tensors that ``forward`` takes; ``*_rows`` stand last and have no gradient.
        results: names of the tensors that it gives; only the first has a gradient.
        kept: which results ``backward`` takes.
        backward: takes the gradient of the first result, those that are kept, and the inputs; gives the gradients of
            the inputs, in their shapes and dtypes.
        outputs: takes the inputs of ``forward``; gives shape and dtype of each result, or raises ValueError where the
            inputs do not fit. Called before either function: both trust the shapes, and a traced or exported network
            calls the operators with whatever size it is given.
        more: other inputs of ``forward``, behind the tensors, as they stand in a schema.

    Returns:
        The first of the operators. Their autocast rule: inputs keep their dtypes, and nothing inside is narrowed.
    """
    names = [f"Tensor {tensor}" for tensor in inputs.split()]
    gradients = [not tensor.endswith("_rows") for tensor in names].count(True)
    results = results.split()

    def fake(*given):
        made = tuple(given[0].new_empty(shape, dtype=dtype) for shape, dtype in outputs(*given))
        return made if len(made) > 1 else made[0]

    def checked(*given):
        _refuse_forward_mode(name)
        outputs(*given)
        return forward(*given)

    def checked_backward(dy, *given):
        _refuse_forward_mode(name)
        shape = outputs(*given[-len(names) :])[0][0]
        check_shapes(f"{name}_backward", {"dy": (dy, tuple(shape))})
        return backward(dy, *given)

    def fake_backward(*given):
        return tuple(t.new_empty(t.shape) for t in given[-len(names) :][:gradients])

    operator = _register(name, [*names, *more], len(results), checked, fake)
    given = ["Tensor dy", *(f"Tensor {result}" for result in results[kept]), *names]
    operator_backward = _register(f"{name}_backward", given, gradients, checked_backward, fake_backward)

    def set_up(ctx, inputs, output):
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.others = len(inputs) - gradients
        ctx.save_for_backward(*outputs[kept], *inputs[: len(names)])
        ctx.set_materialize_grads(False)

    def gradient(ctx, dy, *_):
        found = (None,) * gradients if dy is None else operator_backward(dy, *ctx.saved_tensors)
        return (*found, *(None,) * ctx.others)

    def refused(ctx, *_):
        raise _no_derivative(name, "second")

    operator.register_autograd(gradient, setup_context=set_up)
    operator_backward.register_autograd(refused)
    return operator
