"""Largest parts of Contrast on this machine's CPU: how much of its measured peak each reaches; and bfloat16.

    python benchmarks/shares.py [--rounds 15 5] [--output benchmarks/results]

The peaks are those of a product of two matrices, and of a copy of as much as a layer's features. They are measured in
every round, in turns with the parts: a share is the median over the rounds of the shortest time that the peaks of the
round allow over the time that the part took. bfloat16 is autocast around whole networks, against float32 in the same
run, and the peak of a step in a process of its own. Five minutes; shares.json and shares.md are written after each
part. ``--quick``: small images, one round.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from common import parser_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import contrast_arch.archs.contrast_arch as archs
import contrast_arch.experiments.bench.multiply_adds  # teaches PyTorch's counter our operators
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.bench.measure import (
    Trial,
    alone,
    interleaved,
    peak_unsupported_reason,
    random_inputs,
    ratio,
    timed,
)
from contrast_arch.experiments.markdown import save, table
from contrast_arch.layers.attention import OverlapAttention
from contrast_arch.ops import overlap_attention, ss2d_scan

DIMS, BLOCKS, GROUPS = 60, 24, 4
NETWORKS = ("Contrast", "ContrastNoPE", "HATLight")
# A shorter call is made several times, and counts as one of them.
SHORTEST = 0.01
GEMM, COPY, FAR_COPY = "GEMM", "copy of the features", "copy of 256 MiB"


def parts(batch: int, size: int) -> dict[str, tuple[int, Callable, list[torch.Tensor]]]:
    """Make the parts: name -> calls in Contrast, the function, and its inputs, trained ones included."""

    def layer(calls, module, channels=DIMS, spatial=False):
        x = torch.randn(batch, size, size, channels)
        inputs = [(x.permute(0, 3, 1, 2) if spatial else x).requires_grad_(), *module.parameters()]
        return calls, lambda x, *_: module(x), inputs

    def linear(calls, channels, out, bias=True):
        return layer(calls, nn.Linear(channels, out, bias), channels)

    def convolution(calls, channels, out, groups=1, bias=True):
        return layer(calls, nn.Conv2d(channels, out, 3, 1, 1, groups=groups, bias=bias), channels, spatial=True)

    attention = OverlapAttention(DIMS, 16, 0.5, 6, nn.LayerNorm, nn.Identity())
    qkv = torch.randn(batch, size, size, 3 * DIMS, requires_grad=True)
    return {
        "scan": (BLOCKS, ss2d_scan, random_inputs(torch.device("cpu"), (batch, size, size), DIMS)),
        "linear 60-60": linear(2 * BLOCKS + GROUPS, DIMS, DIMS, bias=False),
        "linear 60-24 (x_proj)": linear(BLOCKS, DIMS, 24, bias=False),
        "linear 60-120 (fc1)": linear(BLOCKS + GROUPS, DIMS, 2 * DIMS),
        "linear 120-60 (fc2)": linear(BLOCKS + GROUPS, 2 * DIMS, DIMS),
        "linear 60-180 (qkv)": linear(GROUPS, DIMS, 3 * DIMS),
        "convolution 3x3 60-60": convolution(GROUPS + 1, DIMS, DIMS),
        "convolution 3x3 60-20 (CAB)": convolution(BLOCKS, DIMS, DIMS // 3),
        "convolution 3x3 20-60 (CAB)": convolution(BLOCKS, DIMS // 3, DIMS),
        "depthwise convolution 3x3": convolution(BLOCKS, DIMS, DIMS, groups=DIMS, bias=False),
        "GELU of 60": layer(BLOCKS, nn.GELU()),
        "GELU of 120": layer(BLOCKS + GROUPS, nn.GELU(), 2 * DIMS),
        "LayerNorm": layer(3 * BLOCKS + 2 * GROUPS + 2, nn.LayerNorm(DIMS)),
        "overlapping attention": (
            GROUPS,
            # As in training: the operator gathers the bias.
            lambda qkv, _: overlap_attention(qkv, attention.bias(), 6, 16, attention.overlap_size),
            [qkv, attention.relative_position_bias_table],
        ),
    }


def work(function: Callable, inputs: list[torch.Tensor]) -> dict[str, dict[str, float]]:
    """Count FLOPs, and bytes at the least, of the forward and the backward pass.

    Backward counts two products for each of forward, and reads inputs and gradient to write the gradients of the
    inputs.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = function(*inputs)
    flops, read, written = counter.get_total_flops(), 4 * sum(t.numel() for t in inputs), 4 * out.numel()
    return {
        "forward": {"flops": flops, "bytes": read + written},
        "backward": {"flops": 2 * flops, "bytes": written + 2 * read},
    }


