"""Kernels of the CPU: compiled once, called in threads, and not available."""

import logging
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import torch
from numba.core.caching import FunctionCache
from torch.utils.data import DataLoader

from contrast_arch import ops
from contrast_arch.ops import dispatch, simd, ss2d_scan
from contrast_arch.ops.attention import cpu as attention
from contrast_arch.ops.self_test import error_of
from contrast_arch.ops.ss2d import cpu, cpu_kernels
from tests.conftest import run_python
from tests.ops.attention.test_cpu import indexed
from tests.ops.ss2d.inputs import on, outputs_and_gradients, ss2d_inputs


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def anew(monkeypatch):
    """Backends are chosen, and kernels built and tested, as in a new process."""

    def forget():
        for function in (dispatch._chosen, dispatch._self_test, simd._build):
            function.cache_clear()

    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    forget()
    yield
    forget()


def scan(seed=0):
    torch.manual_seed(seed)
    return on("cpu")(*(t.detach() for t in ss2d_inputs((2, 6, 5, 4, 1, 2), torch.float32)))


@pytest.fixture(params=[True, False], ids=["PyTorch's threads", "own threads"])
def shared(request, monkeypatch):
    if request.param and simd._openmp() is None:
        pytest.skip("this PyTorch has no GNU OpenMP entry point")
    if not request.param:
        monkeypatch.setattr(simd, "_openmp", lambda: None)


@pytest.mark.usefixtures("shared")
def test_number_of_threads_is_respected_and_errors_are_raised():
    for workers in (1, 2, 3):
        seen, meet = set(), threading.Barrier(workers)

        def task(seen=seen, meet=meet):
            seen.add(threading.get_ident())
            meet.wait(10)  # nobody does two

        simd.run([task] * workers, workers)
        assert len(seen) == workers

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simd.run([interrupted, dict], 2)


