"""SS2D's core on its own: random inputs, gradients, time and memory."""

import statistics
from functools import partial

import torch

from contrast_arch.experiments.bench.measure import Run, gpu_peak, interleaved
from contrast_arch.ops import BACKENDS, ss2d_scan, unsupported_reason
from contrast_arch.ops.ss2d.reference import DIRECTIONS

# D of the default networks.
DIM = 60


def random_inputs(device: torch.device, shape: tuple, dim: int, dtype=torch.float32, state=1, rank=4) -> list:
    """Make inputs of ``ss2d_scan`` that require gradients; x and p in ``dtype``.

    Args:
        shape: (B, H, W).
        dim, state, rank: D, N and R.
    """
    generator = torch.Generator().manual_seed(0)
    features = [(*shape, dim), (*shape, DIRECTIONS, rank + 2 * state)]
    weights = [(DIRECTIONS, dim, rank), (DIRECTIONS, dim), (DIRECTIONS * dim, state), (DIRECTIONS * dim,)]
    tensors = [torch.randn(size, generator=generator).to(device, dtype) for size in features]
    for factor, size in zip((0.3, 0.5, 0.3, 1.0), weights, strict=True):
        tensors.append((factor * torch.randn(size, generator=generator)).to(device))
    return [tensor.requires_grad_() for tensor in tensors]


def gradients(core, inputs, weight) -> list[torch.Tensor]:
    """Compute the output, and the gradients of its product with ``weight``."""
    y = core(*inputs)
    return [y, *torch.autograd.grad(y, inputs, weight.to(y.dtype))]


def measure(run: Run, cores: dict, shape: tuple, dtype: torch.dtype = torch.float32) -> list[dict]:
    """Measure cores, interleaved: milliseconds of forward and of both passes, and the peak of both on a GPU.

    Args:
        cores: name -> what computes as ``ss2d_scan`` does; one that fails has no row, and a note.
        shape: (B, H, W, D).
    """
    inputs = random_inputs(run.device, shape[:3], shape[3], dtype)
    weight = torch.randn(inputs[0].shape, device=run.device, dtype=dtype)
    calls = {(name, "both"): partial(gradients, core, inputs, weight) for name, core in cores.items()}
    calls |= {(name, "forward"): partial(torch.no_grad()(core), *inputs) for name, core in cores.items()}

    def failed(key, failure):
        run.failed(f"core {', '.join(key)}, {shape}, {str(dtype)[6:]}", failure)

    times = interleaved(calls, run.rounds, run.device, warm_up=1, failed=failed)
    rows = []
    for name in cores:
        if (name, "forward") in times and (name, "both") in times:
            forward, both = (1000 * statistics.median(times[name, kind]) for kind in ("forward", "both"))
            rows.append({"backend": name, "forward_ms": forward, "both_ms": both})
            rows[-1] |= {"peak_gib": gpu_peak(calls[name, "both"]) / 2**30} if run.on_gpu else {}
    return rows


def measure_backends(run: Run, batches: list[int]) -> list[dict]:
    """Measure the backends that serve the device at each batch, see :func:`measure`."""
    names = [name for name in BACKENDS["ss2d"] if name != "reference"]
    served = [name for name in names if unsupported_reason("ss2d", name, run.device) is None]
    cores, rows = {name: partial(ss2d_scan, backend=name) for name in served}, []
    for batch in batches:
        found = measure(run, cores, (batch, run.patch, run.patch, DIM))
        rows += [{"threads": torch.get_num_threads(), "batch": batch} | row for row in found]
    return rows