def several(call: Callable) -> tuple[Callable, int]:
    """Make a call that takes SHORTEST or longer, and say how many of the given one it makes."""
    call()
    count = max(1, round(SHORTEST / max(1e-6, min(timed(call) for _ in range(3)))))

    def repeated():
        for _ in range(count):
            call()

    return repeated, count


def forward(function, inputs):
    with torch.no_grad():
        return function(*inputs)


def measure_shares(threads: int, batch: int, size: int, rounds: int, gemm: int, far: int) -> dict:
    """Measure peaks and parts of one batch, interleaved.

    Args:
        gemm: side of the matrices.
        far: numbers of the copy that no cache holds.
    """
    torch.set_num_threads(threads)
    a, b = torch.randn(2, gemm, gemm)
    near, large = torch.randn(batch, size, size, DIMS), torch.randn(far)
    near_to, large_to = torch.empty_like(near), torch.empty_like(large)
    calls = {
        GEMM: partial(torch.mm, a, b),
        COPY: partial(near_to.copy_, near),
        FAR_COPY: partial(large_to.copy_, large),
    }
    amounts = {GEMM: 2 * gemm**3, COPY: 8 * near.numel(), FAR_COPY: 8 * far}
    found = parts(batch, size)
    for name, (_, function, inputs) in found.items():
        out = function(*inputs)
        calls[name, "forward"] = partial(forward, function, inputs)
        calls[name, "backward"] = partial(torch.autograd.grad, out, inputs, torch.randn_like(out), retain_graph=True)
    repeated = {key: several(call) for key, call in calls.items()}
    times = interleaved({key: call for key, (call, _) in repeated.items()}, rounds)
    seconds = {key: [t / repeated[key][1] for t in own] for key, own in times.items()}
    rates = {name: [amounts[name] / t for t in seconds[name]] for name in amounts}
    rows = []
    for name, (count, function, inputs) in found.items():
        for direction, amount in work(function, inputs).items():
            own = seconds[name, direction]
            bounds = {
                GEMM: [amount["flops"] / rate for rate in rates[GEMM]],
                COPY: [amount["bytes"] / rate for rate in rates[COPY]],
            }
            bound = max(bounds, key=lambda key: statistics.median(bounds[key]))
            median = statistics.median(own)
            rows.append(
                {
                    "part": name,
                    "pass": direction,
                    "calls": count,
                    "ms": 1000 * median,
                    "gflops": amount["flops"] / median / 1e9,
                    "gbytes": amount["bytes"] / median / 1e9,
                    "bound": bound,
                    "share": ratio(bounds[bound], own),
                }
            )
    peaks = {name: statistics.median(rate) / 1e9 for name, rate in rates.items()}
    return {"threads": threads, "batch": batch, "peaks": peaks, "rows": rows}


def build(network: str, precision: str, **changes) -> nn.Module:
    """Build a network of the published size, under autocast where the precision is bf16."""
    torch.manual_seed(0)
    net = getattr(archs, network)(**changes)
    if precision == "bf16":
        net.forward = torch.autocast("cpu", torch.bfloat16)(net.forward)
    return net


def measure_bf16(network: str, threads: int, batch: int, size: int, rounds: int, **changes) -> dict:
    """Measure seconds and peaks of a training step in both precisions, and seconds of inference."""
    torch.set_num_threads(threads)
    trials = {p: Trial(build(network, p, **changes), batch, size) for p in ("fp32", "bf16")}
    seconds = {}
    # Inference first: every step changes the weights, and with them what is kept of the bias.
    for kind in ("inference", "step"):
        own = interleaved({p: getattr(trial, kind) for p, trial in trials.items()}, rounds, warm_up=1)
        seconds[kind] = own
    del trials
    peaks = {p: alone(partial(build, network, p, **changes), "step", batch, size)["peak_mib"] for p in ("fp32", "bf16")}
    return {"network": network, "threads": threads, "batch": batch, "seconds": seconds, "peak_mib": peaks}


