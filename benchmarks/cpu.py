"""Speed and memory on this machine's CPU: the networks, over upstream HAT and beside others of their class.

    python benchmarks/cpu.py [--threads 2] [--output benchmarks/results] [--name cpu]

HAT, SwinIR, DAT, OmniSR, ATD and SRFormer are those of spandrel, as far as it has them, at the sizes that their authors
call light; HAT-S is larger, beside ContrastV2 S. A network is timed only after its check: ours reproduce their recorded
references, upstream HAT gives what HATLight does, the others have the number of parameters that their papers state.

Times are of one run, the networks interleaved round by round: medians, and the median over the rounds of the ratio to
upstream HAT in the same round. Memory and image sizes are measured in processes of their own. About half an hour;
results are written after each part, as NAME.json and NAME.md. ``--quick`` goes through it with small images.
"""

import argparse
import os
import statistics
from functools import partial
from pathlib import Path

import cores
import torch
from common import NETWORKS, RESULTS, machine_and_commit, reference_error

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.bench.checks import upstream_error
from contrast_arch.bench.measure import Trial, alone, interleaved, no_peak, ratio
from contrast_arch.bench.networks import BASE, SPANDREL, of_spandrel, parameters, shipped_network_g, upstream_hat
from contrast_arch.bench.results import save, table
from contrast_arch.memory import device_memory
from contrast_arch.ops import ss2d_scan

# Ours beside those of NETWORKS, by their option files.
FILES = (*(f"{name} light" for name in NETWORKS), "ContrastV2 light", "ContrastV2 S")
OURS = (*NETWORKS, *FILES)
LIGHT = {"upscale": 4, "upsampler": "pixelshuffledirect", "mlp_ratio": 2, "depths": [6] * 4, "num_heads": [6] * 4}
# Class in spandrel.architectures, its arguments, and the parameters in thousands that its paper states for X4.
OTHERS = {
    "SwinIR light": (SPANDREL["SwinIR-light"][0], {**SPANDREL["SwinIR-light"][1], "upscale": 4}, 897),
    "HAT-S": (SPANDREL["HAT-S"][0], {**SPANDREL["HAT-S"][1], "upscale": 4}, 9621),
    "DAT light": (
        "DAT.__arch.DAT.DAT",
        {
            "embed_dim": 60,
            "depth": [18],
            "num_heads": [6],
            "expansion_factor": 2,
            "split_size": [8, 32],
            "resi_connection": "3conv",
            "drop_path_rate": 0,
            "upscale": 4,
            "upsampler": "pixelshuffledirect",
        },
        573,
    ),
    "OmniSR": ("OmniSR.__arch.OmniSR.OmniSR", {"num_feat": 64, "res_num": 5, "window_size": 8, "up_scale": 4}, 792),
    "ATD light": (
        "ATD.__arch.atd_arch.ATD",
        {
            "embed_dim": 48,
            "window_size": 16,
            "category_size": 128,
            "num_tokens": 64,
            "reducted_dim": 8,
            "convffn_kernel_size": 7,
            **LIGHT,
            "mlp_ratio": 1,
            "num_heads": [4] * 4,
        },
        769,
    ),
    "SRFormer light": ("SRFormer.__arch.SRFormer.SRFormer", {"embed_dim": 60, "window_size": 16, **LIGHT}, 873),
}


def build(name: str):
    """A network by its name in the tables; in evaluation mode, as DAT's batch norm of one number an image cannot train.

    Raises:
        ImportError: spandrel does not have it.
    """
    torch.manual_seed(0)
    if name == BASE:
        return upstream_hat().eval()
    if name in NETWORKS:
        return getattr(archs, name)().eval()
    if name in FILES:
        arguments = shipped_network_g(name.replace(" ", "_"))
        return getattr(archs, arguments.pop("type"))(**arguments).eval()
    path, arguments, _ = OTHERS[name]
    return of_spandrel(path, **arguments).eval()


