"""Time and memory with each trick of the CPU (``tricks.py``) on and off.

    python benchmarks/ablation.py [--rounds 8 3] [--groups 1] [--resume] [--output benchmarks/results]

A case is a network, a training step or inference, a batch, an image size and a number of threads. In a case the calls
with all tricks on and those with one of them off take turns, round by round, on one network: a ratio is the median
over the rounds of the time with the trick off over that with it on in the same round. The networks of the times have
one group of blocks in place of the published four (``--groups 4`` for those), as all groups are alike; peaks are those
of whole networks, each in a process of its own. Every case also has the same again, with nothing switched off: how far
that is from 1 is the noise.

What moves no time by 5 % and no peak by 10 % goes. About 20 minutes on two cores; ablation.json and ablation.md are
written after each case, and ``--resume`` goes on with those of a run that was stopped. ``--quick``: small images, one
round.
"""

import contextlib
import json
import os
import statistics
import time
from functools import partial

import torch
from common import parser_of
from tricks import SHARED, TRICKS, Case, count_lines, without

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.bench.measure import Trial, alone, interleaved, peak_unsupported_reason, ratio
from contrast_arch.experiments.bench.networks import shipped_network_g
from contrast_arch.experiments.markdown import save, table
from contrast_arch.ops import ENVIRONMENT

# Ratios from which a trick stays: of times, and of peaks.
TIME, PEAK = 1.05, 1.10
# A peak that moves by less is noise of the allocator.
LEAST_MIB = 8
ON, AGAIN = "on", "the same again"
KINDS = ("step", "inference")


def build(network: str, groups: int | None = None, **changes) -> torch.nn.Module:
    """Build a network of :class:`tricks.Case`, whole or with fewer groups."""
    torch.manual_seed(0)
    arguments = shipped_network_g(network) if "_" in network else {"type": network}
    kind = getattr(archs, arguments.pop("type"))
    if groups is not None:
        changes = {"depths": [6] * groups, "num_heads": [6] * groups, **changes}
    return kind(**arguments | changes)


def build_without(network: str, tricks: tuple[str, ...]) -> torch.nn.Module:
    """Build a whole network in a process of its own, where the tricks stay off."""
    _off.enter_context(without(*tricks))
    return build(network)


# Never closed.
_off = contextlib.ExitStack()


def plan(tricks, threads, quick: bool) -> dict[Case, list[str]]:
    """List the cases, and the tricks that are switched off in each."""
    found = {}
    for name in tricks:
        for case in TRICKS[name].cases:
            if case.threads in threads:
                small = case._replace(size=32, batch=min(case.batch, 2)) if quick else case
                own = found.setdefault(small, [])
                own += [name] * (name not in own)
    return dict(sorted(found.items(), key=lambda item: (item[0].batch * item[0].size ** 2, item[0])))


def variants(case: Case, tricks: list[str]) -> dict[str, tuple[str, ...]]:
    """List the calls of a case: name -> the tricks that are off in it."""
    base = (case.base,) if case.base else ()
    return {ON: base, **{name: (*base, name) for name in tricks}, AGAIN: base}


def measure_times(case: Case, tricks: list[str], rounds: int, groups: int) -> dict[str, list[float]]:
    """Measure the seconds of each call of a case."""
    torch.set_num_threads(case.threads)
    net = build(case.network, groups).train(case.kind == "step")

    def call(trial, off):
        with without(*off):
            getattr(trial, case.kind)()

    # One image, for what is compiled or loaded once.
    warm, trial = (Trial(net, batch, case.size) for batch in (1, case.batch))
    for off in variants(case, tricks).values():
        call(warm, off)
    return interleaved({name: partial(call, trial, off) for name, off in variants(case, tricks).items()}, rounds)


def measure_peaks(case: Case, tricks: list[str]) -> dict[str, float]:
    """Measure the peak of each call of a case, in MiB, with the whole network."""
    torch.set_num_threads(case.threads)
    peak = partial(alone, kind=case.kind, batch=case.batch, patch=case.size)
    every = variants(case, tricks).items()
    return {name: peak(partial(build_without, case.network, off))["peak_mib"] for name, off in every}


