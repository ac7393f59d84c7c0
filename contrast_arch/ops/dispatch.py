"""The one place that chooses a backend, for every operator.

``BACKENDS`` says which module computes an operator. A module has a function of the operator's name. One that does not
run everywhere has ``REQUIREMENT``, its device and its package, and ``self_test_error``, see
:func:`~contrast_arch.ops.self_test.self_test_verdict`. The backend named after a type of device is the fastest there;
"torch", in plain PyTorch, runs everywhere; "reference" is the definition that the others are tested against.

A call takes the backend that it names, else the one that the environment variable ``CONTRAST_ARCH_BACKEND`` names, else
the fastest that device and dtype allow. The variable holds one name, for all operators that have such a backend, or
``OPERATOR=NAME`` for single ones, with commas between them. The choice goes to the log, once for each operator and
device.
"""

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator

import torch

from contrast_arch.ops.attention import cpu as attention_cpu
from contrast_arch.ops.attention import reference as attention_reference
from contrast_arch.ops.attention import torch as attention_torch
from contrast_arch.ops.operators import compute_dtype, recording
from contrast_arch.ops.self_test import self_test_verdict
from contrast_arch.ops.ss2d import cpu as ss2d_cpu
from contrast_arch.ops.ss2d import cuda as ss2d_cuda
from contrast_arch.ops.ss2d import reference as ss2d_reference
from contrast_arch.ops.ss2d import torch as ss2d_torch

BACKENDS = {
    "ss2d": {"reference": ss2d_reference, "torch": ss2d_torch, "cpu": ss2d_cpu, "cuda": ss2d_cuda},
    "window_attention": {"reference": attention_reference, "torch": attention_torch},
    "overlap_attention": {"reference": attention_reference, "torch": attention_torch, "cpu": attention_cpu},
}
ENVIRONMENT = "CONTRAST_ARCH_BACKEND"

_log = logging.getLogger(__name__)
_self_test = functools.cache(self_test_verdict)


def unsupported_reason(operator: str, name: str, device: torch.device, double: bool = False) -> str | None:
    """Reason why a backend does not support tensors of this device (float64 where ``double``), None if it does."""
    module = BACKENDS[operator][name]
    # Nothing is computed on the meta device, and every backend knows its shapes.
    if device.type == "meta" or not hasattr(module, "REQUIREMENT"):
        return None
    device_type, package, install = module.REQUIREMENT
    if double:
        return "it computes in float32 and an input is float64"
    if device.type != device_type and not (package == "triton" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"it needs a tensor on {device_type}, not one on {device}"
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed ({install})"
    return _self_test(module.self_test_error, device)


def check_backend(operator: str, name: str, device: torch.device, double: bool = False) -> None:
    """Raise unless the backend can compute an operator for tensors of this device (and float64, where ``double``).

    Raises:
        ValueError: the operator has no backend of this name.
        RuntimeError: the backend does not support the device or the dtype; the message says why.
    """
    if name not in BACKENDS[operator]:
        known = ", ".join(BACKENDS[operator])
        raise ValueError(f"{operator}: backend {name!r}: expected one of {known}; leave it out for the fastest")
    if reason := unsupported_reason(operator, name, device, double):
        raise RuntimeError(f"{operator}: backend {name!r} (of the call or of {ENVIRONMENT}): {reason}")


def check_environment(device: torch.device) -> None:
    """Raise unless a device supports the backends that the environment names; errors as :func:`check_backend`."""
    for operator, name in _named(os.environ.get(ENVIRONMENT, "")).items():
        check_backend(operator, name, device)


def chosen_backend(operator: str, *tensors: torch.Tensor, backend: str | None = None) -> str:
    """Name of the backend for these tensors: ``backend``, or what the environment names, or the fastest.

    Raises:
        ValueError, RuntimeError: see :func:`check_backend`.
    """
    device = tensors[0].device
    # A recorded network may run on machines without the kernels of this CPU.
    default = "torch" if recording() and device.type == "cpu" else None
    double = compute_dtype(*tensors) == torch.float64
    return _choose(operator, backend, default, device.type, device.index, double)


def implementation(operator: str, *tensors: torch.Tensor, backend: str | None = None) -> Callable:
    """Return the function that computes an operator for these tensors; arguments as :func:`chosen_backend`."""
    return getattr(BACKENDS[operator][chosen_backend(operator, *tensors, backend=backend)], operator)


def choose_all(device: torch.device) -> None:
    """Choose the backend of every operator for float32 on a device, and test it there, before it is needed."""
    for operator in BACKENDS:
        chosen_backend(operator, torch.empty(1, device=device))


@contextlib.contextmanager
def forced_backend(value: str) -> Iterator[None]:
    """Name backends for a while, as the environment variable does."""
    before = os.environ.get(ENVIRONMENT, "")
    os.environ[ENVIRONMENT] = value
    try:
        yield
    finally:
        os.environ[ENVIRONMENT] = before


@functools.cache
def _named(value):
    """Operator -> name, as the environment variable says it."""
    found = {}
    for part in filter(None, value.split(",")):
        operator, _, name = part.rpartition("=")
        wanted = [operator] if operator else [each for each, backends in BACKENDS.items() if name in backends]
        if not wanted or any(name not in BACKENDS.get(each, ()) for each in wanted):
            known = "; ".join(f"{each}: {', '.join(backends)}" for each, backends in BACKENDS.items())
            raise ValueError(
                f"{ENVIRONMENT}={value}: {part!r}: expected a backend or OPERATOR=BACKEND ({known}); unset it for the "
                "fastest"
            )
        found |= dict.fromkeys(wanted, name)
    return found


def _choose(operator, backend, default, device_type, device_index, double):
    """Name of the backend; a constant of a compiled network."""
    wanted = backend or _named(os.environ.get(ENVIRONMENT, "")).get(operator) or default
    return _chosen(operator, wanted, torch.device(device_type, device_index), double)


# As torch.compiler.assume_constant_result does, which imports torch._dynamo for it: 1.3 s of every program.
_choose._dynamo_marked_constant = True


@functools.cache
def _chosen(operator, wanted, device, double):
    name, reason = wanted or "torch", None
    if wanted is not None:
        check_backend(operator, wanted, device, double)
    elif device.type in BACKENDS[operator]:
        reason = unsupported_reason(operator, device.type, device, double)
        name = device.type if reason is None else "torch"
    if device.type != "meta":
        _log.info("%s on %s: backend %s%s", operator, device, name, " (float64)" if double else "")
    if reason is not None:
        level = logging.INFO if double else logging.WARNING
        text = "%s on %s runs in plain PyTorch, slower: backend %s is not used because %s"
        _log.log(level, text, operator, device, device.type, reason)
    return name
