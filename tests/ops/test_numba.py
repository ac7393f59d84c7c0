"""The numba kernels against the definition, where they run, and what happens when they cannot."""

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numba as package
import pytest
import torch
from torch.utils.data import DataLoader

import contrast_arch.archs.contrast_arch as archs
from contrast_arch import ops
from contrast_arch.ops import jit, numba, ss2d_scan
from tests.ops.scan_inputs import (
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
        for function in (ops._chosen, jit._build, numba._self_test):
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
    check_against_definition("numba", ss2d_inputs(shape, torch.float32), 2e-6)


@pytest.mark.parametrize("dt_bias", [-13.0, 0.0, 20.0, 120.0])
def test_small_and_large_steps(dt_bias):
    """dt from 1e-6 to 120. Where exp(dt A) is below float32 A's gradient is too, hence the absolute part."""
    check_against_definition("numba", ss2d_inputs((1, 12, 13, 6, 2, 2), torch.float32, dt_bias), 5e-6, absolute=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_float32_state(dtype):
    check_half_precision("numba", dtype)


def test_not_contiguous():
    check_not_contiguous("numba")


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 1, 2), (2, 0, 4, 3, 1, 2)], ids=str)
def test_empty(shape):
    check_empty("numba", shape)


@pytest.mark.parametrize("which", range(6))
def test_nan_goes_through_and_stays_in_its_image(which):
    check_nan("numba", which)


def test_order_of_pixels_is_that_of_the_definition():
    check_order_of_pixels("numba")


def test_backward_without_saved_states():
    check_backward_without_states("numba", ss2d_inputs((2, 7, 9, 5, 2, 2), torch.float32))


def test_operators_pass_opcheck():
    check_operators("numba", ss2d_inputs((2, 3, 5, 3, 2, 2), torch.float32))


