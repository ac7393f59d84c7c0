"""SS2D's core on a GPU: the kernels it is compared with, its checks, and its times."""

import torch

from contrast_arch.experiments.bench.checks import relative
from contrast_arch.experiments.bench.measure import DIM, gradients, measure_cores, random_inputs
from contrast_arch.ops import ss2d_scan
from contrast_arch.ops.ss2d.reference import DIRECTIONS, scan_order

# (B, H, W, D) of what is timed, and ((B, H, W), d_state, dtype) of what is checked; the second of each for dry runs. D
# is that of the default networks, and of those with ssm_ratio 2.
SHAPES = ([(8, 64, 64, 60), (8, 64, 64, 120), (1, 64, 64, 60), (1, 256, 256, 60)], [(1, 2, 3, 4)])
DTYPES = ((torch.float32, torch.bfloat16), (torch.float32,))
CASES = (
    [
        ((1, 32, 35), 1, torch.float32),
        ((2, 64, 64), 1, torch.float32),
        ((1, 16, 19), 4, torch.float32),
        ((1, 37, 53), 16, torch.float32),
        ((1, 32, 35), 1, torch.bfloat16),
        ((1, 32, 35), 1, torch.float16),
    ],
    [((1, 2, 3), 2, torch.bfloat16)],
)


def width(run):
    """D, that of the default networks where the run is not dry."""
    return DIM if run.on_gpu else 4


def with_scan(selective_scan):
    """SS2D's core the usual way: four reordered copies, one scan of them all, and the merge."""

    def core(x, p, dt_w, dt_b, A_logs, Ds):
        _, height, width, dim = x.shape
        rank, state = dt_w.shape[2], A_logs.shape[1]
        orders = torch.stack([scan_order(height, width, k, x.device) for k in range(DIRECTIONS)])
        u = x.flatten(1, 2)[:, orders].transpose(2, 3)
        own = torch.stack([p.flatten(1, 2)[:, order, k] for k, order in enumerate(orders)], 1).transpose(2, 3)
        dt_r, B, C = own.split([rank, state, state], 2)
        delta = torch.einsum("bkrl,kdr->bkdl", dt_r, dt_w.to(x.dtype))
        y = selective_scan(
            u.flatten(1, 2).contiguous(),
            delta.flatten(1, 2).contiguous(),
            -A_logs.float().exp(),
            B.contiguous(),
            C.contiguous(),
            Ds.float(),
            dt_b.float().flatten(),
        )
        y = y.unflatten(1, (DIRECTIONS, dim)).transpose(2, 3)
        inverse = orders.argsort(1)
        return sum(y[:, k, inverse[k]] for k in range(DIRECTIONS)).view_as(x)

    return core


def mamba_scan():
    """mamba_ssm's selective_scan_fn with the arguments of :func:`with_scan`."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return lambda u, dt, A, B, C, D, bias: selective_scan_fn(u, dt, A, B, C, D, None, bias, True)


def vmamba_scan():
    """VMamba's CUDA extension, likewise."""
    import selective_scan_cuda_oflex as kernel

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, dt, A, B, C, D, bias):
            out, states, *_ = kernel.fwd(u, dt, A, B, C, D, bias, True, 1, True)
            ctx.save_for_backward(u, dt, A, B, C, D, bias, states)
            return out

        @staticmethod
        def backward(ctx, dy):
            u, dt, A, B, C, D, bias, states = ctx.saved_tensors
            return tuple(kernel.bwd(u, dt, A, B, C, D, bias, dy.contiguous(), states, True, 1)[:7])

    return Scan.apply


def candidates(run):
    """The cores to compare, by name."""
    found = {
        "cuda": lambda *t: ss2d_scan(*t, backend="cuda"),
        "torch": lambda *t: ss2d_scan(*t, backend="torch"),
    }
    for name, load in (("mamba_ssm", mamba_scan), ("VMamba", vmamba_scan)):
        try:
            found[name] = with_scan(load())
        except ImportError:
            run.notes.append(f"{name}'s kernel is not installed: not timed")
    return found


def check(run, cores, cases):
    """Those that agree with float64 in every case, output and gradients."""
    good = dict(cores)
    for shape, state, dtype in cases:
        inputs = random_inputs(run.device, shape, width(run), dtype, state)
        weight = torch.randn(inputs[0].shape, device=run.device)
        wide = [t.detach().double().requires_grad_() for t in inputs]
        expected = gradients(lambda *t: ss2d_scan(*t, backend="torch"), wide, weight)
        limit = 2e-5 if dtype == torch.float32 else 8e-3
        for name, core in cores.items():
            case = f"core {name}, {shape}, N {state}, {str(dtype)[6:]}"
            try:
                error = relative(gradients(core, inputs, weight), expected)
            except Exception as failure:
                run.notes.append(f"{case}: {type(failure).__name__}: {str(failure)[:200]}")
                error = float("inf")
            if not run.check(case, error, limit):
                good.pop(name, None)
    return good


def deterministic(run):
    """True if forward and backward give the same bits every time."""
    *shape, dim = SHAPES[not run.on_gpu][0]
    inputs = random_inputs(run.device, shape, dim)
    weight = torch.randn(inputs[0].shape, device=run.device)
    first, *others = (
        gradients(lambda *t: ss2d_scan(*t, backend="cuda"), inputs, weight) for _ in range(10 if run.on_gpu else 2)
    )
    return all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def measure_all(run, cores, shapes):
    """Measure the cores at each shape and dtype."""
    rows = []
    for shape in shapes:
        for dtype in DTYPES[not run.on_gpu]:
            what = f"the core, {shape}, {str(dtype)[6:]}"
            if run.left() < 20:
                run.notes.append(f"no time left for {what}")
                continue
            with run.noting_failure(what):
                found = measure_cores(run, cores, shape, dtype)
                rows += [{"shape": shape, "dtype": str(dtype)[6:]} | row for row in found]
    return rows
