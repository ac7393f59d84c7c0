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
    """Make inputs of ``ss2d_scan`` that require gradients, for (B, H, W) and D, N and R; x and p in ``dtype``."""
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
        cores: name -> what computes as ``ss2d_scan`` does.
        shape: (B, H, W, D).
    """
    inputs = random_inputs(run.device, shape[:3], shape[3], dtype)
    weight = torch.randn(inputs[0].shape, device=run.device, dtype=dtype)
    calls = {(name, "both"): partial(gradients, core, inputs, weight) for name, core in cores.items()}
    calls |= {(name, "forward"): partial(torch.no_grad()(core), *inputs) for name, core in cores.items()}
    times = interleaved(calls, run.rounds, run.device, warm_up=1)
    rows = []
    for name in cores:
        times_ms = {f"{kind}_ms": 1000 * statistics.median(times[name, kind]) for kind in ("forward", "both")}
        peak = {"peak_gib": gpu_peak(calls[name, "both"]) / 2**30} if run.on_gpu else {}
        rows.append({"backend": name} | times_ms | peak)
    return rows


def measure_backends(run: Run, batches: list[int]) -> list[dict]:
    """Measure the backends that serve the device at each batch, see :func:`measure`."""
    served = [name for name in BACKENDS["ss2d"] if unsupported_reason("ss2d", name, run.device) is None]
    cores = {name: partial(ss2d_scan, backend=name) for name in served if name != "reference"}
    found = {batch: measure(run, cores, (batch, run.patch, run.patch, DIM)) for batch in batches}
    return [{"threads": torch.get_num_threads(), "batch": batch} | row for batch, rows in found.items() for row in rows]
