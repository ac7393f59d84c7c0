"""SS2D and training steps on a GPU: self-test, correctness, determinism, then time and memory.

    python benchmarks/gpu.py [--minutes 8] [--precisions fp32 default tf32 bf16]
        [--modes eager graph deterministic compiled reduce-overhead]

Needs torch and triton for the GPU and safetensors; spandrel for upstream HAT, which the ratios refer to; run from a
checkout (PYTHONPATH=. where the package is not installed). mamba_ssm's selective_scan_fn and VMamba's kernel are
timed where they can be imported. What fails its check gets no time, and what does not run, for want of memory too, is
noted. Parts for which the minutes do not reach are left out and named. Each network is printed and saved as soon as it
is timed, to benchmarks/results/NAME.{json,md}.

Precision "default" is PyTorch's: TF32 in convolutions, not in matrix products. Mode "graph" replays the whole step,
captured as a CUDA graph, "reduce-overhead" is torch.compile's, which captures forward and backward; "deterministic" is
eager with deterministic algorithms alone, at the first precision.

--dry-run goes through everything at tiny sizes on the CPU, for which TRITON_INTERPRET=1 has to be set; its times say
nothing.
"""

import contextlib
import os
import statistics
import time
from dataclasses import dataclass
from functools import partial

import cores
import torch
from common import parser_of

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.experiments.bench.checks import OUTPUT_LIMIT, check, plain, upstream_error
from contrast_arch.experiments.bench.command import EPOCH
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.bench.measure import Run, Trial, arithmetic, gpu_peak, timed
from contrast_arch.experiments.bench.networks import BASE, upstream_hat
from contrast_arch.experiments.markdown import save, table
from contrast_arch.ops import unsupported_reason

WIDE = "ContrastNoPE, ssm_ratio 2"
# What the minutes may not reach comes last.
ORDER = (BASE, "Contrast", "ContrastNoPE", "HATLight", WIDE, "ContrastNoPENoCA", "MambaLight")
NETWORKS = [name for name in ORDER if name not in (BASE, WIDE)]
PRECISIONS = ("fp32", "default", "tf32", "bf16")
MODES = ("eager", "graph", "deterministic", "compiled", "reduce-overhead")
COMPILED = ("compiled", "reduce-overhead")
# Modes that record what the GPU does.
CAPTURED = ("graph", "reduce-overhead")
# Relative error of a loss; after a few steps of Adam rounding has grown.
LOSS_TOLERANCE = {"fp32": 1e-3, "default": 1e-2, "tf32": 1e-2, "bf16": 5e-2}
# Three to warm up, one for the memory, three before a capture, and a replay.
CHECKED_STEPS = 8


@dataclass(kw_only=True)
class GpuRun(Run):
    """A run of this script."""

    batch: int
    deadline: float  # of time.perf_counter

    def left(self):
        """Seconds to the deadline."""
        return self.deadline - time.perf_counter()


# Whole networks.


