"""SS2D's kernels of the CPU against the definition, their threads, and what happens when they cannot run."""

import logging
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from numba.core.caching import FunctionCache
from torch.utils.data import DataLoader

import contrast_arch.archs.contrast_arch as archs
from contrast_arch import ops
from contrast_arch.ops import dispatch, ss2d_scan
from contrast_arch.ops.simd import compiling
from contrast_arch.ops.simd import threads as simd_threads
from contrast_arch.ops.ss2d import cpu, cpu_kernels
from tests.ops.ss2d.inputs import (
    check_against_definition,
    check_backward_without_states,
    check_empty,
    check_half_precision,
    check_nan,
    check_not_contiguous,
    check_operators,
    check_order_of_pixels,
    on,
    outputs_and_gradients,
    ss2d_inputs,
)


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def anew():
    """Backends are chosen, and kernels built and tested, as in a new process."""

    def forget():
        for function in (dispatch._chosen, compiling._build, compiling._self_test):
            function.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize(
    "shape",  # B, H, W, D, N, R
    [
        (2, 8, 16, 12, 1, 3),
        (1, 8, 8, 32, 1, 4),  # whole chunks and vectors
        (1, 7, 9, 60, 1, 4),
        (3, 5, 7, 33, 2, 2),
        (1, 4, 9, 100, 1, 7),
        (1, 1, 1, 2, 1, 1),
        (2, 1, 67, 4, 2, 2),
        (1, 67, 1, 3, 1, 4),
        (1, 9, 11, 5, 16, 1),
        (1, 3, 5, 2, 1, 10),
    ],
    ids=str,
)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_matches_definition(shape, workers, threads):
    threads(workers)
    check_against_definition("cpu", ss2d_inputs(shape, torch.float32), 2e-6)


@pytest.mark.parametrize("dt_bias", [-13.0, 0.0, 20.0, 120.0])
def test_small_and_large_steps(dt_bias):
    """dt from 1e-6 to 120. Where exp(dt A) is below float32 A's gradient is too, hence the absolute part."""
    check_against_definition("cpu", ss2d_inputs((1, 12, 13, 6, 2, 2), torch.float32, dt_bias), 5e-6, absolute=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_float32_state(dtype):
    check_half_precision("cpu", dtype)


def test_not_contiguous():
    check_not_contiguous("cpu")


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 1, 2), (2, 0, 4, 3, 1, 2)], ids=str)
def test_empty(shape):
    check_empty("cpu", shape)


@pytest.mark.parametrize("which", range(6))
def test_nan_goes_through_and_stays_in_its_image(which):
    check_nan("cpu", which)


def test_order_of_pixels_is_that_of_the_definition():
    check_order_of_pixels("cpu")


def test_backward_without_saved_states():
    check_backward_without_states("cpu", ss2d_inputs((2, 7, 9, 5, 2, 2), torch.float32))


def test_operators_pass_opcheck():
    check_operators("cpu", ss2d_inputs((2, 3, 5, 3, 2, 2), torch.float32))


