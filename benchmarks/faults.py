"""Training runs that are killed, stopped, run out of disk, or meet broken files; what is left must load, and go on.

    python benchmarks/faults.py --minutes 120 [--only REGEX] [--hits N] [--output benchmarks/results]

A tiny Contrast is trained on noise on the CPU, always with ``--auto_resume``. Each start of a run is hit by a fault at
a random moment; afterwards all files of ``models`` and ``training_states`` are read. When a run has come to its end,
its weights and its last state must be, bit for bit, those of a run that nobody disturbed. No start may end with a
traceback.

Most starts are forks of this process, which has the imports and kernels ready. New processes are started where the
fault is to come in the imports or while kernels are compiled, and for the undisturbed run that forks are compared with.
Results add up: NAME.json has the counts of all calls, by case, and the next call goes on with the cases that lack most.
Needs Linux, gcc (a library that makes disk and clock fail is preloaded) and, for full and read-only disks, root.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, parser_of
from faults_runs import FAULTS, Case, Run, Start, difference, mounted
from PIL import Image

import contrast_arch
from contrast_arch import compat
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import fill, save, table

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
MODELS = ("ContrastModel", "SRModel")
DISK = ("-t", "tmpfs", "-o", "size=8m", "tmpfs")
MOST_HITS = 8
SHIM = "faults_shim.so"
COUNTS = ("runs", "starts", "hits", "writing", "files", "bad", "lost", "most_lost", "equal")


def write_images(folder: Path) -> None:
    """Write pairs of noise, HR/N.png of 48x40 and LR/Nx4.png of 12x10."""
    generator = np.random.default_rng(0)
    for number in range(6):
        small = generator.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        for name, pixels in ((f"LR/{number}x4.png", small), (f"HR/{number}.png", small.repeat(4, 0).repeat(4, 1))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)


def cases() -> list[Case]:
    """All cases; the kills among them are wanted 1,000 times."""
    found, phases = [], ("training", "saving", "validation", "start")
    for model in MODELS:
        for phase in phases:
            found += [Case(60, "SIGKILL", model, phase), Case(20, "SIGKILL", model, phase, 2, 0)]
        found += [Case(20, "SIGKILL of a rank", model, phase, 2, 0) for phase in phases[:3]]
        found += [Case(20, "SIGKILL", model, workers=workers) for workers in (0, 3)]
        found += [Case(30, "SIGKILL", model, "start", fresh=True), Case(10, "SIGKILL", model, "start", 2, 0, True)]
        found += [Case(15, "SIGKILL of a loader worker", model, workers=workers) for workers in (1, 3)]
        found += [Case(5, "SIGSTOP", model), Case(5, "SIGSTOP", model, "training", 2, 0)]
        found += [Case(20, fault, model) for fault in list(FAULTS)[4:]]
        found += [Case(10, fault, model, "training", 2, 0) for fault in ("disk errors from then on", "flipped bit")]
        found += [Case(10, "SIGKILL", model, "compilation", fresh=True)]
    return found


class Laboratory:
    """Folder for runs, and the undisturbed runs that they are compared with."""

    def __init__(self, folder: Path, stop_seconds: float):
        self.folder, self.stop_seconds, self.expected, self.runs = folder, stop_seconds, {}, 0
        write_images(folder / "images")

    def _run(self, case, seed):
        self.runs += 1
        return Run(self.folder / f"run{self.runs}", case, self.folder / "images", seed, self.stop_seconds)

    def undisturbed(self, case: Case) -> tuple:
        """Return what a run without fault leaves, and the seconds of its phases."""
        key = case._replace(fault="", goal=0, phase=case.phase if case.phase == "compilation" else "training")
        if key not in self.expected:
            start = Start(self._run(key, ""))
            if start.wait() != {0}:
                raise RuntimeError(f"{case.name}: without any fault:\n{start.text[-3000:]}")
            self.expected[key] = start.run.result(), start.durations()
            if not case.fresh:
                new, _ = self.undisturbed(key._replace(fresh=True, workers=2 - case.processes))
                other = difference(new[0], self.expected[key][0][0])
                if other is not None:
                    raise RuntimeError(f"{case.name}: a fork trains other weights than a new process: {other}")
        return self.expected[key]

    def run(self, case: Case, seed: int) -> tuple[Counter, list[str]]:
        """Hit a run until it ends, or often enough; return counts, and what was not as it has to be."""
        expected, durations = self.undisturbed(case)
        run = self._run(case, f"{case.name} {seed}")
        with mounted(run.work, *DISK) if case.fault == "full disk" else nullcontext():
            if not any(run.hit(durations) for _ in range(MOST_HITS)):
                run.look(Start(run), {0})
            try:
                other = difference(run.result(), expected)
            except InputError as error:
                other = str(error)
        shutil.rmtree(run.work.parent)
        run.found += Counter(runs=1, equal=other is None)
        problems = run.problems + ([] if other is None else [f"other weights or state at the end: {other}"])
        return run.found, [f"{case.name}, seed {seed}: {text}" for text in problems]


def prepare() -> None:
    """Let this process have what its forks need: BasicSR, and compiled kernels; no threads."""
    torch.set_num_threads(1)
    compat.require_basicsr()
    from contrast_arch.training import loop  # noqa: F401

    network = contrast_arch.Contrast(dims=12, depths=[1], num_heads=[2], window_size=4)
    network(torch.zeros(1, 3, 8, 8)).sum().backward()


def markdown(found: dict) -> str:
    """Write the figures in Markdown."""
    rows, total, kills = [], Counter(), 0
    for case in (case for case in cases() if case.model == MODELS[0]):
        both = [Counter(found["cases"].get(case._replace(model=model).name)) for model in MODELS]
        counts = both[0] + both[1]
        hits, most = counts["hits"], max(one["most_lost"] for one in both)
        total += counts
        kills += hits if case.fault.startswith("SIGKILL") else 0
        moment = f"{case.phase}, {'new process' if case.fresh else 'fork'}"
        row = [case.fault, moment, f"{case.processes} x {case.workers}", " + ".join(str(one["hits"]) for one in both)]
        row += [str(counts["writing"]), str(counts["files"]), str(counts["bad"])]
        rows.append(
            [*row, f"{counts['lost'] / max(1, hits):.1f}, {most:.1f}", f"{counts['equal']} of {counts['runs']}"]
        )
    header = ["fault", "moment, start", "processes x workers", f"hits: {' + '.join(MODELS)}", "while writing"]
    header += ["files read", "do not load", "seconds lost: mean, most", "ends bit-equal"]
    parts, last = found["parts"], found["parts"][-1]["machine"]
    commits = ", ".join(dict.fromkeys(str(part["machine"]["commit"]) for part in parts))
    about = [
        f"{kills:,} kills and {total['hits'] - kills:,} other hits of {total['runs']:,} runs in "
        f"{sum(part['minutes'] for part in parts):,.0f} minutes; {total['files']:,} checkpoints and states read, "
        f"{total['bad']:,} do not load; {total['equal']:,} ends bit-equal; {len(found['problems']):,} other problems.",
        f"{last['cpu']}, torch {last['torch']}, Python {last['python']}, commit {commits}.",
    ]
    return "\n".join([*about, "", *table(header, rows), ""])


def held(found: dict) -> bool:
    """True if everything is as it must be."""
    equal = all(counts["equal"] == counts["runs"] and not counts["bad"] for counts in found["cases"].values())
    return equal and not found["problems"]


def add_up(laboratory: Laboratory, args) -> dict:
    """Hit runs until the time is over; return all figures, which are saved after each run."""
    target, begun = args.output / args.name, time.monotonic()
    earlier = target.with_suffix(".json")
    found = json.loads(earlier.read_text()) if earlier.exists() else {"parts": [], "cases": {}, "problems": []}
    part = {"machine": machine(1), "minutes": 0.0, "runs": 0}
    wanted = [case for case in cases() if re.search(args.only, case.name)]
    for case in wanted:
        found["cases"].setdefault(case.name, dict.fromkeys(COUNTS, 0))
    while part["minutes"] < args.minutes:

        def share(case):
            counts = found["cases"][case.name]
            return max(counts["hits"], counts["runs"]) / (args.hits or case.goal)

        case = min(wanted, key=share)
        if share(case) >= 1:
            break
        counts = found["cases"][case.name]
        new, problems = laboratory.run(case, counts["runs"])
        most = max(counts["most_lost"], new["most_lost"])
        counts |= {key: counts[key] + new[key] for key in COUNTS} | {"most_lost": most}
        found["problems"] += problems
        found["parts"] += [part] if part["runs"] == 0 else []
        part |= {"minutes": (time.monotonic() - begun) / 60, "runs": part["runs"] + 1}
        save(target, markdown(found), found)
        print(f"{part['minutes']:.1f} min: {case.name}: {dict(new)}", *problems, sep="\n", flush=True)
    return found


def main() -> int:
    parser = parser_of(__doc__, "faults")
    parser.add_argument("--minutes", type=float, default=10, help="after which no run begins (default: 10)")
    parser.add_argument("--only", default="", help="cases: a regular expression for their names")
    parser.add_argument("--hits", type=int, help="of each case after which no run begins (default: as many as wanted)")
    parser.add_argument("--stop-seconds", type=float, default=60, help="of SIGSTOP (default: 60)")
    args = parser.parse_args()
    shim = Path(os.environ.get("LD_PRELOAD", ""))
    if shim.name != SHIM:
        # This process anew, so that its forks have the library.
        shim, source = Path(tempfile.mkdtemp(prefix="faults"), SHIM), Path(__file__).with_name("faults_shim.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", str(source), "-ldl", "-o", str(shim)], check=True)
        os.environ["LD_PRELOAD"] = str(shim)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    try:
        prepare()
        found = add_up(Laboratory(shim.parent, args.stop_seconds), args)
    finally:
        shutil.rmtree(shim.parent)
    text = markdown(found)
    if args.output == RESULTS:
        PAGE.write_text(fill(PAGE.read_text(), "benchmarks/results/faults.md", text.splitlines()))
    print(text, *found["problems"], sep="\n")
    return 0 if held(found) else 1


if __name__ == "__main__":
    sys.exit(main())
