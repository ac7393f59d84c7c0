"""Memory, open files and threads of ``contrast-arch upscale`` and ``contrast-arch prepare`` over many images.

    python benchmarks/many_images.py [--count 10000] [--output benchmarks/results]

Each command runs in a process of its own over COUNT images of noise: upscale with a tiny Contrast over 24x24, prepare
(two processes, X2 and X4) over 32x32. Every half second what /proc says of the process and of its
children is added up. many_images.json and many_images.md hold the medians of each quarter of the images. Linux only;
about a quarter of an hour on two cores.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, parser_of
from PIL import Image

from contrast_arch import Contrast
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table

TINY = {"dims": 12, "depths": [1], "num_heads": [2], "window_size": 8}
# Folder under the working directory -> the command that fills it, and the side of its images.
COMMANDS = {
    "upscaled": ("upscale images -o upscaled --model tiny.pth --quiet", 24),
    "prepared/HR": ("prepare images --output prepared --scales 2 4 --gt-size 32 --processes 2", 32),
}
QUANTITIES = ("MiB", "open files", "threads")


def family(process: int) -> list[int]:
    """A process and all its descendants."""
    found = [process]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def sample(process: int) -> tuple[float, int, int]:
    """Resident memory (MiB), open files and threads of a process and its descendants."""
    total = np.zeros(3)
    for member in family(process):
        # It may end while it is looked at, and has no memory then.
        with contextlib.suppress(OSError, KeyError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{member}/status").read_text().splitlines())
            files = len(list(Path(f"/proc/{member}/fd").iterdir()))
            total += int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"])
    return tuple(map(float, total))


def run(folder: Path, command: str, made: Path, count: int) -> list[list[float]]:
    """Medians of the samples of a command, for each quarter of the images it makes."""
    quarters = [[], [], [], []]
    environment = os.environ | {"PYTHONPATH": str(RESULTS.parents[1].resolve())}
    words = [sys.executable, "-m", "contrast_arch.cli", *command.split()]
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
    while process.poll() is None:
        time.sleep(0.5)
        done = sum(1 for _ in made.iterdir()) if made.is_dir() else 0
        # Of the first images caches are filled, and after the last one only lists are written.
        if min(100, count // 10) <= done < count:
            quarters[done * 4 // count].append(sample(process.pid))
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{(folder / 'log.txt').read_text()[-2000:]}")
    return [[statistics.median(values) for values in zip(*quarter, strict=True)] for quarter in quarters]


def tables(found: dict) -> str:
    here = found["machine"]
    rows = [
        [f"`contrast-arch {name}`", quantity, *(f"{quarter[i]:.0f}" for quarter in quarters)]
        for name, quarters in found["quarters"].items()
        for i, quantity in enumerate(QUANTITIES)
    ]
    lines = [f"{here['cpu']}, torch {here['torch']}; {found['count']:,} images each:", ""]
    header = ["command", "median of", "1st quarter", "2nd", "3rd", "4th"]
    return "\n".join([*lines, *table(header, rows)]) + "\n"


def main() -> None:
    parser = parser_of(__doc__, "many_images")
    parser.add_argument("--count", type=int, default=10_000)
    args = parser.parse_args()
    found = {"machine": machine(torch.get_num_threads()), "count": args.count, "quarters": {}}
    random = np.random.default_rng(0)
    for made, (command, side) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "images").mkdir()
            torch.save({"params": Contrast(**TINY).state_dict()}, folder / "tiny.pth")
            for i in range(args.count):
                pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / f"{i:05}.png", compress_level=1)
            found["quarters"][command.split()[0]] = run(folder, command, folder / made, args.count)
    save(args.output / args.name, tables(found), found)
    print(tables(found))


if __name__ == "__main__":
    main()
