"""SS2D on a GPU (CUDA or ROCm): launches of the kernels in ``cuda_kernels.py``.

Three passes (Blelloch, 1990): the state that leaves each chunk from a zero state; the carry over the chunks; the
outputs, each chunk computed again from the state that enters it. Of the forward pass only the entering states are kept,
L / 16 of the size of x a direction. Triton is imported when the first tensor arrives, and compiles on first use.
"""

import contextlib
import math
import sys
from typing import NamedTuple

import torch

from contrast_arch.ops.self_test import error_of
from contrast_arch.ops.ss2d import torch as ss2d_torch
from contrast_arch.ops.ss2d.operator import define_ss2d, states_shape
from contrast_arch.ops.ss2d.reference import DIRECTIONS

# Steps of a chunk; part of what is saved between forward and backward.
STEPS = 16


class Config(NamedTuple):
    """Sizes of compiled kernels: steps and channels of a tile, warps of a program; chunks and channels of a carry."""

    steps: int
    channels: int
    warps: int = 4  # with 2 and 1 the kernels took 3 % and 2 % longer on an H100
    carry_chunks: int = 64
    carry_channels: int = 16


# Rows and channels that a program of the last sums takes at a time.
SUMMED = Config(128, 16)


def config(dim: int) -> Config:
    """Sizes for D channels."""
    return Config(STEPS, min(64, max(16, 1 << (dim - 1).bit_length())))


class _Launch:
    """Sizes of a call, its kernels, and the arguments that they share."""

    def __init__(self, x, p, dt_w, dt_b, A_logs):
        from contrast_arch.ops.ss2d import cuda_kernels

        self.kernels, self.device = cuda_kernels, x.device
        self.batch, height, width, self.dim = x.shape
        self.order = {"D": self.dim, "R": dt_w.shape[2], "N": A_logs.shape[1]}
        self.config = config(self.dim)
        self.blocks = -(-self.dim // self.config.channels)
        self.chunks = -(-height * width // STEPS)
        self.parameters = [t.contiguous() for t in (p, dt_w, dt_b, A_logs)]
        self.sizes = {"height": height, "width": width, "chunks": self.chunks, **self.order}
        self.sizes |= {"BL": self.config.steps, "BD": self.config.channels}
        self.sizes["EVEN"] = height * width % self.config.steps == 0

    def buffer(self, *shape):
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def run(self, name, grid, *arguments, **sizes):
        options = {"num_warps": self.config.warps, "enable_fp_fusion": True}
        getattr(self.kernels, name)[grid](*arguments, **sizes, **options)

    def both_orders(self, name, *arguments, **sizes):
        """Row-major first, column-major on top of it."""
        for order in range(2):
            self.run(name, (self.batch * self.chunks, self.blocks), *arguments, **sizes, **self.sizes, ORDER=order)

    def entering(self, v, adjoint):
        """States that enter each chunk, (B, 4, N, chunks, D), where v is x; their adjoints where it is dy."""
        leaving = self.buffer(*states_shape(v, self.parameters[3], STEPS))
        total = self.buffer(self.batch, DIRECTIONS, self.chunks, self.dim)
        entering = torch.empty_like(leaving)
        grid = self.batch * 2 * self.chunks, self.blocks
        self.run("chunk_kernel", grid, v, *self.parameters, leaving, total, **self.sizes, ADJOINT=adjoint)
        grid = leaving.shape[:3].numel(), -(-self.dim // self.config.carry_channels)
        sizes = {"D": self.dim, "N": self.order["N"], "BC": self.config.carry_chunks, "BD": self.config.carry_channels}
        arguments = leaving, total, self.parameters[3], entering, self.chunks
        self.run("carry_kernel", grid, *arguments, **sizes, ADJOINT=adjoint)
        return entering


def _on(device):
    """Triton launches on the current device, whatever its tensors say."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def forward(x, p, dt_w, dt_b, A_logs, Ds, keep):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    x = x.contiguous()
    y = torch.empty_like(x)
    with _on(x.device):
        launch = _Launch(x, p, dt_w, dt_b, A_logs)
        states = launch.entering(x, adjoint=False)
        partial = y if y.dtype == torch.float32 else launch.buffer(*y.shape)
        launch.both_orders("output_kernel", x, *launch.parameters, Ds.contiguous(), states, partial, y)
    return y, states if keep else x.new_empty(0, dtype=torch.float32)


def backward(dy, states, x, p, dt_w, dt_b, A_logs, Ds):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    x, dy = x.contiguous(), dy.contiguous()
    with _on(x.device):
        launch = _Launch(x, p, dt_w, dt_b, A_logs)
        if states.numel() == 0:
            states = launch.entering(x, adjoint=False)
        adjoint = launch.entering(dy, adjoint=True)
        dx = torch.empty_like(x)
        partial = dx if dx.dtype == torch.float32 else launch.buffer(*dx.shape)
        # The two orders write what belongs to their directions; only blocks of channels have to be summed.
        alone = launch.blocks == 1
        dp = torch.empty_like(launch.parameters[0]) if alone else launch.buffer(launch.blocks, *p.shape)
        rows = launch.batch * launch.chunks
        sums = launch.buffer(rows, DIRECTIONS * (dt_w.shape[2] + A_logs.shape[1] + 1) + 1, launch.dim)
        arguments = x, *launch.parameters, Ds.contiguous(), states, adjoint, dy, partial, dx, dp, sums
        launch.both_orders("gradient_kernel", *arguments, pixels=x.shape[:3].numel())
        gradients = [t.new_empty(t.shape) for t in (dt_w, dt_b, A_logs, Ds)]
        grid = sums.shape[1], -(-launch.dim // SUMMED.channels)
        sizes = {**launch.order, "BR": SUMMED.steps, "BD": SUMMED.channels}
        launch.run("parameter_kernel", grid, sums, *gradients, rows, **sizes)
        return dx, dp if alone else dp.sum(0).to(p.dtype), *gradients


def _sample(device, images, dim, rank=4, state=1):
    """Inputs for (B, H, W) pixels, numbers that no random generator gives."""

    def wave(*size):
        return torch.arange(math.prod(size), dtype=torch.float32, device=device).sin().view(size)

    weights = (DIRECTIONS, dim, rank), (DIRECTIONS, dim), (DIRECTIONS * dim, state), (DIRECTIONS * dim,)
    return [wave(*size) for size in ((*images, dim), (*images, DIRECTIONS, rank + 2 * state), *weights)]


def _both_passes(backend, inputs):
    """y, and the gradients where its own is y."""
    y, states = backend.forward(*inputs, True)
    return y, *backend.backward(y, states, *inputs)


def self_test_error(device: torch.device) -> float:
    """Largest error of the kernels as the default networks have them, against plain PyTorch in float64.

    Triton has had releases in which a reversed associative scan was wrong on some GPUs (its issues 4362 and 8412). The
    image has more chunks than are carried at a time, and a part of one; Triton's interpreter is too slow for it.
    """
    images, dim = ((1, 17, 67), 60) if device.type == "cuda" else ((1, 2, 7), 3)
    inputs = _sample(device, images, dim)
    got = _both_passes(sys.modules[__name__], inputs)
    return error_of([t.cpu() for t in got], _both_passes(ss2d_torch, [t.cpu().double() for t in inputs]))


ss2d = define_ss2d("cuda", forward, backward, lambda length: STEPS)
# Of a backend, see contrast_arch.ops.dispatch.
REQUIREMENT = "cuda", "triton", "Linux: pip install triton; Windows: pip install triton-windows"
