"""Peak memory of a training step of ContrastV2 by the backend of its attention, on the CPU.

    python benchmarks/memory.py [--output benchmarks/results]

One 64x64 patch, base (windows of 32); each in a process of its own. The plain form keeps the scores of OCAB for
backward, (windows, heads, 1024, 2304) in each of six groups; window by window (no numba) and the kernels (numba) keep
none, and gather the bias again. Two minutes; memory.json and memory.md. ``--quick``: one block, windows of 8.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import torch
from common import RESULTS, machine_and_commit

from contrast_arch.archs.contrast_arch import ContrastV2
from contrast_arch.bench.measure import alone, no_peak
from contrast_arch.bench.networks import shipped_network_g
from contrast_arch.bench.results import save, table
from contrast_arch.ops import ENVIRONMENT
from contrast_arch.weights.network import arguments_of

# Name in the table -> the backend of OCAB's attention.
BACKENDS = {"plain form": "reference", "window by window": "torch", "kernels": "cpu"}
QUICK = {"depths": [1], "num_heads": [2], "dims": 12, "window_size": 8}


def build(backend: str, changes: dict) -> ContrastV2:
    """ContrastV2 base with one backend of attention; for a process of its own, whose environment is changed."""
    os.environ[ENVIRONMENT] = f"overlap_attention={backend}"
    return ContrastV2(**arguments_of(shipped_network_g("ContrastV2_base")) | changes)


def tables(found: dict) -> str:
    here = found["machine"]
    lines = [
        f"{here['cpu']}, torch {here['torch']}; ContrastV2 base, X4, one {found['size']}x{found['size']} LQ patch:"
    ]
    peaks = found["peak_mib"]
    rows = [[way, f"{peak:.0f} MiB", f"{peak / peaks['plain form']:.2f}"] for way, peak in peaks.items()]
    return "\n".join([*lines, "", *table(["attention", "peak of a training step", "over plain"], rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network and patch")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--name", default="memory")
    args = parser.parse_args()
    if reason := no_peak():
        raise SystemExit(reason)
    size, changes = (16, QUICK) if args.quick else (64, {})
    peaks = {
        way: alone(partial(build, backend, changes), "step", 1, size, training=True)["peak_mib"]
        for way, backend in BACKENDS.items()
    }
    found = {"machine": machine_and_commit(torch.get_num_threads()), "size": size, "peak_mib": peaks}
    save(args.output / args.name, tables(found), found)
    print(tables(found))


if __name__ == "__main__":
    main()
