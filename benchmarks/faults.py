"""Training runs that are killed, stopped, run out of disk, or meet broken files; what is left must load, and go on.

    python benchmarks/faults.py --minutes 120 [--only REGEX] [--hits 1000] [--output benchmarks/results]

A tiny Contrast is trained on noise on the CPU, always with ``--auto_resume``. Each start of a run is hit by a fault at
a random moment; afterwards all files of ``models`` and ``training_states`` are read. When a run has come to its end,
its weights and its last state must be, bit for bit, those of a run that nobody disturbed. No start may end with a
traceback.

Most starts are forks of this process, which has the imports and kernels ready: two seconds in place of ten. Whole
processes are started where the fault is to come in the imports or while kernels are compiled. The undisturbed runs of
forks are compared with those of new processes.

Results add up: NAME.json keeps counts of all calls, by case, and the next call goes on from them, with the cases that
have fewest hits for what is wanted. Disks that error and clocks that jump need a C compiler, the full and the read-only
disk root. NAME.md is the table of it.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import torch
from common import parser_of
from faults_runs import FAULTS, Case, Run, build_shim, difference, mounted, write_images

import contrast_arch
from contrast_arch import compat
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table

MODELS = ("ContrastModel", "SRModel")
DISK = ("-t", "tmpfs", "-o", "size=8m", "tmpfs")
MOST_HITS = 8
SHIM = "faults_shim.so"


def cases() -> list[Case]:
    """All cases; the kills among them are wanted 1,000 times."""
    found = []
    for model in MODELS:
        found += [Case(50, "SIGKILL", model, phase) for phase in ("training", "saving", "validation", "start")]
        found += [Case(20, "SIGKILL", model, phase, 2, 0) for phase in ("training", "saving", "validation", "start")]
        found += [Case(20, "SIGKILL", model, workers=workers) for workers in (0, 3)]
        found += [Case(30, "SIGKILL", model, "start", fresh=True), Case(10, "SIGKILL", model, "start", 2, 0, True)]
        found += [Case(20, "SIGKILL of a rank", model, phase, 2, 0) for phase in ("training", "saving", "validation")]
        found += [Case(15, "SIGKILL of a loader worker", model, workers=workers) for workers in (1, 3)]
        found += [Case(5, "SIGSTOP", model, "training", *of) for of in ((1, 1), (2, 0))]
        found += [Case(20, fault, model) for fault in list(FAULTS)[4:]]
        found += [
            Case(10, "disk errors from then on", model, "training", 2, 0),
            Case(10, "flipped bit", model, "training", 2, 0),
        ]
    found += [Case(20, "SIGKILL", "ContrastModel", "compilation", fresh=True)]
    return [*found, Case(5, "SIGKILL", "ContrastModel", "training", 2, 1)]


class Laboratory:
    """Folder for runs, and the undisturbed runs that they are compared with."""

    def __init__(self, folder: Path, shim: Path | None, stop_seconds: float):
        self.folder, self.shim, self.stop_seconds, self.expected = folder, shim, stop_seconds, {}
        write_images(folder / "images")

    def _run(self, case, seed):
        number = len(list(self.folder.iterdir()))
        return Run(self.folder / f"run{number}", case, self.folder / "images", seed, self.shim, self.stop_seconds)

    def undisturbed(self, case: Case) -> tuple:
        """Return what a run without fault leaves, and the seconds of its phases.

        Raises:
            RuntimeError: its weights differ from those of a run of a new process.
        """
        key = case._replace(fault="SIGKILL", goal=0, phase=case.phase if case.phase == "compilation" else "training")
        if key not in self.expected:
            run = self._run(key, "")
            durations = run.undisturbed()
            if not case.fresh:
                weights, _ = self.undisturbed(key._replace(fresh=True, workers=2 - case.processes))[0]
                other = difference(weights, run.result()[0])
                if other is not None:
                    raise RuntimeError(f"{case.name}: a fork trains other weights than a new process: {other}")
            self.expected[key] = run.result(), durations
        return self.expected[key]

    def run(self, case: Case, seed: int) -> tuple[Counter, list[str]]:
        """Hit a run until it ends, or often enough; return counts, and what was not as it has to be."""
        expected, durations = self.undisturbed(case)
        run = self._run(case, f"{case.name} {seed}")
        with mounted(run.work, *DISK) if case.fault == "full disk" else nullcontext():
            if not any(run.hit(durations) for _ in range(MOST_HITS)):
                run.finish()
            try:
                other = difference(run.result(), expected)
            except InputError as error:
                other = str(error)
        run.found["equal"] = int(other is None)
        shutil.rmtree(run.work.parent)
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
    parts, rows = found["parts"], []
    for case in cases():
        counts = Counter(found["cases"].get(case.name, {}))
        lost = f"{counts['lost'] / max(1, counts['hits']):.1f}, {counts['most_lost']:.1f}"
        place = f"{case.phase}, {'new process' if case.fresh else 'fork'}"
        row = [case.fault, place, case.model, f"{case.processes} x {case.workers}", str(counts["hits"])]
        row += [str(counts[key]) for key in ("writing", "files", "bad")] + [lost]
        rows.append([*row, f"{counts['equal']} of {counts['runs']}"])
    header = ["fault", "moment, start", "model", "processes x workers", "hits", "of them while writing", "files read"]
    header += ["do not load", "seconds lost: mean, most", "ends bit-equal"]
    kills = sum(counts["hits"] for name, counts in found["cases"].items() if name.startswith("SIGKILL"))
    hits = sum(counts["hits"] for counts in found["cases"].values())
    commits = ", ".join(dict.fromkeys(part["machine"]["commit"] for part in parts))
    one = parts[-1]["machine"]
    lines = [
        f"{kills:,} kills and {hits - kills:,} other hits in {sum(part['minutes'] for part in parts):.0f} minutes, "
        f"{len(found['problems'])} of them with an end other than it has to be.",
        f"{one['cpu']}, torch {one['torch']}, Python {one['python']}, commit {commits}.",
        "",
        *table(header, rows),
        "",
    ]
    return "\n".join(lines)


def held(found: dict) -> bool:
    """True if everything is as it must be."""
    equal = all(counts["equal"] == counts["runs"] and not counts["bad"] for counts in found["cases"].values())
    return equal and not found["problems"]


def main() -> int:
    parser = parser_of(__doc__, "faults")
    parser.add_argument("--minutes", type=float, default=10, help="after which no run begins (default: 10)")
    parser.add_argument("--only", default="", help="cases: a regular expression for their names")
    parser.add_argument("--hits", type=int, help="of each case after which no run begins (default: as many as wanted)")
    parser.add_argument("--stop-seconds", type=float, default=60, help="of SIGSTOP (default: 60)")
    args = parser.parse_args()
    if args.hits is not None and args.hits < 1:
        parser.error("--hits: expected 1 or more")
    preloaded = Path(os.environ.get("LD_PRELOAD", ""))
    if preloaded.name != SHIM and (built := build_shim(Path(tempfile.mkdtemp(prefix="faults")) / SHIM)):
        # This process anew, so that its forks have the library.
        os.environ["LD_PRELOAD"] = str(built)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    folder = Path(tempfile.mkdtemp(prefix="faults"))
    try:
        prepare()
        laboratory = Laboratory(folder, preloaded if preloaded.name == SHIM else None, args.stop_seconds)
        found = add_up(laboratory, args)
    finally:
        shutil.rmtree(folder)
    print(markdown(found), *found["problems"], sep="\n")
    return 0 if held(found) else 1


def add_up(laboratory: Laboratory, args) -> dict:
    """Hit runs until the time is over; return all figures, which are saved after each run."""
    target, begun = args.output / args.name, time.monotonic()
    earlier = target.with_suffix(".json")
    found = json.loads(earlier.read_text()) if earlier.exists() else {"parts": [], "cases": {}, "problems": []}
    part = {"machine": machine(1), "date": str(date.today()), "minutes": 0.0, "runs": 0}
    found["parts"].append(part)
    zeros = dict.fromkeys(("runs", "starts", "hits", "writing", "files", "bad", "lost", "most_lost", "equal"), 0)
    counts = {
        case: found["cases"].setdefault(case.name, dict(zeros)) for case in cases() if re.search(args.only, case.name)
    }
    while part["minutes"] < args.minutes:
        left = [case for case, of in counts.items() if max(of["hits"], of["runs"]) < (args.hits or case.goal)]
        if not left:
            break
        case = min(left, key=lambda case: max(counts[case]["hits"], counts[case]["runs"]) / case.goal)
        new, problems = laboratory.run(case, counts[case]["runs"])
        of = counts[case]
        of |= {key: of[key] + new[key] for key in new} | {"runs": of["runs"] + 1}
        of["most_lost"] = max(of["most_lost"] - new["most_lost"], new["most_lost"])
        found["problems"] += problems
        part |= {"minutes": (time.monotonic() - begun) / 60, "runs": part["runs"] + 1}
        save(target, markdown(found), found)
        print(f"{part['minutes']:.1f} min: {case.name}: {dict(new)}", *problems, sep="\n", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