def tables(found: dict) -> str:
    """Write all figures so far in Markdown."""
    here, size = found["machine"], found["size"]
    lines = [
        f"{here['cpu']}, {here['system']}, torch {here['torch']}, numba {here['numba']}, Python {here['python']}, "
        f"commit {here['commit']}; float32, {size}x{size} LQ, dims {DIMS}.",
        "",
        "A part is bound by the products that its definition counts, at the peak of a GEMM, or by what it reads and "
        "writes once at the least, at that of a copy of a layer's features, whichever takes longer. Exponentials and "
        "divisions count as nothing.",
    ]
    for own in found["shares"]:
        peaks = own["peaks"]
        lines += [
            "",
            f"{own['threads']} threads, batch {own['batch']}: {GEMM} {peaks[GEMM]:.0f} GFLOP/s, {COPY} "
            f"{peaks[COPY]:.1f} GB/s, {FAR_COPY} {peaks[FAR_COPY]:.1f} GB/s.",
            "",
        ]
        rows = []
        for row in own["rows"]:
            cells = [row["part"], row["pass"], str(row["calls"]), f"{row['ms']:.2f}", f"{row['calls'] * row['ms']:.0f}"]
            cells += [f"{row['gflops']:.0f}", f"{row['gbytes']:.1f}", row["bound"].split()[0]]
            rows.append([*cells, f"{100 * row['share']:.0f} %"])
        header = ["part", "pass", "calls", "ms", "ms of all calls", "GFLOP/s", "GB/s", "bound by", "share of the peak"]
        lines += table(header, rows)
    if found["bf16"]:
        lines += ["", "bfloat16 autocast over float32, networks of the published sizes:", ""]
        rows = []
        for row in found["bf16"]:
            cells = [row["network"], str(row["threads"]), str(row["batch"])]
            for kind in ("inference", "step"):
                own = row["seconds"][kind]
                cells += [f"{statistics.median(own[p]):.3f}" for p in ("fp32", "bf16")]
                cells.append(f"{ratio(own['bf16'], own['fp32']):.2f}")
            peaks = row["peak_mib"]
            rows.append([*cells, f"{peaks['bf16']:.0f} MiB ({peaks['bf16'] / peaks['fp32']:.2f})"])
        header = ["network", "threads", "batch", "inference, fp32, s", "bf16, s", "over fp32"]
        lines += table([*header, "step, fp32, s", "bf16, s", "over fp32", "peak of a step"], rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, "shares")
    parser.add_argument("--rounds", type=int, nargs=2, default=(15, 5), help="of the parts, and of bfloat16 at batch 1")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="images of 16x16, one round")
    args = parser.parse_args()
    if reason := peak_unsupported_reason():
        raise SystemExit(reason)
    size, rounds, batches, gemm, far = 64, args.rounds, (1, 8), 2048, 1 << 26
    networks, changes = NETWORKS, {}
    if args.quick:
        size, rounds, batches, gemm, far = 16, (1, 1), (1,), 128, 1 << 16
        networks, changes = NETWORKS[:1], {"depths": [1], "num_heads": [6]}
    most, start = max(args.threads), time.monotonic()
    found = {"machine": machine(most), "size": size, "shares": [], "bf16": []}

    def add(part, value, name):
        found[part].append(value)
        save(args.output / args.name, tables(found), found)
        print(f"{time.monotonic() - start:.0f} s: {name}", flush=True)

    for threads in args.threads:
        for batch in batches:
            own = measure_shares(threads, batch, size, rounds[0], gemm, far)
            add("shares", own, f"shares, {threads} threads, batch {batch}")
    for batch in batches:
        for network in networks:
            # A step of eight takes up to twenty seconds.
            count = rounds[1] if batch == 1 else max(1, rounds[1] // 3)
            add("bf16", measure_bf16(network, most, batch, size, count, **changes), f"bf16, {network}, batch {batch}")
    print(tables(found))


if __name__ == "__main__":
    main()