def test_bits_do_not_depend_on_when_the_tasks_run():
    """Nor on other callers at the same time."""
    inputs, weight = ss2d_inputs((5, 9, 8, 6, 1, 2), torch.float32), torch.randn(5, 9, 8, 6)
    expected, results = outputs_and_gradients(on("cpu"), inputs, weight), []
    callers = [
        threading.Thread(target=lambda: results.append(outputs_and_gradients(on("cpu"), inputs, weight)))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 4
    assert all(torch.equal(a, b) for found in results for a, b in zip(found, expected, strict=True))


class Scans(torch.utils.data.Dataset):
    """Each item is the sum of a scan's output, worked out where the item is."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return scan(index).sum()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method):
    """They are started after the kernels ran in threads, and run them as well."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    expected = [Scans()[i] for i in range(2)]
    loader = DataLoader(Scans(), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=600)
    torch.testing.assert_close(list(loader), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_threads_in_a_forked_process():
    expected = scan().sum()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child():
        simd.run([lambda: queue.put(float(scan().sum())), dict], 2)

    process = context.Process(target=child)
    torch.set_num_threads(1)  # PyTorch's own operators would wait for threads that a forked process does not have
    process.start()
    assert queue.get(timeout=300) == pytest.approx(float(expected))
    process.join(300)
    assert process.exitcode == 0


@pytest.mark.usefixtures("anew")
def test_without_numba_pytorch_runs(caplog, monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    inputs = ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32)
    assert torch.equal(ss2d_scan(*inputs), ss2d_scan(*inputs, backend="torch"))
    assert "backend cpu is not used because numba is not installed (pip install contrast-arch[cpu])" in caplog.text
    with pytest.raises(RuntimeError, match=r"ss2d: backend 'cpu' .*: numba is not installed"):
        ss2d_scan(*inputs, backend="cpu")


@pytest.mark.usefixtures("anew")
def test_a_numba_that_does_not_work_is_a_warning(caplog, monkeypatch):
    def broken(*args):
        raise ImportError("Numba needs NumPy 2.0 or less")

    monkeypatch.setattr(simd, "_compile", broken)
    ss2d_scan(*ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32))
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ImportError: Numba needs NumPy 2.0 or less" in warning.getMessage()


@pytest.mark.parametrize("module", [cpu, attention])
def test_the_self_test_sees_a_wrong_result(module, monkeypatch):
    device = torch.device("cpu")
    assert module.self_test_error(device) < 1e-6
    launch = simd.launch

    def wrong(name, kernel, sizes, calls):
        launch(name, kernel, sizes, calls)
        for arrays, _ in calls:
            # A gradient of both, and an output of both.
            arrays[-2 if kernel == "forward" else -1][:] *= 1.001

    monkeypatch.setattr(simd, "launch", wrong)
    assert module.self_test_error(device) > 1e-4


# What a kernel says when it is compiled for another processor than this one, named in numba's configuration.
PROGRAM = """
import logging, sys, torch
logging.basicConfig(level=logging.INFO, format="%(message)s")
from tests.ops.simd.test_simd import results
torch.save(results(), sys.argv[1])
"""


def results() -> list[torch.Tensor]:
    """Outputs and gradients of the scan and of OCAB's attention, whose sizes fill no vector."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    found = []
    scanned = random(1, 5, 7, 18), random(1, 5, 7, 4, 7), random(4, 18, 3), random(4, 18), random(72, 2), random(72)
    attended = random(1, 8, 4, 18), random(2, 16, 36)
    calls = (
        (lambda *inputs: cpu.ss2d(*inputs, True)[0], scanned),
        (lambda qkv, bias: attention.overlap_attention(qkv, indexed(bias), 2, 4, 6), attended),
    )
    for operator, inputs in calls:
        y = operator(*[value.requires_grad_() for value in inputs])
        found += [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]
    return found


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="another kind of processor"
)
def test_other_processors_give_the_same_values_and_compile_once(tmp_path, monkeypatch):
    """A vector is eight registers of SSE, without fused multiply-adds, and four of AVX2."""
    # Without a list of features numba adds those of this machine to the processor's.
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    native, found = results(), {}
    for name, starts in (("haswell", 1), ("generic", 2)):
        cache = tmp_path / name
        monkeypatch.setenv("NUMBA_CPU_NAME", name)
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
        first, *again = (run_python(tmp_path, "-c", PROGRAM, f"{name}.pt") for _ in range(starts))
        assert first.returncode == 0 and "ss2d.cpu_kernels.forward: compiling, once on this machine" in first.stderr
        assert len(list(cache.rglob("*.nbc"))) == 4
        assert not any("compiling" in run.stderr or run.returncode for run in again)
        found[name] = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert error_of(found[name], native) < 1e-5
    # Without fused multiply-adds results are rounded otherwise: the name took effect.
    assert not all(map(torch.equal, found["generic"], native))


class Codegen:
    """The part of numba's code generator that its cache asks for the processor."""

    def magic_tuple(self):
        return ("a processor",)


def test_a_change_in_a_shared_file_makes_other_kernels(monkeypatch, tmp_path):
    """Of a copy of the files that kernels are made of; the file of the kernel itself is as it was."""

    def key():
        return simd._cache(cpu_kernels.forward)._index_key((), Codegen())

    before = key()
    for file in Path(simd.__file__).parent.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(simd, "__file__", str(tmp_path / "__init__.py"))
    assert key() == before
    with (tmp_path / "vectors.py").open("a") as file:
        file.write("# a change\n")
    assert key() != before


@pytest.mark.parametrize("full", [False, True], ids=["no folder can be written to", "disk full"])
def test_nowhere_to_keep_the_kernels(monkeypatch, full):
    """They are compiled all the same."""
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

    def forward(x, scratch, n):
        for i in range(n):
            x[i] += scratch[0]

    monkeypatch.setattr(simd, "_cache", cache)
    kernel, (x, one) = simd._compile(forward), simd.flat(torch.zeros(3), torch.ones(1))
    kernel(x, one, 2)
    assert x.tolist() == [1, 1, 0] and tried == [forward]