def test_autocast_changes_nothing():
    inputs = ss2d_inputs((1, 8, 8, 4, 1, 2), torch.float32)
    weight = torch.randn(1, 8, 8, 4)
    expected = outputs_and_gradients(on("cpu"), inputs, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = outputs_and_gradients(on("cpu"), inputs, weight)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("compiled", [False, True])
def test_network_on_the_kernels_is_the_network_on_pytorch(monkeypatch, compiled):
    net = archs.Contrast(dims=6, depths=[2], num_heads=[2], window_size=4, upscale=2)
    lq, gt = torch.rand(1, 3, 9, 7), torch.rand(1, 3, 18, 14)
    results = {}
    for backend in ("torch", "cpu"):
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
        torch.compiler.reset()
        run = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        sr = run(lq)
        loss = torch.nn.functional.mse_loss(sr, gt)
        results[backend] = [sr, *torch.autograd.grad(loss, list(net.parameters()))]
    for a, b in zip(results["cpu"], results["torch"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_bits_do_not_depend_on_when_the_tasks_run(threads):
    threads(2)
    inputs = ss2d_inputs((5, 9, 8, 6, 1, 2), torch.float32)
    weight = torch.randn(5, 9, 8, 6)
    first, *others = (outputs_and_gradients(on("cpu"), inputs, weight) for _ in range(5))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("shared", [True, False], ids=["PyTorch's threads", "own threads"])
def test_number_of_threads_is_respected(monkeypatch, threads, shared):
    if shared and simd_threads._openmp() is None:
        pytest.skip("this PyTorch has no GNU OpenMP entry point")
    if not shared:
        monkeypatch.setattr(simd_threads, "_openmp", lambda: None)
    for workers in (1, 2, 3):
        threads(workers)
        seen, meet = set(), threading.Barrier(workers)

        def task(seen=seen, meet=meet):
            seen.add(threading.get_ident())
            meet.wait(10)  # nobody does two

        simd_threads.run([task] * workers, workers)
        assert len(seen) == workers


@pytest.mark.parametrize("shared", [True, False], ids=["PyTorch's threads", "own threads"])
def test_what_a_task_raises_is_raised(monkeypatch, shared):
    if not shared:
        monkeypatch.setattr(simd_threads, "_openmp", lambda: None)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simd_threads.run([interrupted, time.time], 2)


class Scans(torch.utils.data.Dataset):
    """Each item is the sum of a scan's output, worked out where the item is."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.manual_seed(index)
        return on("cpu")(*(t.detach() for t in ss2d_inputs((1, 6, 5, 4, 1, 2), torch.float32))).sum()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method, threads):
    """They are started after the kernels ran in threads, and run them as well."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    threads(2)
    expected = [Scans()[i] for i in range(4)]
    loader = DataLoader(Scans(), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=120)
    torch.testing.assert_close(list(loader), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_threads_in_a_forked_process(threads):
    threads(2)
    expected = Scans()[0]
    simd_threads.run([lambda: None] * 2, 2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child():
        simd_threads.run([lambda: queue.put(float(Scans()[0])), lambda: None], 2)

    process = context.Process(target=child)
    threads(1)  # PyTorch's own operators would wait for threads that a forked process does not have
    process.start()
    assert queue.get(timeout=60) == pytest.approx(float(expected))
    process.join(60)
    assert process.exitcode == 0


def test_two_callers_at_the_same_time(threads):
    threads(2)
    inputs = [t.detach() for t in ss2d_inputs((2, 16, 16, 8, 1, 2), torch.float32)]
    expected = on("cpu")(*inputs)
    results = []
    callers = [threading.Thread(target=lambda: results.append(on("cpu")(*inputs))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 4 and all(torch.equal(y, expected) for y in results)


@pytest.mark.usefixtures("anew")
def test_cpu_takes_the_kernels_and_float64_does_not(caplog, monkeypatch):
    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    caplog.set_level(logging.INFO)
    for dtype in (torch.float32, torch.float64):
        ss2d_scan(*ss2d_inputs((1, 2, 2, 2, 1, 1), dtype))
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:2] == ["ss2d on cpu: backend cpu", "ss2d on cpu: backend torch (float64)"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("anew")
def test_without_numba_pytorch_runs(caplog, monkeypatch):
    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    inputs = ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32)
    assert torch.equal(ss2d_scan(*inputs), ss2d_scan(*inputs, backend="torch"))
    assert "backend cpu is not used because numba is not installed (pip install contrast-arch[cpu])" in caplog.text
    with pytest.raises(RuntimeError, match=r"ss2d: backend 'cpu' .*: numba is not installed"):
        ss2d_scan(*inputs, backend="cpu")


@pytest.mark.usefixtures("anew")
def test_a_numba_that_does_not_work_is_a_warning(caplog, monkeypatch):
    def broken(*args):
        raise ImportError("Numba needs NumPy 2.0 or less")

    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    monkeypatch.setattr(compiling, "_compile", broken)
    ss2d_scan(*ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32))
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ImportError: Numba needs NumPy 2.0 or less" in warning.getMessage()


def test_the_self_test_sees_a_wrong_result(monkeypatch):
    assert cpu._error(torch.device("cpu")) < 1e-6
    monkeypatch.setattr(cpu, "STEPS", 8)
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *args, **more: tuple(t * 1.001 for t in forward(*args, **more)))
    assert cpu._error(torch.device("cpu")) > 1e-4


def scan_in_a_new_process(cache):
    """Its log; ``cache`` is where numba keeps compiled kernels."""
    program = (
        "import logging, torch; logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "from contrast_arch.ops import ss2d_scan\n"
        "from tests.ops.ss2d.inputs import ss2d_inputs\n"
        "y = ss2d_scan(*ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32))\n"
        "assert y.isfinite().all()\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    environment.pop(ops.ENVIRONMENT, None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_kernels_are_compiled_once(tmp_path):
    log = scan_in_a_new_process(tmp_path)
    assert "ss2d.cpu_kernels: compiling, once on this machine" in log
    assert re.search(r"ss2d.cpu_kernels: compiled in \d+ s", log)
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
    log = scan_in_a_new_process(tmp_path)
    assert "compiling" not in log and "ss2d on cpu: backend cpu" in log


def test_a_change_in_a_shared_file_makes_other_kernels(monkeypatch, tmp_path):
    """Of a copy of the files that kernels are made of; the file of the kernel itself is as it was."""
    kernel = compiling._cache(cpu_kernels.forward)
    key = kernel._index_key((), Codegen())
    assert compiling._cache(cpu_kernels.forward)._index_key((), Codegen()) == key
    for file in Path(compiling.__file__).parent.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    assert compiling._cache(cpu_kernels.forward)._index_key((), Codegen()) == key
    with (tmp_path / "arithmetic.py").open("a") as file:
        file.write("# a change\n")
    assert compiling._cache(cpu_kernels.forward)._index_key((), Codegen()) != key


class Codegen:
    """The part of numba's code generator that its cache asks for the processor."""

    def magic_tuple(self):
        return ("a processor",)


@pytest.mark.parametrize("full", [False, True], ids=["no folder can be written to", "disk full"])
@pytest.mark.usefixtures("anew")
def test_nowhere_to_keep_the_kernels(monkeypatch, full):
    tried = []

    class Full(FunctionCache):
        def save_overload(self, *args):
            raise OSError(28, "No space left on device")

        def load_overload(self, *args):
            return None

    def cache(function):
        tried.append(function)
        if full:
            return Full(function)
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(compiling, "_cache", cache)
    check_against_definition("cpu", ss2d_inputs((1, 3, 4, 5, 1, 2), torch.float32), 2e-6)
    assert len(tried) == 2
