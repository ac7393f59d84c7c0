"""The Triton backend without a GPU: its kernels interpreted, compiled for GPUs, and chosen or not."""

import contextlib
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import contrast_arch.ops as ops
from contrast_arch.layers.ss2d import SS2D
from contrast_arch.ops import dispatch, ss2d_scan
from contrast_arch.ops.ss2d import cuda, cuda_kernels
from tests.conftest import ROOT
from tests.ops.ss2d.inputs import ss2d_inputs

triton_compiler = pytest.importorskip("triton")
GPUTarget = triton_compiler.backends.compiler.GPUTarget
ASTSource = triton_compiler.compiler.ASTSource


def test_kernels_under_the_interpreter():
    """interpreted.py in a process of its own, because triton reads TRITON_INTERPRET when it is imported."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--show-capture=no", "tests/ops/ss2d/interpreted.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", result.stdout).group(1)) >= 18


TARGETS = {
    "sm80": GPUTarget("cuda", 80, 32),
    "sm86": GPUTarget("cuda", 86, 32),
    "sm90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}
# Registers that are kept in memory for want of more: 21 of one instance of the gradient kernel on RDNA.
SPILLED = {"gfx1100": 24}
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
KERNELS = ("chunk_kernel", "carry_kernel", "output_kernel", "gradient_kernel", "parameter_kernel")


def launches(monkeypatch, shape, dtype):
    """Every launch of one forward and backward pass: (kernel, arguments by name, compile options)."""
    inputs = [t.detach() for t in ss2d_inputs(shape, dtype, parameter_dtype=torch.float32)]

    def passes():
        y, states = cuda.forward(*inputs, keep=True)
        cuda.backward(y, states, *inputs)

    return recorded(monkeypatch, passes)


def recorded(monkeypatch, call):
    """The launches of a call, see :func:`launches`; the kernels do not run."""
    found = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            assert all(0 < size < 2**31 for size in grid) and grid[1] < 2**16
            return self.record

        def record(self, *args, **more):
            arguments = dict(zip(self.kernel.arg_names, args, strict=False))
            arguments |= {name: more.pop(name) for name in self.kernel.arg_names if name in more}
            assert sorted(arguments) == sorted(self.kernel.arg_names)
            found.append((self.kernel, arguments, more))

    with monkeypatch.context() as patch:
        for name in KERNELS:
            patch.setattr(cuda_kernels, name, Recorder(getattr(cuda_kernels, name)))
        call()
    return found


def test_what_ss2d_keeps_for_backward(choice):
    """Each tensor once, and nothing that is not an input or an output of a part."""
    choice()
    with FakeTensorMode(), torch.device("cuda:0"):
        layer, x = SS2D(60), torch.empty(1, 16, 16, 60, requires_grad=True)
        own, kept = {p.untyped_storage()._cdata for p in layer.parameters()}, {}

        def keep(t):
            if t.untyped_storage()._cdata not in own:
                kept[t.untyped_storage()._cdata] = t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = layer(x)
        assert y.requires_grad
        # Inputs of in_proj, the convolution, the activation, the scan, out_norm (with mean and deviation) and out_proj;
        # dt_r, B and C; what enters the chunks.
        assert sum(kept.values()) == 256 * (6 * 60 + 2 + 4 * 6 + 4 * 60 // 16)


class Operators(TorchDispatchMode):
    """Names of PyTorch's operators that launch something on a GPU."""

    QUIET = ("empty", "new_empty", "empty_like", "view", "_unsafe_view", "expand", "detach", "alias", "select")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name not in self.QUIET:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "dim, dtype, sums",
    [
        (60, torch.float32, []),
        (60, torch.bfloat16, []),
        (120, torch.float32, ["sum"]),
        (120, torch.bfloat16, ["sum", "_to_copy"]),
    ],
)
def test_nothing_runs_beside_the_kernels(monkeypatch, dim, dtype, sums):
    """Nine launches forward and backward; sums where the channels are cut into blocks. bfloat16 is that of autocast."""
    operators = Operators()
    inputs = [t.detach() for t in ss2d_inputs((1, 8, 8, dim, 2, 4), dtype, parameter_dtype=torch.float32)]

    def passes():
        with operators:
            y, states = cuda.forward(*inputs, keep=True)
            cuda.backward(y, states, *inputs)

    assert [kernel.__name__ for kernel, _, _ in recorded(monkeypatch, passes)] == [
        *("chunk_kernel", "carry_kernel", "output_kernel", "output_kernel"),
        *("chunk_kernel", "carry_kernel", "gradient_kernel", "gradient_kernel", "parameter_kernel"),
    ]
    assert operators.names == sums


