"""``contrast-arch bench``: the order of the measurements."""

from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch import compat
from contrast_arch.archs.contrast_arch import HATLight
from contrast_arch.check import check_backend
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench import checks, measure, multiply_adds, networks, results
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save
from contrast_arch.ops import chosen_backend
from contrast_arch.registration import networks as registered
from contrast_arch.weights.load import check_device


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
                kind: {name: times.get((name, kind), []) for name, *_ in candidates} for kind in results.KINDS
            }
            save(output / "bench", results.tables(found), found)
    print(results.tables(found))
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
    for name in (name for name in trials if peaks.get(name, 0) is not None):
        calls[name, "step"] = lambda t=trials[name]: (t.net.train(), t.step(), bar.update())
    with tqdm(total=len(calls) * (1 + run.rounds), desc=f"time, batch {batch}") as bar:
        return measure.interleaved(calls, run.rounds, run.device, warm_up=1)
