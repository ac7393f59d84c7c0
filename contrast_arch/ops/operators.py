"""Operators of PyTorch's library, and the state of PyTorch around a call of one."""

import contextlib
from collections.abc import Callable

import torch
from torch.autograd import forward_ad

NAMESPACE = "contrast_arch"


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
    """Dtype of the computation: float64 if any input is, float32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def check_shapes(function: str, expected: dict[str, tuple[torch.Tensor, tuple]]) -> None:
    """Raise ValueError unless the tensors, by the name of their argument, have the expected shapes."""
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{function}: {name} has shape {tuple(tensor.shape)}, expected {shape}")


def define(
    name: str,
    inputs: str,
    gradients: int,
    results: str,
    kept: slice,
    forward: Callable,
    backward: Callable,
    outputs: Callable,
) -> Callable:
    """Register a function and its gradient as ``contrast_arch::NAME`` and ``contrast_arch::NAME_backward``.

    Neither has a second or a forward-mode derivative. Autocast does not narrow what they compute.

    Args:
        inputs: arguments of ``forward`` as a schema has them, tensors first.
        gradients: number of inputs, counted from the first, that have a gradient.
        results: tensors that ``forward`` returns, as a schema has them; only the first has a gradient.
        kept: the results that ``backward`` takes.
        backward: takes the gradient of the first result, the kept results, and the tensors of ``inputs``; returns the
            gradients in the shapes and dtypes of their tensors.
        outputs: takes the inputs; returns shape and dtype of each result, or raises ValueError where the inputs do not
            fit. A traced or exported network calls both operators with whatever size it is given, so both call it.
    """
    tensors = inputs.count("Tensor")
    kept_results = results.split(", ")[kept]

    def refused(kind):
        definition = f"{NAMESPACE.upper()}_BACKEND=reference"
        return RuntimeError(f"{NAMESPACE}::{name} has no {kind} derivative; the definition has: {definition}")

    def run(function, *given):
        # Operators do not see which input has a tangent, and torch.func.jvp would give tangents of zero.
        if forward_ad._current_level >= 0:
            raise refused("forward-mode")
        with no_autocast(given[0].device):
            return function(*given)

    def checked(*given):
        outputs(*given)
        return run(forward, *given)

    def fake(*given):
        made = tuple(given[0].new_empty(shape, dtype=dtype) for shape, dtype in outputs(*given))
        return made if len(made) > 1 else made[0]

    def checked_backward(dy, *given):
        check_shapes(f"{name}_backward", {"dy": (dy, tuple(outputs(*given[-tensors:])[0][0]))})
        return run(backward, dy, *given)

    def fake_backward(*given):
        return tuple(t.new_empty(t.shape) for t in given[-tensors:][:gradients])

    def register(name, function, fake, inputs, results):
        schema = f"({inputs}) -> ({results})"
        operator = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=(), schema=schema)
        operator.register_fake(fake)
        return operator

    operator = register(name, checked, fake, inputs, results)
    given = ", ".join(["Tensor dy", *kept_results, *inputs.split(", ")[:tensors]])
    returned = ", ".join(["Tensor"] * gradients)
    operator_backward = register(f"{name}_backward", checked_backward, fake_backward, given, returned)

    def set_up(ctx, inputs, output):
        ctx.others = len(inputs) - gradients
        results = output if isinstance(output, tuple) else (output,)
        ctx.save_for_backward(*results[kept], *inputs[:tensors])
        ctx.set_materialize_grads(False)

    def gradient(ctx, dy, *_):
        found = (None,) * gradients if dy is None else operator_backward(dy, *ctx.saved_tensors)
        return (*found, *(None,) * ctx.others)

    def second(ctx, *_):
        raise refused("second")

    operator.register_autograd(gradient, setup_context=set_up)
    operator_backward.register_autograd(second)
    return operator
