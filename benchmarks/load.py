"""Memory, open files, threads and disk of a long training run of a network of one layer.

    python benchmarks/load.py [--iterations 200000] [--output benchmarks/results]

The run is contrast-train's, in one process: patches of 8x8, batch 1, a checkpoint every 500 iterations of which two
are kept, a validation every 1,000. Every two seconds /proc is read for the process and its children, and the folder of
the run is measured. load.json and load.md hold medians around 10, 50 and 100 % of the run, and the slope from 10 % on.
Linux only; about three quarters of an hour on a slow core.
"""

import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
import yaml
from common import parser_of
from many_images import sample
from mistakes import base_files, write_pairs
from torch import nn

from contrast_arch import compat
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table

QUANTITIES = ("memory, MiB", "open files", "threads", "checkpoints and states, KiB", "metrics.jsonl, KiB", "log, KiB")
PLACES = (0.1, 0.5, 1.0)


class OneLayer(nn.Sequential):
    def __init__(self, upscale):
        super().__init__(nn.Conv2d(3, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))


def write_options(folder: Path, iterations: int) -> None:
    """Write images and FOLDER/options.yml."""
    write_pairs(folder, count=4, size=(8, 8))
    options = yaml.safe_load(base_files(folder)[1])
    options |= {"name": "load", "network_g": {"type": "OneLayer", "upscale": 4}}
    options["datasets"]["train"] |= {"batch_size_per_gpu": 1, "dataset_enlarge_ratio": 250}
    options["train"] |= {"total_iter": iterations, "accumulate": 1}
    options["val"] |= {"val_freq": 1000, "tile": None}
    options["logger"] |= {"print_freq": 100, "save_checkpoint_freq": 500, "keep_last": 2}
    (folder / "options.yml").write_text(yaml.safe_dump(options, sort_keys=False))


def train(folder: Path) -> None:
    """Train, in a process of its own."""
    compat.require_basicsr()
    from basicsr.utils.registry import ARCH_REGISTRY

    from contrast_arch.pipeline import run

    ARCH_REGISTRY.register(OneLayer)
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = ["contrast-train", "-opt", "options.yml"]
    with open("output.txt", "w") as output, redirect_stdout(output), redirect_stderr(output):
        sys.exit(run(is_train=True))


def sizes(folder: Path) -> list[float]:
    """KiB of what a run has on disk: checkpoints and states, metrics.jsonl, log."""
    root, total = folder / "experiments" / "load", []
    for pattern in (("models/*", "training_states/*"), ("metrics.jsonl",), ("*.log",)):
        found = itertools.chain.from_iterable(map(root.glob, pattern))
        # An old one may be removed meanwhile.
        total.append(sum(file.stat().st_size for file in found if file.exists()) / 1024)
    return total


def watch(folder: Path, seconds: float) -> list[list[float]]:
    """Train in FOLDER; a sample every so many seconds: iteration and QUANTITIES."""
    process = multiprocessing.get_context("spawn").Process(target=train, args=(folder,))
    process.start()
    metrics, samples = folder / "experiments" / "load" / "metrics.jsonl", []
    while process.is_alive():
        time.sleep(seconds)
        lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
        if len(lines) > 1:
            samples.append([json.loads(lines[-1])["iteration"], *sample(process.pid), *sizes(folder)])
    if process.exitcode:
        raise SystemExit(f"training ended with {process.exitcode}:\n{(folder / 'output.txt').read_text()[-2000:]}")
    return [one for one in samples if one[1]]  # without that of a process that has just ended


def figures(samples: list[list[float]], iterations: int) -> dict:
    """Medians of the samples around PLACES, the largest, and the slope from the first place on, for each quantity.

    The slope is the median of those between some samples: the kernel may take back pages of libraries at once.
    """
    rows, found = np.array(samples), {}
    done = rows[:, 0] / iterations
    for column, name in enumerate(QUANTITIES, 1):
        values, steady = rows[:, column], done >= PLACES[0]
        medians = [statistics.median(values[abs(done - place) <= 0.05]) for place in PLACES]
        found[name] = {"medians": medians, "slope": slope(rows[steady], column), "largest": float(values.max())}
    return found


def slope(rows: np.ndarray, column: int) -> float:
    """Median slope of a column between 40 of the samples, per 100,000 iterations."""
    steps = np.diff(rows[:: max(1, len(rows) // 40)], axis=0)
    return float(np.median(steps[:, column] / steps[:, 0] * 100_000))


def tables(found: dict) -> str:
    here = found["machine"]
    text = f"{here['cpu']}, torch {here['torch']}; {found['iterations']:,} iterations in {found['seconds'] / 60:.0f} "
    text += f"minutes, {found['samples']:,} samples."
    header = ["quantity", *(f"at {place:.0%}" for place in PLACES), "largest", "slope, per 100,000 iterations"]
    rows = []
    for name, row in found["figures"].items():
        rows.append([name, *(f"{value:,.0f}" for value in (*row["medians"], row["largest"])), f"{row['slope']:+,.1f}"])
    note = ["", "Memory that falls was file pages of libraries, which the kernel takes back when others need memory."]
    return "\n".join([text, "", *table(header, rows), *note]) + "\n"


def main() -> None:
    parser = parser_of(__doc__, "load")
    parser.add_argument("--iterations", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=2, help="from one sample to the next")
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        write_options(Path(name), args.iterations)
        samples = watch(Path(name), args.seconds)
    found = {"machine": machine(1), "iterations": args.iterations, "seconds": round(time.monotonic() - begun)}
    found |= {"samples": len(samples), "figures": figures(samples, args.iterations)}
    found["some"] = samples[:: max(1, len(samples) // 40)]
    save(args.output / args.name, tables(found), found)
    print(tables(found))


if __name__ == "__main__":
    main()