def check(names) -> tuple[dict, list]:
    """The networks that pass, and what is to be said of the rest."""
    nets, notes = {}, []
    for name in names:
        try:
            net = build(name)
        except ImportError as failure:
            notes.append(f"{name}: not there ({failure})")
            continue
        if name in OURS:
            error, limit = reference_error(name.split()[0]), 1e-5
        elif name == BASE:
            error, limit = upstream_error(archs.HATLight(), net, torch.rand(1, 3, 32, 32)), 1e-5
        else:
            error, limit = abs(parameters(net) / 1000 / OTHERS[name][2] - 1), 5e-2
        if error <= limit:
            nets[name] = net
        else:
            notes.append(f"{name}: not measured, its check gives {error:.1e} where {limit:.0e} is allowed")
    return nets, notes


def measure(nets, batch, size, rounds) -> dict:
    """Seconds: {"inference" | "step": {name: [seconds, ...]}}; a step before them warms up, of one image."""
    for net in nets.values():
        Trial(net, 1, size).step()
    trials = {name: Trial(net, batch, size) for name, net in nets.items()}
    kinds = ("inference", "step")
    times = interleaved({(k, name): getattr(trial, k) for k in kinds for name, trial in trials.items()}, rounds)
    return {kind: {name: times[kind, name] for name in nets} for kind in kinds}


