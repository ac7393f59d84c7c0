"""Inference and training step of the networks at their defaults, over upstream HAT, on this machine's CPU.

    python benchmarks/networks.py [--batch 1] [--rounds 7] [--threads 2]

One run, the networks interleaved round by round, medians; the first line of every table is what the others are divided
by: HAT as spandrel ships it, at the sizes of HATLight. A network is timed only after it has reproduced its recorded
reference, and upstream HAT HATLight. Writes benchmarks/results/NAME.{json,md}.
"""

import argparse
import os
import statistics
import time

import torch
from common import BASE, NETWORKS, RESULTS, machine, ratio, reference_error, save, upstream_error, upstream_hat

import contrast_arch.archs.contrast_arch as archs


def measure(batch: int, size: int, rounds: int) -> dict:
    """Seconds of each network: {"inference" | "step": {name: [seconds, ...]}}."""
    nets = {BASE: upstream_hat()} | {name: getattr(archs, name)() for name in NETWORKS}
    optimizers = {name: torch.optim.Adam(net.parameters(), lr=2e-4) for name, net in nets.items()}
    lq, gt = torch.rand(batch, 3, size, size), torch.rand(batch, 3, 4 * size, 4 * size)

    def inference(name):
        with torch.no_grad():
            nets[name](lq)

    def step(name):
        optimizers[name].zero_grad()
        torch.nn.functional.mse_loss(nets[name](lq), gt).backward()
        optimizers[name].step()

    seconds = {"inference": {name: [] for name in nets}, "step": {name: [] for name in nets}}
    for i in range(rounds + 1):
        for kind, function in (("inference", inference), ("step", step)):
            for name in nets:
                start = time.perf_counter()
                function(name)
                if i:  # the first round warms up
                    seconds[kind][name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict) -> str:
    """Markdown: median seconds, and the median over the rounds of the ratio to upstream HAT in the same round."""
    lines = ["| network | inference, s | over HAT | training step, s | over HAT |", "|---|---|---|---|---|"]
    for name in seconds["step"]:
        cells = [name]
        for kind in ("inference", "step"):
            times, base = seconds[kind][name], seconds[kind][BASE]
            cells += [f"{statistics.median(times):.3f}", f"{ratio(times, base):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="side of the LQ patches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--name", help="of the result files (default: cpu_batchN)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    for name in NETWORKS:
        if reference_error(name) > 1e-5:
            raise SystemExit(
                f"{name} is {reference_error(name):.1e} away from its reference; no time is worth printing"
            )
    error = upstream_error(archs.HATLight(), upstream_hat(), torch.rand(1, 3, 32, 32))
    if error > 1e-5:
        raise SystemExit(f"{BASE} is {error:.1e} away from HATLight; no time is worth printing")
    seconds = measure(args.batch, args.size, args.rounds)
    here = machine(args.threads)
    setting = (
        f"X4, batch {args.batch}, {args.size}x{args.size} LQ, float32, MSE and Adam, median of {args.rounds} rounds"
    )
    text = (
        f"{here['cpu']}, {here['threads']} threads, torch {here['torch']}, Python {here['python']}; "
        f"{setting}.\n\n{table(seconds)}"
    )
    print(text)
    target = RESULTS / (args.name or f"cpu_batch{args.batch}")
    save(target, text, {"machine": here, "setting": setting, "seconds": seconds})


if __name__ == "__main__":
    main()
