"""Time and memory of networks and of SS2D's core: trials of them, taken in turns."""

import contextlib
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from contrast_arch.ops import BACKENDS, ss2d_scan, unsupported_reason
from contrast_arch.ops.ss2d.reference import DIRECTIONS

# D of the default networks.
DIM = 60
CPU = torch.device("cpu")


class Trial:
    """A network with ``batch`` random images of LQ side ``patch``, MSE and Adam, as the option files have it.

    Args:
        net: in the mode that is wanted, training or evaluation, on the device of the measurement.
        adam: more arguments of the optimizer.
    """

    def __init__(self, net: torch.nn.Module, batch: int, patch: int, scale: int = 4, **adam):
        self.net = net
        self.optimizer = torch.optim.Adam(net.parameters(), lr=2e-4, **adam)
        device, channels = next(net.parameters()).device, getattr(net, "in_chans", 3)
        self.lq = torch.rand(batch, channels, patch, patch, device=device)
        self.gt = torch.rand(batch, channels, scale * patch, scale * patch, device=device)
        self.losses = []

    def output(self) -> torch.Tensor:
        return self.net(self.lq)

    def inference(self) -> None:
        with torch.no_grad():
            self.output()

    def step(self) -> None:
        """One iteration of training; ValueError if the output has not the size of the ground truth."""
        self.optimizer.zero_grad()
        sr = self.output()
        if sr.shape != self.gt.shape:
            raise ValueError(f"LQ {tuple(self.lq.shape)} gave {tuple(sr.shape)}, expected {tuple(self.gt.shape)}")
        loss = torch.nn.functional.mse_loss(sr.float(), self.gt)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.detach())


@contextlib.contextmanager
def arithmetic(precision: str | None):
    """float32 products and convolutions on a GPU in TF32 ("tf32") or not; None leaves them as PyTorch has them.

    cuDNN chooses its kernels as under BasicSR.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    if precision is not None:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        cudnn.allow_tf32 = precision == "tf32"
    cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def timed(call: Callable, device: torch.device = CPU) -> float:
    """Seconds of one call, by events on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def interleaved(calls: dict, rounds: int, device: torch.device = CPU, warm_up: int = 0) -> dict[Hashable, list[float]]:
    """Seconds of each call, in ``rounds`` after ``warm_up`` others.

    All calls take turns in each round, so that a change of the machine's speed affects all.
    """
    times = [{key: timed(call, device) for key, call in calls.items()} for _ in range(warm_up + rounds)]
    return {key: [own[key] for own in times[warm_up:]] for key in calls}


def ratio(times: list[float], base: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


def gpu_peak(call: Callable) -> int:
    """Bytes that a call takes at its peak, beyond what is allocated before it."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


# Linux starts its count of a process's peak anew when "5" is written there.
_CLEAR = Path("/proc/self/clear_refs")


def _resident(name):
    """MiB of this process: held now ("VmRSS") or at the peak ("VmHWM")."""
    return int(re.search(rf"^{name}:\s*(\d+)", Path("/proc/self/status").read_text(), re.M)[1]) / 1024


def peak_unsupported_reason() -> str | None:
    """Reason why this system does not say the peak memory of a process, or None."""
    try:
        _CLEAR.write_text("5")
    except OSError as error:
        return f"peak memory on a CPU needs Linux, and /proc/self/clear_refs to write to ({error})"
    return None


def _alone(build, kind, batch, patch, scale, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = build().train(kind == "step")
    # Load and compile first, on a small image: the memory that stays in use counts as at rest.
    getattr(Trial(net, 1, 16, scale), kind)()
    trial = Trial(net, batch, patch, scale)
    _CLEAR.write_text("5")
    rest = _resident("VmRSS")
    return {"seconds": timed(getattr(trial, kind)), "peak_mib": _resident("VmHWM") - rest}


def alone(build: Callable, kind: str, batch: int, patch: int, scale: int = 4) -> dict:
    """Measure a network in a process of its own, on the CPU: {"seconds": ..., "peak_mib": ...}.

    Args:
        build: makes the network; can be pickled.
        kind: "inference", or "step" in training mode. The peak is above what network, images and optimizer hold.
    """
    # Spawned: a forked process would count the memory of this one.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_alone, build, kind, batch, patch, scale, torch.get_num_threads()).result()
        except BrokenProcessPool as error:
            raise RuntimeError("its process ended early: the memory may not suffice") from error


@dataclass
class Run:
    """One run of a benchmark: its sizes, and its notes and checks so far."""

    device: torch.device
    patch: int  # side of the LQ images
    rounds: int
    scale: int = 4
    notes: list[str] = field(default_factory=list)
    checks: list[dict] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @contextlib.contextmanager
    def noting_failure(self, name: str):
        """Go on after a failure inside, for want of memory too, with a note of it."""
        if self.on_gpu:
            # Cycles of the part before, such as the frames of its failure, hold the GPU's memory.
            gc.collect()
        try:
            yield
        except Exception as failure:
            self.notes.append(f"{name}: {type(failure).__name__}: {str(failure)[:200]}")

    def check(self, name: str, error: float, limit: float = 0.5) -> bool:
        """Record a check of an error, or of what must not be (True is 1); True if it passed."""
        passed = bool(error <= limit)
        self.checks.append({"check": name, "error": float(error), "limit": limit, "passed": passed})
        if not passed:
            self.notes.append(f"{name} failed its check ({float(error):.1e} > {limit:.0e}): not timed")
        return passed


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


def measure_cores(run: Run, cores: dict, shape: tuple, dtype: torch.dtype = torch.float32) -> list[dict]:
    """Milliseconds of forward and of both passes of cores, by name, for (B, H, W, D); on a GPU the peak of both."""
    inputs = random_inputs(run.device, shape[:3], shape[3], dtype)
    weight = torch.randn(inputs[0].shape, device=run.device, dtype=dtype)
    calls = {(name, "both"): partial(gradients, core, inputs, weight) for name, core in cores.items()}
    calls |= {(name, "forward"): partial(torch.no_grad()(core), *inputs) for name, core in cores.items()}
    times = interleaved(calls, run.rounds, run.device, warm_up=1)
    rows = [{"backend": name} for name in cores]
    for name, row in zip(cores, rows, strict=True):
        row |= {f"{kind}_ms": 1000 * statistics.median(times[name, kind]) for kind in ("forward", "both")}
        row |= {"peak_gib": gpu_peak(calls[name, "both"]) / 2**30} if run.on_gpu else {}
    return rows


def measure_backends(run: Run, batches: list[int]) -> list[dict]:
    """Measure the backends of SS2D that serve the device, at each batch."""
    served = [name for name in BACKENDS["ss2d"] if unsupported_reason("ss2d", name, run.device) is None]
    cores = {name: partial(ss2d_scan, backend=name) for name in served if name != "reference"}
    found = {batch: measure_cores(run, cores, (batch, run.patch, run.patch, DIM)) for batch in batches}
    return [{"threads": torch.get_num_threads(), "batch": batch} | row for batch, rows in found.items() for row in rows]
