"""``contrast-arch bench``: the order of the measurements."""

from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch import compat
from contrast_arch.check import check_backend
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench import checks, core, measure, multiply_adds, networks, results
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save
from contrast_arch.memory import device_memory
from contrast_arch.ops import chosen_backend
from contrast_arch.registration import networks as registered
from contrast_arch.weights.load import check_device

# Inference first: every step changes the weights, and their caches become invalid.
KINDS = ("inference", "step")


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
        names: as in ``options/train/train_NAME_SRx4_from_scratch.yml``, "HAT" for the upstream one, peers of
            ``contrast_arch.experiments.bench.networks.PEERS``, shipped weights, or paths of option files or of
            .safetensors. None or none at all: those of :func:`contrast_arch.networks.compared`, HAT and the peers
            where spandrel is installed.
        output: a folder, made if need be; earlier results in it are replaced.
        device: "cpu", "cuda" or "cuda:N"; None takes the GPU where PyTorch sees one.
        batch: images of an iteration, one number or more; None is 8, that of the published comparison.
        patch: side of the LQ images; None is 64.
        scale: of all networks.
        rounds: timed runs of each network.
        sides: of single LQ images on which Contrast is measured too, each in a process of its own, on the CPU.
        with_core: measure SS2D's core with each backend too.
        quick: batch 1 and 32x32 LQ unless given, for a CPU.

    Returns:
        The content of bench.json.

    Raises:
        InputError: a network or a setting cannot be used; before anything is measured.
    """
    batch, patch = batch or [1 if quick else 8], (32 if quick else 64) if patch is None else patch
    for option, numbers in {"batch": batch, "sides": sides or []}.items():
        if min(numbers, default=1) < 1:
            raise InputError(f"--{option} {min(numbers)}: expected more than 0")
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    run = measure.Run(torch.device(name), float("inf"), patch, 0, rounds, scale)
    check_backend(run.device)
    if run.on_gpu:
        torch.cuda.set_device(run.device)
    compat.require_basicsr()
    candidates, run.notes = networks.find(names, scale)
    output.mkdir(parents=True, exist_ok=True)
    setting = {"device": name, "batch": sorted(set(batch)), "patch": patch, "scale": scale, "rounds": rounds}
    setting["backend"] = chosen_backend("ss2d", torch.empty(0, device=run.device))
    setting["tf32"] = {"convolutions": torch.backends.cudnn.allow_tf32} if run.on_gpu else None
    found = {"machine": machine(torch.get_num_threads()), "setting": setting, "size": patch}
    with measure.arithmetic(None):
        found |= {"core": core.measure_backends(run, setting["batch"]) if with_core else [], "sizes": []}
        for side in sorted(set(sides or [])):
            with run.noting_failure(f"Contrast on {side}x{side}"):
                contrast = partial(registered()["Contrast"], upscale=scale)
                found["sizes"].append({"size": side} | measure.alone(contrast, "inference", 1, side, scale))
        _measure(run, candidates, found, output / "bench")
    print(results.tables(found))
    return found


def _measure(run, candidates, found, target):
    """Fill ``found``, the content of bench.json; it is written after each batch."""
    found |= {"base": None, "thousands": {}, "multiply_adds": {}, "seconds": {}, "peak_mib": {}}
    found["psnr"] = {candidate.name: candidate.psnr for candidate in candidates if candidate.psnr}
    found |= {"checks": run.checks, "notes": run.notes}
    nets = {}
    for candidate in tqdm(candidates, desc="checks"):
        name = candidate.name
        _count(run, candidate, found)
        with run.noting_failure(f"{name}, check"):
            if checks.check(run, candidate):
                nets[name] = candidate.build().to(run.device)
    bases = (networks.BASE, *(candidate.name for candidate in candidates if candidate.is_hat_light))
    found["base"] = next((name for name in bases if name in nets), None)
    for run.batch in found["setting"]["batch"]:
        peaks = found["peak_mib"][str(run.batch)] = {}
        reason = None if run.on_gpu else measure.peak_unsupported_reason()
        run.notes += [reason] if reason and reason not in run.notes else []
        for candidate in tqdm([] if reason else candidates, desc=f"memory, batch {run.batch}"):
            if candidate.name in nets:
                peaks[candidate.name] = None
                with run.noting_failure(f"{candidate.name}, memory of an iteration of {run.batch}"):
                    peaks[candidate.name] = _peak(run, candidate, nets)
        times = _seconds(run, nets, peaks)
        found["seconds"][str(run.batch)] = {k: {c.name: times.get((c.name, k), []) for c in candidates} for k in KINDS}
        save(target, results.tables(found), found)


def _count(run, candidate, found):
    """Parameters and multiply-adds; None where a network of others does not run without numbers."""
    net = candidate.build()
    found["thousands"][candidate.name] = networks.parameters(net) / 1000
    found["multiply_adds"][candidate.name] = None
    with run.noting_failure(f"{candidate.name}, multiply-adds"):
        found["multiply_adds"][candidate.name] = multiply_adds.count(net, multiply_adds.lq_size(run.scale))


def _peak(run, candidate, nets):
    """MiB at the peak of a training step."""
    if not run.on_gpu:
        return measure.alone(candidate.build, "step", run.batch, run.patch, run.scale)["peak_mib"]
    trial = measure.Trial(nets[candidate.name].train(), run.batch, run.patch, run.scale)
    trial.step()
    return measure.gpu_peak(trial.step) / 2**20


def _seconds(run, nets, peaks):
    """Seconds of each round by name and kind; no steps of a network whose peak is unknown or too high."""
    memory = None if run.on_gpu else device_memory(run.device)
    # All networks and their optimizers are in memory beside the one that is timed.
    highest = memory.total / 2**21 if memory else float("inf")
    trials, calls = {}, {}
    for name, net in nets.items():
        with run.noting_failure(f"{name}, images of batch {run.batch}"):
            trials[name] = measure.Trial(net, run.batch, run.patch, run.scale)
    for name, trial in trials.items():
        calls[name, "inference"] = lambda trial=trial: (trial.net.eval(), trial.inference())
    for name, trial in trials.items():
        # No peaks at all where the system does not say them; None for one that failed.
        peak = peaks.get(name, 0)
        if peak is not None and peak <= highest:
            calls[name, "step"] = lambda trial=trial: (trial.net.train(), trial.step())
        elif peak:
            run.notes.append(f"{name}: not timed at batch {run.batch}, which takes about {peak / 1024:.0f} GiB")
    with tqdm(total=len(calls) * (1 + run.rounds), desc=f"time, batch {run.batch}") as bar:
        timed = {key: lambda call=call: (call(), bar.update()) for key, call in calls.items()}

        def failed(key, failure):
            run.failed(f"{', '.join(key)}, batch {run.batch}", failure)

        return measure.interleaved(timed, run.rounds, run.device, 1, failed)
