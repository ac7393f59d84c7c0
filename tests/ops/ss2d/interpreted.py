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
from contrast_arch.ops.ss2d import cuda, cuda_kernels
from tests.archs.test_half_precision import check_network_in_half_precision
from tests.ops.ss2d.inputs import (
    check_against_definition,
    check_backward_without_states,
    check_empty,
    check_half_precision,
    check_nan,
    check_not_contiguous,
    check_operators,
    check_order_of_pixels,
    ss2d_inputs,
)

# 8 steps of 8 channels, carried 4 chunks at a time: small images have several of each.
SMALL_TILES = cuda.Config(8, 8, 4, carry_chunks=4, carry_channels=8)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(cuda, "STEPS", SMALL_TILES.steps)
    monkeypatch.setattr(cuda, "config", lambda dim, warps=None: SMALL_TILES)


@pytest.mark.parametrize(
    "shape",  # B, H, W, D, N, R
    [
        (2, 5, 7, 5, 1, 4),
        (1, 4, 8, 4, 1, 4),  # whole chunks
        (1, 1, 1, 2, 1, 1),
        (1, 7, 1, 3, 1, 2),
        (1, 1, 19, 3, 2, 3),
        (1, 4, 5, 3, 4, 4),
        (1, 3, 4, 5, 4, 1),
        (1, 5, 4, 19, 1, 2),  # three blocks of channels
        (1, 3, 3, 2, 1, 10),  # a rank that is not unrolled
    ],
    ids=str,
)
@pytest.mark.usefixtures("small_tiles")
def test_matches_definition(shape):
    check_against_definition("cuda", ss2d_inputs(shape, torch.float32), 2e-6)


def test_matches_definition_with_shipped_tiles():
    check_against_definition("cuda", ss2d_inputs((1, 3, 6, 65, 1, 1), torch.float32), 2e-6)


@pytest.mark.parametrize("dt_bias", [-13.0, 20.0, 120.0])
@pytest.mark.usefixtures("small_tiles")
def test_small_and_large_steps(dt_bias):
    """dt from 1e-6 to 120. Where exp(dt A) is below float32 A's gradient is too, hence the absolute part."""
    check_against_definition("cuda", ss2d_inputs((1, 5, 7, 5, 2, 2), torch.float32, dt_bias), 5e-6, absolute=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("small_tiles")
def test_half_precision_has_float32_state(dtype):
    check_half_precision("cuda", dtype)


@pytest.mark.usefixtures("small_tiles")
def test_not_contiguous():
    check_not_contiguous("cuda")


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 1, 2), (2, 0, 4, 3, 1, 2)], ids=str)
def test_empty(shape):
    check_empty("cuda", shape)


@pytest.mark.parametrize("which", range(6))
@pytest.mark.usefixtures("small_tiles")
def test_nan_goes_through_and_stays_in_its_image(which):
    check_nan("cuda", which)


@pytest.mark.usefixtures("small_tiles")
def test_backward_without_saved_states():
    check_backward_without_states("cuda", ss2d_inputs((2, 3, 5, 3, 2, 2), torch.float32))


@pytest.mark.usefixtures("small_tiles")
def test_operators_pass_opcheck():
    check_operators("cuda", ss2d_inputs((1, 2, 5, 3, 1, 2), torch.float32))


@pytest.mark.usefixtures("small_tiles")
def test_network_on_the_kernels_is_the_network_on_pytorch(monkeypatch):
    net = archs.Contrast(dims=6, depths=[1], num_heads=[2], window_size=4, upscale=2)
    lq, gt = torch.rand(1, 3, 4, 7), torch.rand(1, 3, 8, 14)
    results = {}
    for backend in ("torch", "cuda"):
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
        torch.compiler.reset()
        run = torch.compile(net, fullgraph=True, backend="aot_eager")
        sr = run(lq)
        results[backend] = [sr, *torch.autograd.grad(F.mse_loss(sr, gt), list(net.parameters()))]
    for a, b in zip(results["cuda"], results["torch"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype, whole", [(torch.float16, True), (torch.bfloat16, False)])
@pytest.mark.usefixtures("small_tiles")
def test_network_in_half_precision(monkeypatch, dtype, whole):
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", "cuda")
    check_network_in_half_precision("Contrast", dtype, whole, dims=6, depths=[1], num_heads=[2], window_size=4)


def test_self_test_passes_and_sees_a_wrong_scan(monkeypatch):
    device = torch.device("cpu")
    assert cuda._scan_error(device) < 1e-6
    monkeypatch.setattr(cuda_kernels, "combine_adjoint", cuda_kernels.combine_split)
    assert cuda._scan_error(device) > 0.01


def test_self_test_in_inference_mode_and_under_a_tracer():
    cuda._self_test.cache_clear()
    with torch.inference_mode(), FakeTensorMode():
        assert cuda._self_test(torch.device("cpu")) is None


@pytest.mark.usefixtures("small_tiles")
def test_inference_mode():
    inputs = ss2d_inputs((1, 3, 5, 3, 1, 2), torch.float32)
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
        ((300_000, 32, 32, 120, 1, 12), ("chunk_kernel", "carry_kernel", "output_kernel", "gradient_kernel")),
        ((8, 2048, 2048, 120, 1, 12), ("chunk_kernel", "output_kernel", "gradient_kernel")),
        # Rounds of the last sums are as many as rows, over 128.
        ((9000, 32, 32, 600, 1, 12), ("parameter_kernel",)),
    ],
    ids=str,
)
def test_offsets_of_huge_tensors(monkeypatch, shape, kernels):
    """The last program of each kernel stays in its tensors, and is near the end of those beyond 2^31 numbers."""
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


def test_scan_order_is_that_of_the_definition():
    check_order_of_pixels("cuda")
