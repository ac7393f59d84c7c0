"""Peak memory of a training step of ContrastV2 by the form of its attention, on the CPU.

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
from contrast_arch.layers.attention import PositionBias
from contrast_arch.ops import ENVIRONMENT
from contrast_arch.weights.network import arguments_of

# Name in the table -> a name of FORMS to force or None, and the backend or None.
WAYS = {"plain form": ("plain", None), "window by window": (None, "torch"), "kernels": (None, None)}
QUICK = {"depths": [1], "num_heads": [2], "dims": 12, "window_size": 8}


def build(form: str | None, backend: str | None, changes: dict) -> ContrastV2:
    """ContrastV2 base with its attention in one form; for a process of its own, whose environment is changed."""
    PositionBias.form = form
    if backend is not None:
        os.environ[ENVIRONMENT] = backend
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
        way: alone(partial(build, *how, changes), "step", 1, size, training=True)["peak_mib"]
        for way, how in WAYS.items()
    }
    found = {"machine": machine_and_commit(torch.get_num_threads()), "size": size, "peak_mib": peaks}
    save(args.output / args.name, tables(found), found)
    print(tables(found))


if __name__ == "__main__":
    main()