def ratios(part: dict, name: str) -> dict[str, float | None]:
    """Divide off by on, time and peak of a case; the peak is None if not measured, 1 if it moves too little."""
    seconds, peaks = part["seconds"], part["peak_mib"]
    found = {"time": ratio(seconds[name], seconds[ON]), "peak": None}
    if peaks:
        found["peak"] = peaks[name] / peaks[ON] if abs(peaks[name] - peaks[ON]) >= LEAST_MIB else 1.0
    return found


def _case(part):
    return Case(*part["case"])


def verdict(times: list[float], peaks: list[float]) -> str:
    """Apply the rule (what moves no time by 5 % and no peak by 10 % goes), and count the ratios that say so.

    A single ratio among many may be noise, and so a reason to measure that case again.
    """
    helps = sum(time >= TIME for time in times) + sum(peak >= PEAK for peak in peaks)
    costs = sum(time <= 1 / TIME for time in times) + sum(peak <= 1 / PEAK for peak in peaks)
    found = f"stays, by {helps} of {len(times) + len(peaks)}" if helps else "goes"
    return f"{found}; {costs} worse" if costs else found


def _range(values):
    values = sorted(values)
    return "-" if not values else " to ".join(f"{v:.2f}" for v in dict.fromkeys((values[0], values[-1])))


def _of(parts, name, kind, what):
    found = [ratios(part, name)[what] for part in parts if name in part["seconds"] and _case(part).kind == kind]
    return [value for value in found if value is not None]


def summary(found: dict) -> list[list[str]]:
    """Make a row for each trick."""
    rows, parts = [], found["cases"]
    for name in [*found["instead"], AGAIN]:
        own = {what: {kind: _of(parts, name, kind, what) for kind in KINDS} for what in ("time", "peak")}
        times, peaks = ([v for values in own[what].values() for v in values] for what in ("time", "peak"))
        if not times:
            continue
        cells = [_range(own[what][kind]) for kind in KINDS for what in ("time", "peak")]
        if name == AGAIN:
            rows.append([name, "", "", *cells, "noise"])
        else:
            rows.append([name, found["instead"][name], str(found["lines"][name]), *cells, verdict(times, peaks)])
    return rows


def details(found: dict) -> list[list[str]]:
    """Make a row for each trick, network, batch and size."""
    rows = {}
    for name in found["instead"]:
        for part in found["cases"]:
            if name in part["seconds"]:
                case, own = _case(part), ratios(part, name)
                images = f"{case.batch} of {case.size}x{case.size}"
                row = rows.setdefault((name, case.network, case.base or "-", images), {})
                row[case.kind, case.threads] = f"{own['time']:.2f}"
                if own["peak"] is not None:
                    row[case.kind, "peak"] = f"{own['peak']:.2f} of {part['peak_mib'][ON]:.0f} MiB"
    columns = [(kind, what) for kind in KINDS for what in (*found["setting"]["threads"], "peak")]
    return [[*key, *(row.get(column, "-") for column in columns)] for key, row in rows.items()]