def keep_mask(net, patch):
    """Compute upstream HAT's attention mask once: its forward copies it from the CPU, which cannot be captured."""
    side = -(-patch // net.window_size) * net.window_size
    net.register_buffer("kept_mask", net.calculate_mask((side, side), torch.float32), persistent=False)
    net.calculate_mask = lambda size, dtype: net.kept_mask.to(dtype)


@contextlib.contextmanager
def deterministic_algorithms(wanted):
    """Within :func:`arithmetic`: let PyTorch use only what repeats bit for bit, where wanted."""
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark &= not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class Step(Trial):
    """A training step as the option files have it, at a precision, in one of ``MODES``."""

    def __init__(self, run, build, precision, mode):
        torch.manual_seed(0)
        net = build()
        if mode in CAPTURED and hasattr(net, "calculate_mask"):
            keep_mask(net, run.patch)
        net = net.to(run.device).train()
        super().__init__(net, run.batch, run.patch, capturable=mode == "graph" and run.on_gpu)
        self.autocast = partial(torch.autocast, run.device.type, torch.bfloat16, enabled=precision == "bf16")
        self.forward, self.mode = net, mode
        if mode in COMPILED:
            # Networks share the code of their layers, and with it the limit beyond which PyTorch stops compiling.
            torch.compiler.reset()
            self.forward = torch.compile(net, mode="reduce-overhead" if mode == "reduce-overhead" else None)
        self.call = self.step

    def output(self):
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            return self.forward(self.lq)

    def capture(self):
        """From here on a call replays a CUDA graph of the step."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.call = graph.replay


def check_networks(run, builders, like):
    """Builders whose network is right on this device, by the checks of ``contrast-arch bench``; ``like``: HATLight."""
    good = {}
    for name, build in builders.items():
        with run.noting_failure(f"check of {name}"):
            if name == BASE:
                lq = torch.rand(1, 3, run.patch, run.patch, device=run.device)
                error = upstream_error(*(b().to(run.device) for b in (like, build)), lq)
                passed = run.check(name, error, OUTPUT_LIMIT)
            else:
                passed = check(run, name, build)
            if passed:
                good[name] = build
    return good


def plain_losses(run, build):
    """The losses of a network's first steps in float32 in plain PyTorch."""
    with plain(), arithmetic("fp32"):
        step = Step(run, build, "fp32", "eager")
        for _ in range(CHECKED_STEPS):
            step.step()
    return [float(loss) for loss in step.losses]


def time_step(run, name, build, expected, precision, mode):
    """The row of a network: times of one step, and peak memory; None where a check fails.

    Args:
        expected: what :func:`plain_losses` gives; the last loss before the timing is held against it.
    """
    what = f"{name}, {precision}, {mode}"
    captured = mode == "graph" and run.on_gpu
    with arithmetic(None if precision == "default" else precision), deterministic_algorithms(mode == "deterministic"):
        step = Step(run, build, precision, mode)
        for _ in range(3):
            step.step()
        if mode == "deterministic":
            again = Step(run, build, precision, mode)
            for _ in range(3):
                again.step()
            pairs = zip(step.net.parameters(), again.net.parameters(), strict=True)
            run.check(f"the same bits in a second run, {what}", not all(torch.equal(a, b) for a, b in pairs))
            del again, pairs
        # The graphs of reduce-overhead hold their memory from one step to the next.
        measured = run.on_gpu and mode != "reduce-overhead"
        memory = gpu_peak(step.step) / 2**30 if measured else None
        kernels = kernel_milliseconds(step.step) if run.on_gpu and mode == "eager" else None
        if captured:
            step.capture()
            step.call()
        last, count = float(step.losses[-1]), len(step.losses)
        error = abs(last / expected[count - 1] - 1)
        if not run.check(f"loss of step {count}, {what}", error, LOSS_TOLERANCE[precision]):
            return None
        milliseconds = [1000 * timed(step.call, run.device) for _ in range(run.rounds)]
    row = {"network": name, "precision": precision, "mode": mode, "peak_gib": memory, "ms": milliseconds}
    return row | {"kernels_ms": kernels}


def kernel_milliseconds(call):
    """Time of the kernels of a call: a step that takes longer waits for Python to launch them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1000


def parts(precisions, modes, names):
    """(mode, precision, network) in the order of the measurement.

    Eager steps take seconds, compiled ones minutes: those come last, the smallest precision first. A capture that fails
    may take the GPU's context with it, and upstream HAT is the one that was not written for it: captured last.
    """
    for mode in sorted(modes, key=MODES.index):
        wanted = sorted(precisions, key=PRECISIONS.index, reverse=mode in COMPILED)
        for precision in wanted[:1] if mode == "deterministic" else wanted:
            for name in sorted(names, key=lambda name: mode in CAPTURED and name == BASE):
                yield mode, precision, name


def time_steps(run, builders, precisions, modes):
    """Give the row of each network, precision and mode as soon as there is one."""
    losses, left_out = {}, []
    for mode, precision, name in parts(precisions, modes, builders):
        # Compiling is what takes long; a graph is captured in about a second.
        if run.left() < (90 if mode in COMPILED else 15):
            left_out.append(f"{name}, {precision}, {mode}")
            continue
        row = None
        with run.noting_failure(f"{name}, {precision}, {mode}"):
            if name not in losses:
                losses[name] = plain_losses(run, builders[name])
            row = time_step(run, name, builders[name], losses[name], precision, mode)
        if row is not None:
            yield row
    if left_out:
        run.notes.append(f"no time left for {'; '.join(left_out)}")


# Tables.


def core_table(rows):
    header = ["core", "B, H, W, D", "dtype", "forward, ms", "forward and backward, ms", "peak, GiB"]
    cells = []
    for row in rows:
        peak = f"{row['peak_gib']:.3f}" if "peak_gib" in row else ""
        times = [f"{row[key]:.3f}" for key in ("forward_ms", "both_ms")]
        cells.append([row["backend"], ", ".join(map(str, row["shape"])), row["dtype"], *times, peak])
    return "\n".join([*table(header, cells), ""])


def step_table(rows):
    """Each network over upstream HAT at the same precision and mode."""
    over = f"over {BASE}"
    header = ["network", "precision", "mode", "step, ms", "kernels, ms", over, "epoch, min", "peak, GiB", over]
    cells = []
    for row in rows:
        same = [r for r in rows if (r["precision"], r["mode"]) == (row["precision"], row["mode"])]
        base = next((r for r in same if r["network"] == BASE), None)
        milliseconds = statistics.median(row["ms"])
        over_time = f"{milliseconds / statistics.median(base['ms']):.2f}" if base else ""
        memory, over_memory = "", ""
        if row["peak_gib"] is not None:
            memory = f"{row['peak_gib']:.2f}"
            over_memory = f"{row['peak_gib'] / base['peak_gib']:.2f}" if base else ""
        time, epoch = f"{milliseconds:.1f}", f"{milliseconds * EPOCH / 60_000:.1f}"
        kernels = f"{row['kernels_ms']:.1f}" if row.get("kernels_ms") else ""
        names = row["network"], row["precision"], row["mode"]
        cells.append([*names, time, kernels, over_time, epoch, memory, over_memory])
    return "\n".join([*table(header, cells), ""])


def report(run, here, setting, core_rows, step_rows):
    where = f"{here.get('gpu', here['cpu'])}, driver {here.get('driver')}, CUDA {here.get('cuda')}"
    versions = f"torch {here['torch']}, triton {here['triton']}, Python {here['python']}, commit {here['commit']}"
    checks = sum(c["passed"] for c in run.checks)
    blocks = [f"{where}, {versions}.\n\n{setting}\n\n{checks} of {len(run.checks)} checks passed.\n"]
    blocks += [core_table(core_rows)] if core_rows else []
    blocks += [step_table(step_rows)] if step_rows else []
    blocks += ["".join(f"- {note}\n" for note in run.notes)] if run.notes else []
    return "\n".join(blocks)


def parse():
    parser = parser_of(__doc__, "gpu")
    parser.add_argument("--minutes", type=float, default=8, help="what does not fit is left out")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--networks", nargs="+", choices=ORDER, default=ORDER)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=64, help="side of the LQ patches")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, to check this script")
    args = parser.parse_args()
    if args.dry_run and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("--dry-run needs TRITON_INTERPRET=1 in the environment, set before Python starts")
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --dry-run checks the script without one")
    if args.dry_run:
        args.batch, args.patch, args.rounds = 1, 8, 1
    return args


def networks(run, dry_run):
    """Builders of the networks: ours at their defaults, and with D 120, upstream HAT at HATLight's."""
    ours = {"dims": 30, "depths": [1], "num_heads": [6], "window_size": 4} if dry_run else {}
    builders = {name: partial(getattr(archs, name), img_size=run.patch, **ours) for name in NETWORKS}
    builders[WIDE] = partial(builders["ContrastNoPE"], ssm_ratio=2.0)
    try:
        upstream = {"dims": 30, "depths": (1,), "heads": (6,), "window_size": 4} if dry_run else {}
        upstream_hat(**upstream)
        builders[BASE] = partial(upstream_hat, **upstream)
    except ImportError as error:
        run.notes.append(f"spandrel is not installed, so nothing is divided by upstream HAT ({error})")
    return builders


def main() -> None:
    start = time.perf_counter()
    args = parse()
    torch.manual_seed(0)
    # What deterministic matrix products want; cuBLAS reads it when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cpu") if args.dry_run else torch.device("cuda", torch.cuda.current_device())
    run = GpuRun(device, args.patch, args.rounds, batch=args.batch, deadline=start + 60 * args.minutes)
    here = machine(torch.get_num_threads())
    setting = (
        f"Training steps: X4, batch {run.batch}, {run.patch}x{run.patch} LQ, MSE and Adam, median of {run.rounds} "
        f"steps. Peak memory: what PyTorch allocates in one step."
    )
    setting = ("DRY RUN on the CPU, times say nothing. " if args.dry_run else "") + setting
    core_rows, step_rows = [], []

    def write():
        text = report(run, here, setting, core_rows, step_rows)
        data = {"machine": here, "setting": setting, "checks": run.checks, "core": core_rows, "steps": step_rows}
        save(args.output / args.name, text, data | {"notes": run.notes})
        return text

    with arithmetic("fp32"):
        reason = unsupported_reason("ss2d", "cuda", run.device)
        run.check(f"self-test of the scans{f' ({reason})' if reason else ''}", reason is not None)
        candidates = cores.check(run, cores.candidates(run), cores.CASES[args.dry_run])
        same = "core cuda, the same bits in every run"
        if "cuda" in candidates and not run.check(same, not cores.deterministic(run)):
            del candidates["cuda"]
        builders = networks(run, args.dry_run)
        good = check_networks(
            run, {name: builders[name] for name in args.networks if name in builders}, builders["HATLight"]
        )

        shapes = cores.SHAPES[args.dry_run]
        core_rows += cores.measure_all(run, candidates, shapes)
    write()
    for row in time_steps(run, good, args.precisions, args.modes):
        step_rows.append(row)
        what = ", ".join(row[key] for key in ("network", "precision", "mode"))
        print(f"{what}: {statistics.median(row['ms']):.1f} ms", flush=True)
        write()
    print(write())
    if not all(c["passed"] for c in run.checks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