def measure_sizes(sides, passes) -> list:
    """Inference of Contrast on one image, each size in a process of its own.

    Passes, since the machine's speed changes; a large image is its own average.
    """
    contrast = partial(build, "Contrast")
    found = [
        [alone(contrast, "inference", 1, side, repeats=max(1, min(8, (512 // side) ** 2))) for side in sides]
        for _ in range(passes)
    ]
    rows = []
    for side, runs in zip(sides, zip(*found, strict=True), strict=True):
        seconds = statistics.median(statistics.median(run["seconds"]) for run in runs)
        rows.append({"size": side, "seconds": seconds, "peak_mib": max(run["peak_mib"] for run in runs)})
    return rows


def measure_core(batches, size, threads, rounds) -> list:
    """Milliseconds of SS2D's core at the default sizes, interleaved."""
    rows = []
    for count in threads:
        torch.set_num_threads(count)
        for batch in batches:
            inputs = cores.random_inputs(torch.device("cpu"), (batch, size, size), 60)
            weight = torch.randn(inputs[0].shape)
            calls = {}
            for name in ("cpu", "torch"):
                core = partial(ss2d_scan, backend=name)
                calls[name, "forward"] = partial(cores.without_gradient, core, inputs)
                calls[name, "both"] = partial(cores.gradients, core, inputs, weight)
            medians = {key: 1000 * statistics.median(times) for key, times in interleaved(calls, rounds).items()}
            rows += [
                {
                    "backend": name,
                    "threads": count,
                    "batch": batch,
                    "forward_ms": medians[name, "forward"],
                    "both_ms": medians[name, "both"],
                }
                for name in ("cpu", "torch")
            ]
    return rows


def tables(found) -> str:
    """What has been measured so far, in Markdown."""
    here, size = found["machine"], found["size"]
    lines = [
        f"{here['cpu']}, {here['threads']} threads, torch {here['torch']}, numba {here['numba']}, Python "
        f"{here['python']}; X4, {size}x{size} LQ, float32, MSE and Adam."
    ]
    for batch, seconds in found["seconds"].items():
        rounds = len(seconds["step"][BASE])
        lines += ["", f"Batch {batch}, median of {rounds} rounds:", ""]
        rows = []
        for name in seconds["step"]:
            cells = [name, f"{found['thousands'][name]:.0f}K"]
            for kind in ("inference", "step"):
                times = seconds[kind][name]
                cells += [f"{statistics.median(times):.3f}", f"{ratio(times, seconds[kind][BASE]):.2f}"]
            peaks = found["peak_mib"][batch]
            rows.append([*cells, f"{peaks[name]:.0f} MiB ({peaks[name] / peaks[BASE]:.2f})"])
        header = ["network", "parameters", "inference, s", "over HAT", "training step, s", "over HAT", "peak of a step"]
        lines += table(header, rows)
    if found["sizes"]:
        lines += ["", "Contrast on one image of other sizes, inference, each in a process of its own:", ""]
        base = {row["size"]: row["seconds"] / row["size"] ** 2 for row in found["sizes"]}
        rows = []
        for row in found["sizes"]:
            side, own = row["size"], base[row["size"]]
            over = f"{own / base[256]:.2f}" if 256 in base else "-"
            rows.append(
                [f"{side}x{side}", f"{row['seconds']:.2f}", f"{1e6 * own:.1f}", over, f"{row['peak_mib']:.0f} MiB"]
            )
        lines += table(["LQ", "s", "µs a pixel", "over 256x256", "peak"], rows)
    if found["core"]:
        lines += ["", "SS2D's core (D 60, d_state 1, dt_rank 4), ms:", ""]
        rows = [
            [
                *(str(row[key]) for key in ("threads", "batch", "backend")),
                *(f"{row[k]:.1f}" for k in ("forward_ms", "both_ms")),
            ]
            for row in found["core"]
        ]
        lines += table(["threads", "batch", "backend", "forward", "forward and backward"], rows)
    return "\n".join([*lines, *([""] if found["notes"] else []), *found["notes"]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, nargs=2, default=(7, 3), help="at batch 1 and batch 8")
    parser.add_argument("--passes", type=int, default=1, help="over the image sizes")
    parser.add_argument("--networks", nargs="+", choices=[*OURS, *OTHERS], default=[*OURS, *OTHERS])
    parser.add_argument("--quick", action="store_true", help="small images, one round")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--name", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if reason := no_peak():
        raise SystemExit(reason)
    size, rounds, sides = (32, (1,), (32,)) if args.quick else (64, args.rounds, (64, 128, 256, 512, 1024))
    batches = (1,) if args.quick else (1, 8)

    nets, notes = check([BASE, *args.networks])
    if BASE not in nets:
        raise SystemExit("; ".join(notes))
    found = {
        "machine": machine_and_commit(args.threads),
        "size": size,
        "thousands": {name: parameters(net) / 1000 for name, net in nets.items()},
        "seconds": {},
        "peak_mib": {},
        "sizes": [],
        "core": [],
        "notes": notes,
    }

    def write():
        save(args.output / args.name, tables(found), found)

    counts, core_rounds = ([args.threads], 1) if args.quick else (sorted({1, 2, args.threads}), 15)
    found["core"] = measure_core(batches, size, counts, core_rounds)
    torch.set_num_threads(args.threads)
    found["sizes"] = measure_sizes(sides, args.passes)
    write()
    room = device_memory(torch.device("cpu")).total / 2**20
    for batch in batches:
        peaks = found["peak_mib"][batch] = {}
        for name in nets:
            expected = batch * found["peak_mib"].get(1, {}).get(name, 0)
            if expected > 0.9 * room:
                notes.append(f"{name}: not measured at batch {batch}, which takes about {expected / 1024:.0f} GiB")
            else:
                peaks[name] = alone(partial(build, name), "step", batch, size)["peak_mib"]
        write()
    # Last: what this process has used for them it may not give back.
    for batch, count in zip(batches, rounds, strict=True):
        peaks = found["peak_mib"][batch]
        large = [name for name in peaks if peaks[name] > 0.5 * room]
        notes += [f"{name}: not timed at batch {batch}, where it takes more than half of the memory" for name in large]
        fitting = {name: net for name, net in nets.items() if name in peaks and name not in large}
        found["seconds"][batch] = measure(fitting, batch, size, count)
        write()
    print(tables(found))


if __name__ == "__main__":
    main()