def test_autocast_changes_nothing():
    inputs = ss2d_inputs((1, 8, 8, 4, 1, 2), torch.float32)
    weight = torch.randn(1, 8, 8, 4)
    expected = outputs_and_gradients(on("numba"), inputs, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = outputs_and_gradients(on("numba"), inputs, weight)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("compiled", [False, True])
def test_network_on_the_kernels_is_the_network_on_pytorch(monkeypatch, compiled):
    net = archs.Contrast(dims=6, depths=[2], num_heads=[2], window_size=4, upscale=2)
    lq, gt = torch.rand(1, 3, 9, 7), torch.rand(1, 3, 18, 14)
    results = {}
    for backend in ("torch", "numba"):
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
        torch.compiler.reset()
        run = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        sr = run(lq)
        loss = torch.nn.functional.mse_loss(sr, gt)
        results[backend] = [sr, *torch.autograd.grad(loss, list(net.parameters()))]
    for a, b in zip(results["numba"], results["torch"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_bits_do_not_depend_on_when_the_tasks_run(threads):
    threads(2)
    inputs = ss2d_inputs((5, 9, 8, 6, 1, 2), torch.float32)
    weight = torch.randn(5, 9, 8, 6)
    first, *others = (outputs_and_gradients(on("numba"), inputs, weight) for _ in range(5))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("shared", [True, False], ids=["PyTorch's threads", "own threads"])
def test_number_of_threads_is_respected(monkeypatch, threads, shared):
    if shared and jit._openmp() is None:
        pytest.skip("this PyTorch has no GNU OpenMP entry point")
    if not shared:
        monkeypatch.setattr(jit, "_openmp", lambda: None)
    for workers in (1, 2, 3):
        threads(workers)
        seen, meet = set(), threading.Barrier(workers)

        def task(seen=seen, meet=meet):
            seen.add(threading.get_ident())
            meet.wait(10)  # nobody does two

        jit.run([task] * workers, workers)
        assert len(seen) == workers


@pytest.mark.parametrize("shared", [True, False], ids=["PyTorch's threads", "own threads"])
def test_what_a_task_raises_is_raised(monkeypatch, shared):
    if not shared:
        monkeypatch.setattr(jit, "_openmp", lambda: None)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jit.run([interrupted, time.time], 2)


class Scans(torch.utils.data.Dataset):
    """Each item is the sum of a scan's output, worked out where the item is."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.manual_seed(index)
        return on("numba")(*(t.detach() for t in ss2d_inputs((1, 6, 5, 4, 1, 2), torch.float32))).sum()


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
    jit.run([lambda: None] * 2, 2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child():
        jit.run([lambda: queue.put(float(Scans()[0])), lambda: None], 2)

    process = context.Process(target=child)
    threads(1)  # PyTorch's own operators would wait for threads that a forked process does not have
    process.start()
    assert queue.get(timeout=60) == pytest.approx(float(expected))
    process.join(60)
    assert process.exitcode == 0


def test_two_callers_at_the_same_time(threads):
    threads(2)
    inputs = [t.detach() for t in ss2d_inputs((2, 16, 16, 8, 1, 2), torch.float32)]
    expected = on("numba")(*inputs)
    results = []
    callers = [threading.Thread(target=lambda: results.append(on("numba")(*inputs))) for _ in range(4)]
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
    assert messages[:2] == ["SS2D on cpu: backend numba", "SS2D on cpu: backend torch (float64)"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("anew")
def test_without_numba_pytorch_runs(caplog, monkeypatch):
    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    monkeypatch.setattr(numba.importlib.util, "find_spec", lambda name: None)
    inputs = ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32)
    assert torch.equal(ss2d_scan(*inputs), ss2d_scan(*inputs, backend="torch"))
    assert "numba is not used because numba is not installed (pip install contrast-arch[cpu])" in caplog.text
    with pytest.raises(RuntimeError, match=r"'numba' .* cannot serve: numba is not installed"):
        ss2d_scan(*inputs, backend="numba")


@pytest.mark.usefixtures("anew")
def test_a_numba_that_does_not_work_is_a_warning(caplog, monkeypatch):
    def broken(*args):
        raise ImportError("Numba needs NumPy 2.0 or less")

    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    monkeypatch.setattr(jit, "_compile", broken)
    ss2d_scan(*ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32))
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ImportError: Numba needs NumPy 2.0 or less" in warning.getMessage()


def test_the_self_test_sees_a_wrong_result(monkeypatch):
    assert numba._error(torch.device("cpu")) < 1e-6
    monkeypatch.setattr(numba, "STEPS", 8)
    forward = numba.forward
    monkeypatch.setattr(numba, "forward", lambda *args, **more: tuple(t * 1.001 for t in forward(*args, **more)))
    assert numba._error(torch.device("cpu")) > 1e-4


def scan_in_a_new_process(cache):
    """Its log; ``cache`` is where numba keeps compiled kernels."""
    program = (
        "import logging, torch; logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "from contrast_arch.ops import numba, ss2d_scan\n"
        "from tests.ops.scan_inputs import ss2d_inputs\n"
        "y = ss2d_scan(*ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32))\n"
        "assert y.isfinite().all()\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    environment.pop(ops.ENVIRONMENT, None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_kernels_are_compiled_once(tmp_path):
    assert "numba_kernels: numba compiles" in scan_in_a_new_process(tmp_path)
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
    log = scan_in_a_new_process(tmp_path)
    assert "numba compiles" not in log and "SS2D on cpu: backend numba" in log


class Full:
    """A kernel that compiles and cannot be written to the cache."""

    def compile(self, signature):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("full", [False, True], ids=["no folder can be written to", "disk full"])
@pytest.mark.usefixtures("anew")
def test_nowhere_to_keep_the_kernels(monkeypatch, full):
    njit, tried = package.njit, []

    def without_cache(*functions, cache=False, **options):
        if not cache:
            return njit(*functions, **options)
        tried.append(cache)
        if full:
            return lambda function: Full()
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(package, "njit", without_cache)
    check_against_definition("numba", ss2d_inputs((1, 3, 4, 5, 1, 2), torch.float32), 2e-6)
    assert len(tried) == 2
