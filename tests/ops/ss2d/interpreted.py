"""The Triton kernels under Triton's interpreter, on the CPU; run by ``test_cuda.py`` in a process of its own.

The interpreter is chosen when triton is imported (TRITON_INTERPRET=1) and is slow: small images, and tiles to match.
"""

import collections
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime import interpreter

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.ops import ss2d_scan
from contrast_arch.ops.self_test import self_test_verdict
from contrast_arch.ops.ss2d import cuda, cuda_kernels
from tests.ops.ss2d.inputs import CHECKS, check_definition, ss2d_inputs


def scan_by_rows(self, values):
    """Scans along the first axis; Triton's own goes through the elements of a tile in Python."""
    data = [value.handle.data for value in values]
    found = [array.copy() for array in data]

    def tensors(arrays, row):
        return [self.to_tensor(array[row], value.dtype) for array, value in zip(arrays, values, strict=True)]

    for row in range(1, len(data[0])):
        combined = self.combine_fn.fn(*tensors(found, row - 1), *tensors(data, row))
        for array, value in zip(found, combined, strict=True):
            array[row] = value.handle.data
    return [self.to_tensor(array, value.dtype) for array, value in zip(found, values, strict=True)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """4 steps of 2 channels, carried 2 chunks at a time: small images have several of each."""
    monkeypatch.setattr(interpreter.ScanOps, "generic_scan", scan_by_rows)
    monkeypatch.setattr(cuda, "STEPS", 4)
    monkeypatch.setattr(cuda, "config", lambda dim: cuda.Config(4, 2, carry_chunks=2, carry_channels=2))


@pytest.mark.parametrize(
    "shape, dt_bias",  # B, H, W, D, N, R; dt from 1e-6 to 120
    [
        ((1, 3, 3, 3, 2, 3), 0.0),  # parts of a chunk and a block, more chunks than are carried at a time
        ((1, 2, 4, 2, 1, 1), 0.0),  # whole chunks, one block of channels
        ((1, 1, 1, 1, 1, 10), 0.0),  # a rank that is not unrolled
        ((1, 3, 1, 1, 1, 12), 0.0),  # and one that is unrolled in parts
        ((1, 2, 3, 2, 2, 1), -13.0),
        ((1, 2, 3, 2, 1, 2), 120.0),
    ],
    ids=str,
)
def test_matches_definition(shape, dt_bias):
    check_definition("cuda", shape, dt_bias=dt_bias)


@pytest.mark.parametrize("check", CHECKS)
def test_checks_of_all_backends(check):
    check("cuda", (2, 3))


def test_shipped_tiles(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(interpreter.ScanOps, "generic_scan", scan_by_rows)
    check_definition("cuda", (1, 1, 17, 3, 1, 1))


def test_a_network_on_the_kernels_is_the_network_on_pytorch(monkeypatch):
    """Compiled, and under autocast."""
    net = archs.MambaLight(dims=3, depths=[1], num_heads=[1], window_size=2, upscale=2)
    lq, gt = torch.rand(1, 3, 2, 3), torch.rand(1, 3, 4, 6)
    for dtype in (None, torch.float16):
        results = {}
        for backend in ("torch", "cuda"):
            monkeypatch.setenv("CONTRAST_ARCH_BACKEND", f"ss2d={backend}")
            torch.compiler.reset()
            run = net if dtype else torch.compile(net, fullgraph=True, backend="aot_eager")
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                sr = run(lq).float()
            results[backend] = [sr, *torch.autograd.grad(F.mse_loss(sr, gt), list(net.parameters()))]
        for a, b in zip(results["cuda"], results["torch"], strict=True):
            assert (a - b).norm() <= (2e-3 if dtype else 1e-4) * b.norm() + 1e-7


def test_self_test_passes_and_sees_a_wrong_scan(monkeypatch):
    """In inference mode and under a tracer, too."""
    device = torch.device("cpu")
    with torch.inference_mode(), FakeTensorMode():
        assert self_test_verdict(cuda.self_test_error, device) is None
    assert cuda.self_test_error(device) < 1e-6
    monkeypatch.setattr(cuda_kernels, "combine_adjoint", cuda_kernels.combine_split)
    assert cuda.self_test_error(device) > 0.01


def test_inference_mode():
    inputs = ss2d_inputs((1, 2, 3, 2, 1, 1), torch.float32)
    with torch.inference_mode():
        y = ss2d_scan(*inputs, backend="cuda")
    assert torch.equal(y, ss2d_scan(*inputs, backend="cuda"))


@dataclasses.dataclass
class Address:
    """Stands for a tensor of which only the address and the size exist."""

    start: int
    dtype: torch.dtype
    numel: int

    def data_ptr(self):
        return self.start


@pytest.mark.skipif(not hasattr(interpreter.GridExecutor, "_init_args_hst"), reason="another interpreter")
@pytest.mark.parametrize(
    "shape, kernels",
    [
        # One round of the carry: its chunks are few, and its sequences many.
        ((300_000, 32, 32, 120, 1, 2), ("chunk_kernel", "carry_kernel", "output_kernel", "gradient_kernel")),
        ((8, 2048, 2048, 120, 1, 2), ("chunk_kernel", "output_kernel", "gradient_kernel")),
        # Rounds of the last sums are as many as rows, over 128.
        ((24, 32, 32, 2400, 1, 150), ("parameter_kernel",)),
    ],
    ids=str,
)
def test_offsets_of_huge_tensors(monkeypatch, shape, kernels):
    """The last program of each kernel stays in its tensors, and is near the end of those beyond 2^31 numbers."""
    monkeypatch.setattr(cuda, "STEPS", 16)
    monkeypatch.setattr(cuda, "config", lambda dim: cuda.Config(16, 2, carry_channels=2))
    launches, touched = [], []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **more: launches.append((self.kernel, grid, args, more))

    class Executor(interpreter.GridExecutor):
        def _init_args_hst(self, args, more, *rest):
            return args, more

        def _restore_args_dev(self, *args):
            pass

    def load(self, pointers, mask, other, *more):
        store(self, pointers, None, mask)
        zeros = np.zeros(pointers.data.shape, dtype=interpreter._get_np_dtype(pointers.get_element_ty()))
        return interpreter.TensorHandle(zeros, pointers.get_element_ty())

    def store(self, pointers, value, mask, *more):
        touched.extend(np.broadcast_to(pointers.data, mask.data.shape)[mask.data].tolist())

    with monkeypatch.context() as patch:
        for name in ("chunk_kernel", "carry_kernel", "output_kernel", "gradient_kernel", "parameter_kernel"):
            patch.setattr(cuda_kernels, name, Recorder(getattr(cuda_kernels, name)))
        inputs = [t.detach().to("meta") for t in ss2d_inputs((1, 1, 1, *shape[3:]), torch.float32)]
        inputs[:2] = [t.new_empty(*shape[:3], *t.shape[3:]) for t in inputs[:2]]
        y, states = cuda.forward(*inputs, keep=True)
        cuda.backward(y, states, *inputs)

    builder = interpreter.interpreter_builder
    monkeypatch.setattr(type(builder), "create_masked_load", load)
    monkeypatch.setattr(type(builder), "create_masked_store", store)
    for kernel, grid, args, more in launches:
        if kernel.fn.__name__ not in kernels:
            continue
        last = (grid[0] - 1, grid[1] - 1, 0)
        monkeypatch.setattr(builder, "set_grid_idx", lambda *_, last=last: setattr(builder, "grid_idx", last))
        addresses = [
            Address((i + 1) << 44, t.dtype, t.numel()) if isinstance(t, torch.Tensor) else t for i, t in enumerate(args)
        ]
        touched.clear()
        Executor(kernel.fn, kernel.arg_names, (1, 1))(*addresses, **more)
        found = collections.defaultdict(list)
        for address in touched:
            found[address >> 44].append((address & (1 << 44) - 1) // 4)
        tensors = {i + 1: a for i, a in enumerate(addresses) if isinstance(a, Address)}
        assert set(found) <= set(tensors), kernel
        for i, offsets in found.items():
            assert max(offsets) < tensors[i].numel, (kernel, i)
            # One that goes through all rows begins with the first.
            first = max(offsets) if kernel.fn.__name__ == "parameter_kernel" else min(offsets)
            assert tensors[i].numel < 2**31 or first > 0.9 * tensors[i].numel, (kernel, i)