def tables(found: dict) -> str:
    """Write machine, setting and all figures so far in Markdown."""
    here, setting = found["machine"], found["setting"]
    whole = f"{setting['groups']} group{'s' if setting['groups'] > 1 else ''} of six blocks"
    rounds = " and ".join(str(n) for n in setting["rounds"])
    lines = [
        f"{here['cpu']}, {here['system']}, torch {here['torch']}, numba {here['numba']}, Python "
        f"{here['python']}, commit {here['commit']}; X4, float32, MSE and Adam.",
        "",
        f"Ratios: a trick off over on, in one run, the calls interleaved. Times are medians of {rounds} rounds (of one "
        f"64x64 image, and of more) of networks with {whole}; peaks are those of whole networks, above what they take "
        f"at rest, each in a process of its own; a peak that moves by less than {LEAST_MIB} MiB counts as 1. Lines are "
        f"those that would go. A trick stays if it is worth {100 * TIME - 100:.0f} % of a time or "
        f"{100 * PEAK - 100:.0f} % of a peak anywhere.",
        "",
    ]
    header = ["trick", "instead", "lines", "training step", "its peak", "inference", "its peak", "verdict"]
    lines += table(header, summary(found))
    shared = ", ".join(f"{name} {count} lines" for name, count in found["shared"].items())
    lines += ["", f"What all kernels of the CPU stand on, and no row can do without: {shared}.", ""]
    columns = [f"{kind}, {what}" for kind in KINDS for what in (*(f"{n} threads" for n in setting["threads"]), "peak")]
    lines += table(["trick", "network", "without", "images", *columns], details(found))
    lines += ["", "With everything on:", ""]
    rows = []
    for part in found["cases"]:
        median = statistics.median(part["seconds"][ON])
        peak = f"{part['peak_mib'][ON]:.0f}" if part["peak_mib"] else "-"
        rows.append([str(_case(part)), f"{median:.3f}", f"{ratios(part, AGAIN)['time']:.2f}", peak])
    return "\n".join([*lines, *table(["case", "s", "the same again", "peak, MiB"], rows)]) + "\n"


def main() -> None:
    parser = parser_of(__doc__, "ablation")
    parser.add_argument("--rounds", type=int, nargs=2, default=(8, 3), help="of one 64x64 image, and of more")
    parser.add_argument("--groups", type=int, default=1, help="groups of blocks of the networks that are timed")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tricks", nargs="+", choices=TRICKS, default=list(TRICKS), metavar="NAME")
    parser.add_argument("--resume", action="store_true", help="go on with the files of a run that was stopped")
    parser.add_argument("--quick", action="store_true", help="images of 32x32, one round, peaks of one case")
    args = parser.parse_args()
    if reason := peak_unsupported_reason():
        raise SystemExit(reason)
    if os.environ.pop(ENVIRONMENT, None):
        print(f"{ENVIRONMENT} is not heeded: the tricks choose the backends")

    target = args.output / args.name
    rounds = [1, 1] if args.quick else list(args.rounds)
    setting = {"rounds": rounds, "groups": args.groups, "threads": args.threads, "quick": args.quick}
    found = {"machine": machine(max(args.threads)), "setting": setting, "cases": []}
    if args.resume:
        before = json.loads(target.with_suffix(".json").read_text())
        changed = [key for key in ("machine", "setting") if before[key] != found[key]]
        if changed:
            raise SystemExit(f"--resume: {target}.json is of another {' and '.join(changed)}: run it anew without")
        found["cases"] = before["cases"]
    found["instead"] = {name: trick.instead for name, trick in TRICKS.items()}
    found["lines"] = {name: count_lines(trick.price) for name, trick in TRICKS.items()}
    found["shared"] = {name: count_lines(price) for name, price in SHARED.items()}

    done, start = [_case(part) for part in found["cases"]], time.monotonic()
    wanted = plan(args.tricks, args.threads, args.quick)
    for turn, (case, tricks) in enumerate(wanted.items(), 1):
        if case in done:
            continue
        large = case.batch * case.size**2 > 64**2
        seconds = measure_times(case, tricks, rounds[large], args.groups)
        # A peak hardly depends on the number of threads, and inference of one small image takes next to nothing.
        worth = case.threads == max(args.threads) and (large or case.kind == "step")
        with_peak = turn == len(wanted) if args.quick else worth
        peaks = measure_peaks(case, tricks) if with_peak else None
        found["cases"].append({"case": list(case), "seconds": seconds, "peak_mib": peaks})
        save(target, tables(found), found)
        own = [f"{name} {ratios(found['cases'][-1], name)['time']:.2f}" for name in [*tricks, AGAIN]]
        print(f"{turn}/{len(wanted)}, {time.monotonic() - start:.0f} s: {case}: {', '.join(own)}", flush=True)
    print(tables(found))


if __name__ == "__main__":
    main()