def compile_for(target, kernel, arguments, options):
    """The kernel as it is compiled for these arguments on a GPU of this kind."""
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if kernel.params[i].is_constexpr:
            signature[name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(i,)] = POINTERS[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton_compiler.compile(source, target=target, options=options)


def spilled(compiled, target, folder):
    """Spills that the compiler made for want of registers: registers on AMD, bytes on NVIDIA."""
    if target.backend == "hip":
        return sum(int(n) for n in re.findall(r"\.[vs]gpr_spill_count:\s+(\d+)", compiled.asm["amdgcn"]))
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton_compiler.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    return sum(int(n) for n in re.search(r"STACK:(\d+).* LOCAL:(\d+)", usage).groups())


@pytest.mark.parametrize(
    "name, dtype, names",
    [
        *((name, torch.float32, KERNELS) for name in ("sm80", "sm86", "sm90", "gfx942")),
        ("gfx1100", torch.float32, ["gradient_kernel"]),
        ("sm90", torch.bfloat16, ["gradient_kernel"]),
    ],
)
def test_default_kernels_compile_without_spills(monkeypatch, tmp_path, name, dtype, names):
    """N = 1, R = 4, D = 60 at 64x64, the whole of a training step of the default networks.

    RDNA spills a few registers, see ``SPILLED``.
    """
    kernels = launches(monkeypatch, (1, 64, 64, 60, 1, 4), dtype)
    assert len(kernels) == 9 and {options["num_warps"] for _, _, options in kernels} == {4}
    for kernel, arguments, options in kernels:
        if kernel.__name__ not in names:
            continue
        compiled = compile_for(TARGETS[name], kernel, arguments, options)
        order_0 = kernel is cuda_kernels.gradient_kernel and arguments["ORDER"] == 0
        allowed = SPILLED.get(name, 0) if order_0 else 0
        assert spilled(compiled, TARGETS[name], tmp_path) <= allowed, kernel.__name__
        # A row of the tile times the channels passes 2^31 in a large image or batch.
        products = re.findall(r"arith\.muli .* : tensor<\d+x1x(i\d+)>", compiled.asm["ttir"])
        assert set(products) == {"i64"}, kernel.__name__


@pytest.mark.parametrize("shape", [(1, 33, 31, 18, 4, 3), (1, 8, 8, 120, 2, 12)], ids=str)
def test_other_sizes_compile(monkeypatch, shape):
    """Parts of a chunk, N above 1, other widths and ranks; float16."""
    for kernel, arguments, options in launches(monkeypatch, shape, torch.float16):
        if not arguments.get("ORDER") and not arguments.get("ADJOINT"):
            assert compile_for(TARGETS["sm80"], kernel, arguments, options).asm["cubin"]


@pytest.mark.parametrize("dim, channels", [(1, 16), (16, 16), (17, 32), (54, 64), (60, 64), (64, 64), (120, 64)])
def test_tiles_fit_the_channels(dim, channels):
    assert cuda.config(dim).channels == channels
    assert cuda.config(dim).steps == cuda.STEPS


@pytest.fixture
def choice(monkeypatch):
    """Makes choices anew, for a machine with a GPU whose self-test says what it is told to."""
    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    dispatch._chosen.cache_clear()

    def make(verdict=None, device="cuda", backend=None, double=False):
        monkeypatch.setattr(dispatch, "_self_test", lambda error, device: verdict)
        return dispatch._choose("ss2d", backend, None, device, 0 if device == "cuda" else None, double)

    yield make
    dispatch._chosen.cache_clear()


def test_a_gpu_takes_the_kernels_or_says_why_not(choice, caplog, monkeypatch):
    """Once, as a warning; float64 is no reason for one."""
    caplog.set_level(logging.INFO)
    assert [choice() for _ in range(3)] == ["cuda"] * 3 and choice(double=True) == "torch"
    assert caplog.messages[:2] == ["ss2d on cuda:0: backend cuda", "ss2d on cuda:0: backend torch (float64)"]
    for reason in ("its self-test on cuda:0 was wrong by 1.0e-01", "triton is not installed"):
        caplog.clear()
        dispatch._chosen.cache_clear()
        if "triton" in reason:
            monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
        assert choice(reason) == "torch"
        (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert f"runs in plain PyTorch, slower: backend cuda is not used because {reason}" in warning


def test_a_backend_can_be_forced_and_says_why_it_cannot_serve(choice, monkeypatch):
    assert choice(backend="reference") == "reference"
    with pytest.raises(RuntimeError, match=r"ss2d: backend 'cuda' .*: its self-test failed"):
        choice("its self-test failed", backend="cuda")
    with pytest.raises(RuntimeError, match="an input is float64"):
        choice(backend="cuda", double=True)
    monkeypatch.setenv(ops.ENVIRONMENT, "cuda")
    with pytest.raises(RuntimeError, match="it needs a tensor on cuda, not one on cpu"):
        ss2d_scan(*ss2d_inputs((1, 2, 2, 2, 1, 1), torch.float32))


@pytest.fixture
def untested():
    """No device was tested before, and none is afterwards."""
    dispatch._self_test.cache_clear()
    yield
    dispatch._self_test.cache_clear()


@pytest.mark.usefixtures("untested")
@pytest.mark.skipif(not hasattr(triton_compiler.runtime.build, "_find_compiler"), reason="another triton")
@pytest.mark.parametrize("missing, message", [("compiler", "Failed to find C compiler"), ("cache", "NotADirectory")])
def test_a_machine_that_cannot_compile_has_a_reason(monkeypatch, tmp_path, missing, message):
    """Triton needs a C compiler for what starts a kernel, and a folder for what it compiles."""
    build = triton_compiler.runtime.build
    (tmp_path / "file").touch()
    if missing == "compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        build._find_compiler.cache_clear()
    else:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **more: build.compile_module_from_src("int nothing;", "nothing")

    monkeypatch.setattr(cuda_kernels, "chunk_kernel", Kernel())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    reason = ops.unsupported_reason("ss2d", "cuda", torch.device("cpu"))
    assert reason.startswith("its self-test did not run on cpu: ") and message in reason


@pytest.mark.usefixtures("untested")
def test_the_self_test_waits_for_the_end_of_a_capture(monkeypatch):
    gpu, tests = torch.device("cuda", 0), []

    def tested():
        return ops.unsupported_reason("ss2d", "cuda", gpu)

    monkeypatch.setattr(cuda, "self_test_error", lambda device: tests.append(device) or 0.0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"not tested on cuda:0 yet.* run the network once before the capture"):
        tested()
    assert not tests
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert tested() is None and tests == [gpu]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert tested() is None and tests == [gpu]


def test_kernels_run_on_the_device_of_their_tensors(monkeypatch):
    """Triton launches on the current device, here cuda:0, and the process of a DDP training may have another one."""
    current, seen = [0], []

    @contextlib.contextmanager
    def device(wanted):
        current.append(wanted.index)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **more: seen.append(current[-1])

    monkeypatch.setattr(torch.cuda, "device", device)
    for name in KERNELS:
        monkeypatch.setattr(cuda_kernels, name, Kernel())
    with FakeTensorMode():
        inputs = [torch.empty(t.shape, device="cuda:1") for t in ss2d_inputs((1, 4, 8, 6, 1, 1), torch.float32)]
        y, states = cuda.forward(*inputs, keep=True)
        cuda.backward(y, states, *inputs)
    assert len(seen) == 9 and set(seen) == {1}
