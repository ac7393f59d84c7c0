"""Time of imports and of the command line's help, each in a process of its own.

    python benchmarks/imports.py [--rounds 9] [--output benchmarks/results]

The programs are interleaved; a row is the median over the rounds, with the smallest and the largest, and its last
column the median of the differences to its base within a round. Writes imports.json and imports.md.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import parser_of

from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table

PYTHON = sys.executable
# Name: the command, and the row that it is compared with.
PROGRAMS = {
    "python": ([PYTHON, "-c", "pass"], None),
    "import torch": ([PYTHON, "-c", "import torch"], "python"),
    "import contrast_arch": ([PYTHON, "-c", "import contrast_arch"], "python"),
    "import torch, contrast_arch": ([PYTHON, "-c", "import torch, contrast_arch"], "import torch"),
    "from contrast_arch import Contrast": ([PYTHON, "-c", "from contrast_arch import Contrast"], "import torch"),
    "import contrast_arch, basicsr": ([PYTHON, "-c", "import contrast_arch, basicsr"], "import torch"),
    "contrast-arch --help": ([str(Path(PYTHON).parent / "contrast-arch"), "--help"], "python"),
    "contrast-train --help": ([str(Path(PYTHON).parent / "contrast-train"), "--help"], "python"),
}


def seconds(command: list[str]) -> float:
    """Time a process from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def tables(found: dict) -> str:
    """Write the figures in Markdown."""
    here, rounds, rows = found["machine"], found["rounds"], []
    for name, (_, base) in PROGRAMS.items():
        times = [seconds[name] for seconds in rounds]
        more = f"{statistics.median(own[name] - own[base] for own in rounds):+.2f} to {base}" if base else ""
        rows.append([f"`{name}`", f"{statistics.median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}", more])
    header = f"{here['cpu']}, torch {here['torch']}, Python {here['python']}; {len(rounds)} rounds."
    return "\n".join([header, "", *table(["program", "s", "from, to", "s more than its base"], rows), ""])


def main() -> None:
    parser = parser_of(__doc__, "imports")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    # The first round fills the disk's cache and Python's own, and is not counted.
    rounds = [{name: seconds(command) for name, (command, _) in PROGRAMS.items()} for _ in range(args.rounds + 1)][1:]
    found = {"machine": machine(1), "rounds": rounds}
    save(args.output / args.name, tables(found), found)
    print(tables(found))


if __name__ == "__main__":
    main()
