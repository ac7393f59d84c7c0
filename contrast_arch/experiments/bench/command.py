"""``contrast-arch bench``: the order of the measurements, and their tables."""

import math
import statistics
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch import compat
from contrast_arch.archs.contrast_arch import HATLight
from contrast_arch.check import check_backend
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench import checks, measure, multiply_adds, networks
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table
from contrast_arch.memory import device_memory
from contrast_arch.ops import chosen_backend
from contrast_arch.registration import networks as registered
from contrast_arch.weights.load import check_device

EPOCH = 11_056  # batches of eight, LSDIR + DF2K
KINDS = {"inference": "inference, s", "step": "training step, s"}
# Share of the memory that a step may take: beside it lie other networks, and what the allocator keeps of their steps.
MOST_MEMORY = 0.55


def run(
    names: list[str] | None,
    output: Path,
    device: str | None = None,
    batch: list[int] | None = None,
    patch: int | None = None,
    scale: int = 4,
    rounds: int = 5,
    sides: list[int] | None = None,
    with_core: bool = False,
    quick: bool = False,
) -> dict:
    """Measure networks and write OUTPUT/bench.md and bench.json; the tables also go to stdout.

    Args:
        names: as in ``options/train/train_NAME_SRx4_from_scratch.yml``, "HAT" for the upstream one, peers of spandrel,
            shipped weights, or paths of option files or .safetensors. None or none at all: those of
            :func:`contrast_arch.networks.compared`, HAT and the peers where spandrel is installed.
        device: None takes the GPU where PyTorch sees one.
        batch: images of an iteration, one number or more; None is 8, or 1 if ``quick``.
        patch: side of the LQ images; None is 64, or 32 if ``quick``.
        rounds: timed runs of each network.
        sides: of single LQ images on which Contrast is measured too, on the CPU.
        with_core: measure SS2D's core with each backend too.

    Returns:
        The content of bench.json.

    Raises:
        InputError: a network or a setting cannot be used; before anything is measured.
    """
    batches, sides = sorted(set(batch or [1 if quick else 8])), sorted(set(sides or []))
    for option, numbers in {"batch": batches, "sides": sides}.items():
        if min(numbers, default=1) < 1:
            raise InputError(f"--{option} {min(numbers)}: expected more than 0")
    name, patch = device or ("cuda" if torch.cuda.is_available() else "cpu"), patch or (32 if quick else 64)
    check_device(name)
    run = measure.Run(torch.device(name), patch, rounds, scale)
    check_backend(run.device)
    if run.on_gpu:
        torch.cuda.set_device(run.device)
    compat.require_basicsr()
    candidates, run.notes = networks.find(names, scale)
    output.mkdir(parents=True, exist_ok=True)
    setting = {"device": name, "batch": batches, "patch": patch, "scale": scale, "rounds": rounds}
    setting["backend"] = chosen_backend("ss2d", torch.empty(0, device=run.device))
    setting["tf32"] = {"convolutions": torch.backends.cudnn.allow_tf32} if run.on_gpu else None
    found = {"machine": machine(torch.get_num_threads()), "setting": setting, "size": patch, "sizes": []}
    with measure.arithmetic(None):
        found["core"] = measure.measure_backends(run, batches) if with_core else []
        for side in sides:
            with run.noting_failure(f"Contrast on {side}x{side}"):
                contrast = partial(registered()["Contrast"], upscale=scale)
                found["sizes"].append({"size": side} | measure.alone(contrast, "inference", 1, side, scale))
        nets = _checked(run, candidates, found)
        for batch in batches:
            peaks = found["peak_mib"][str(batch)] = _peaks(run, batch, candidates, nets)
            times = _seconds(run, batch, nets, peaks)
            found["seconds"][str(batch)] = {
                kind: {name: times.get((name, kind), []) for name, *_ in candidates} for kind in KINDS
            }
            save(output / "bench", tables(found), found)
    print(tables(found))
    return found


def _checked(run, candidates, found):
    """Fill ``found`` but for time and memory; name -> network of those that may be timed."""
    nets, found["psnr"] = {}, {candidate.name: candidate.psnr for candidate in candidates if candidate.psnr}
    found |= {"thousands": {}, "multiply_adds": {}, "seconds": {}, "peak_mib": {}}
    found |= {"checks": run.checks, "notes": run.notes}
    for name, build, _ in tqdm(candidates, desc="checks"):
        net = build()
        found["thousands"][name] = networks.parameters(net) / 1000
        found["multiply_adds"][name] = None  # where a network of others does not run without numbers
        with run.noting_failure(f"{name}, multiply-adds"):
            found["multiply_adds"][name] = multiply_adds.count(net, multiply_adds.lq_size(run.scale))
        with run.noting_failure(f"{name}, check"):
            if checks.check(run, name, build):
                nets[name] = build().to(run.device)
    bases = [name for name, net in nets.items() if name == networks.BASE or isinstance(net, HATLight)]
    found["base"] = min(bases, key=lambda name: name != networks.BASE, default=None)
    return nets


def _peaks(run, batch, candidates, nets):
    """Name -> MiB at the peak of a training step, None if it failed; empty where the system does not say them."""
    reason, peaks = None if run.on_gpu else measure.peak_unsupported_reason(), {}
    run.notes += [reason] if reason and reason not in run.notes else []
    for name, build, _ in tqdm([] if reason else candidates, desc=f"memory, batch {batch}"):
        if name not in nets:
            continue
        peaks[name] = None
        with run.noting_failure(f"{name}, memory of an iteration of {batch}"):
            if run.on_gpu:
                trial = measure.Trial(nets[name].train(), batch, run.patch, run.scale)
                trial.step()
                peaks[name] = measure.gpu_peak(trial.step) / 2**20
            else:
                peaks[name] = measure.alone(build, "step", batch, run.patch, run.scale)["peak_mib"]
    return peaks


