"""Operators of PyTorch's library: torch.compile, torch.export and autocast do not look inside them.

Under autocast an operator takes its tensors in whatever dtype the layers before it give, and computes in float32.
"""

import torch
from torch.autograd import forward_ad

NAMESPACE = "contrast_arch"
AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

FRAGMENT = torch.library.Library(NAMESPACE, "FRAGMENT")


def compute_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype of what is accumulated: float64 if any input is, float32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def check_shapes(function: str, expected: dict[str, tuple[torch.Tensor, tuple]]) -> None:
    """Raise unless tensors have the shapes expected of them.

    Args:
        function: named in the message.
        expected: name of an argument -> the tensor and its expected shape.

    Raises:
        ValueError: the first that does not.
    """
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


def define(name, forward, backward, schemas, outputs, kept):
    """Register a function and its gradient as ``contrast_arch::NAME`` and ``contrast_arch::NAME_backward``.

    Args:
        forward: gives its result, or that and what is kept for ``backward``, for which there is no gradient.
        backward: takes the gradient of the result, what ``kept`` says, and at last the inputs that are tensors; gives
            the gradients of the first of them, in their shapes and dtypes.
        schemas: of the two; tensors come before other inputs, and those that have a gradient before the rest.
        outputs: takes the inputs of ``forward``; gives shape and dtype of each output, or raises ValueError where the
            inputs do not fit. Called before either function: both trust the shapes, and a traced or exported network
            calls the operators with whatever size it is given.
        kept: which of the outputs ``backward`` takes, a slice.

    Returns:
        The first of the operators. Their autocast rule: inputs keep their dtypes, and nothing inside is narrowed.
    """
    tensors = schemas[0].split("->")[0].count("Tensor")
    gradients = schemas[1].split("->")[1].count("Tensor")

    def fake(*inputs):
        made = tuple(inputs[0].new_empty(shape, dtype=dtype) for shape, dtype in outputs(*inputs))
        return made if len(made) > 1 else made[0]

    def checked(*inputs):
        _refuse_forward_mode(name)
        outputs(*inputs)
        return forward(*inputs)

    def checked_backward(dy, *given):
        _refuse_forward_mode(name)
        shape = outputs(*given[-tensors:])[0][0]
        check_shapes(f"{name}_backward", {"dy": (dy, tuple(shape))})
        return backward(dy, *given)

    functions = {f"{NAMESPACE}::{name}": checked, f"{NAMESPACE}::{name}_backward": checked_backward}
    operators = [
        torch.library.custom_op(full_name, function, mutates_args=(), schema=schema)
        for (full_name, function), schema in zip(functions.items(), schemas, strict=True)
    ]
    operators[0].register_fake(fake)
    operators[1].register_fake(lambda *given: tuple(t.new_empty(t.shape) for t in given[-tensors:][:gradients]))
    for full_name, operator in zip(functions, operators, strict=True):
        for device_type, key in AUTOCAST_KEYS.items():

            def rule(*args, device_type=device_type, operator=operator):
                with torch.autocast(device_type, enabled=False):
                    return operator(*args)

            FRAGMENT.impl(full_name, rule, key)

    def set_up(ctx, inputs, output):
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.others = len(inputs) - gradients
        ctx.save_for_backward(*outputs[kept], *inputs[:tensors])
        ctx.set_materialize_grads(False)

    def gradient(ctx, dy, *_):
        without = (None,) * ctx.others
        if dy is None:
            return (None,) * gradients + without
        return (*operators[1](dy, *ctx.saved_tensors), *without)

    def refused(ctx, *_):
        raise _no_derivative(name, "second")

    operators[0].register_autograd(gradient, setup_context=set_up)
    operators[1].register_autograd(refused)
    return operators[0]
