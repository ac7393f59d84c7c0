"""Self-tests of backends, run before their first use on a device."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

# Largest relative error of a backend that is used.
LIMIT = 1e-5


def self_test_verdict(largest_error: Callable[[torch.device], float], device: torch.device) -> str | None:
    """Run a backend's self-test on a device; the reason not to use the backend, or None.

    Args:
        largest_error: takes the device, returns the largest relative error.

    Raises:
        RuntimeError: a CUDA graph is captured, during which nothing can be compiled, loaded or read back.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the kernels were not tested on {device} yet, which is not possible while a CUDA graph is captured: "
            "run the network once before the capture, as PyTorch's warm-up does"
        )
    # In a thread of its own: the caller may be under a tracer that would record what happens here.
    with ThreadPoolExecutor(1) as pool:
        try:
            error = pool.submit(largest_error, device).result()
        except Exception as failure:
            return f"its self-test did not run on {device}: {type(failure).__name__}: {failure}"
    return None if error < LIMIT else f"its self-test on {device} was wrong by {error:.1e}"


def error_of(got: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> float:
    """Largest error of any tensor, relative to its largest expected value; infinite where a value is NaN."""
    # NaN would pass through max and be below no bound.
    return max(
        float((a.double() - b).abs().nan_to_num(nan=float("inf")).max() / b.abs().max())
        for a, b in zip(got, expected, strict=True)
    )


def error_against(definition: Callable, function: Callable, shapes: list[tuple], device: torch.device) -> float:
    """Largest error of a function's output and gradients on a device against the definition's in float64.

    Args:
        shapes: those of the inputs, which are normal random numbers.
    """
    generator, results = torch.Generator().manual_seed(0), []
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    for call, tensors in ((function, [t.to(device) for t in inputs]), (definition, [t.double() for t in inputs])):
        tensors = [t.requires_grad_() for t in tensors]
        out = call(*tensors)
        gradients = torch.autograd.grad(out.square().sum(), tensors)
        results.append([t.detach().cpu() for t in (out, *gradients)])
    return error_of(*results)