def _seconds(run, batch, nets, peaks):
    """(Name, kind) -> seconds of each round; nothing of a network that fails, no steps of one without a peak."""
    trials = {}
    for name, net in nets.items():
        with run.noting_failure(f"{name}, inference of {batch}"):
            trial = measure.Trial(net.eval(), batch, run.patch, run.scale)
            trial.inference()
            trials[name] = trial
    # Inference first: every step changes the weights, and their caches become invalid.
    calls = {(name, "inference"): lambda t=t: (t.net.eval(), t.inference(), bar.update()) for name, t in trials.items()}
    memory = None if run.on_gpu else device_memory(run.device)
    most = MOST_MEMORY * memory.total / 2**20 if memory else math.inf
    for name, trial in trials.items():
        peak = peaks.get(name, 0)  # None of a step that failed
        if peak is not None and peak > most:
            run.notes.append(f"{name}, step of {batch}: takes more than {most:.0f} MiB: not timed beside the others")
        elif peak is not None:
            calls[name, "step"] = lambda t=trial: (t.net.train(), t.step(), bar.update())
    with tqdm(total=len(calls) * (1 + run.rounds), desc=f"time, batch {batch}") as bar:
        return measure.interleaved(calls, run.rounds, run.device, warm_up=1)


def _networks(found, batch):
    """The table of a batch, without columns of unknown values; unknown cells are empty.

    Ratios are to ``found["base"]``: of times, the median over the rounds of the ratio within a round.
    """
    base, psnr, seconds, peaks = found["base"], found["psnr"], found["seconds"][batch], found["peak_mib"][batch]
    over = f"over {base.removesuffix(' (upstream)')}" if base else ""
    rows = []
    for name in seconds["step"]:
        row = {"network": name, "parameters": f"{found['thousands'][name]:.0f}K"}
        if found["multiply_adds"]:
            count = found["multiply_adds"][name]
            row["G multiply-adds, 1280x720 output"] = "" if count is None else f"{count / 1e9:.2f}"
        for kind, heading in KINDS.items():
            times, of_base = seconds[kind][name], seconds[kind].get(base)
            spread = f" ({min(times):.3f} to {max(times):.3f})" if times else ""
            row[heading] = f"{statistics.median(times):.3f}{spread}" if times else ""
            if base:
                row[f"{over}, {kind}"] = f"{measure.ratio(times, of_base):.2f}" if times and of_base else ""
        if found["setting"]["device"] != "cpu":
            row[f"{EPOCH:,} steps, min"] = f"{statistics.median(times) * EPOCH / 60:.1f}" if times else ""
        peak, of_base = peaks.get(name), peaks.get(base)
        share = f" ({peak / of_base:.2f})" if peak and of_base else ""
        row["peak of a step"] = f"{peak:.0f} MiB{share}" if peak else ""
        for dataset in dict.fromkeys(dataset for values in psnr.values() for dataset in values):
            row[f"PSNR on {dataset}"] = f"{psnr[name][dataset]:.2f}" if dataset in psnr.get(name, {}) else ""
        rows.append(row)
    header = [over if over and heading.startswith(over) else heading for heading in rows[0]]
    return table(header, [list(row.values()) for row in rows])


def tables(found: dict) -> str:
    """Write machine, setting, all figures so far and notes in Markdown."""
    here, setting = found["machine"], found["setting"]
    on_gpu, size = setting["device"] != "cpu", found["size"]
    where = f"{here['gpu']}, CUDA {here['cuda']}" if on_gpu else f"{here['cpu']}, {here['threads']} threads"
    precision = "float32 (TF32 in convolutions)" if on_gpu and setting["tf32"]["convolutions"] else "float32"
    versions = f"torch {here['torch']}, numba {here['numba']}, Python {here['python']}"
    lines = [f"{where}, {versions}; X{setting['scale']}, {size}x{size} LQ, {precision}, MSE and Adam."]
    for batch, seconds in found["seconds"].items():
        rounds = max(len(times) for own in seconds.values() for times in own.values())
        lines += ["", f"Batch {batch}, median (lowest to highest) of {rounds} rounds:", "", *_networks(found, batch)]
    if found["sizes"]:
        rows = []
        for row in found["sizes"]:
            side, seconds, peak = row["size"], row["seconds"], f"{row['peak_mib']:.0f} MiB"
            rows.append([f"{side}x{side}", f"{seconds:.2f}", f"{1e6 * seconds / side**2:.1f}", peak])
        lines += ["", "Contrast on one image of other sizes, inference, each in a process of its own:", ""]
        lines += table(["LQ", "s", "µs a pixel", "peak"], rows)
    if found["core"]:
        keys = ("threads", "batch", "backend", "forward_ms", "both_ms")
        rows = [[f"{row[key]:.1f}" if key.endswith("_ms") else str(row[key]) for key in keys] for row in found["core"]]
        lines += ["", "SS2D's core (D 60, d_state 1, dt_rank 4), ms:", ""]
        lines += table(["threads", "batch", "backend", "forward", "forward and backward"], rows)
    if found["checks"]:
        passed = sum(check["passed"] for check in found["checks"])
        lines += ["", f"{passed} of {len(found['checks'])} checks passed."]
    return "\n".join([*lines, *([""] if found["notes"] else []), *found["notes"]]) + "\n"
