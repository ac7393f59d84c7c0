"""``contrast-arch bench``: the order of the measurements. See :func:`contrast_arch.experiments.bench.run`."""

import contextlib
import statistics
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch import Contrast, compat
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench import checks, core, measure, multiply_adds, networks, results
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.bench.settings import Settings
from contrast_arch.experiments.markdown import save
from contrast_arch.memory import device_memory
from contrast_arch.ops import chosen_backend

# Inference first: every step changes the weights, and with them what is kept of them.
KINDS = ("inference", "step")


def run(names: list[str] | None, output: Path, **settings) -> dict:
    """See :func:`contrast_arch.experiments.bench.run`."""
    start = time.perf_counter()
    settings = Settings(**settings)
    compat.require_basicsr()
    candidates, notes = networks.find(names, settings.scale, settings.patch)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: no folder can be made there: {error.strerror}") from error
    deadline = start + 60 * settings.minutes if settings.minutes else float("inf")
    run = measure.Run(settings.device, deadline, settings.patch, 0, settings.rounds, settings.scale, notes)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.cuda.device(run.device) if run.on_gpu else contextlib.nullcontext():
            found = {"machine": machine(settings.threads), "setting": _setting(settings)} | _empty(run, candidates)
            _measure(run, settings, candidates, found, lambda: _write(found, output))
    finally:
        torch.set_num_threads(threads)
    print(results.tables(found))
    return found


def _write(found, output):
    save(output / "bench", results.tables(found), found)


def _setting(settings):
    """The settings, in values that JSON has."""
    cuda = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    tf32 = dict(zip(("products", "convolutions"), cuda, strict=True)) if settings.device.type == "cuda" else None
    own = asdict(settings) | {"device": str(settings.device), "tf32": tf32}
    return own | {"backend": chosen_backend("ss2d", torch.empty(0, device=settings.device))}


def _empty(run, candidates):
    """Results without figures, in the form of bench.json."""
    return {
        "size": run.patch,
        "base": None,
        "thousands": {},
        "multiply_adds": {},
        "psnr": {candidate.name: candidate.psnr for candidate in candidates if candidate.psnr},
        "seconds": {},
        "peak_mib": {},
        "sizes": [],
        "core": [],
        "checks": run.checks,
        "notes": run.notes,
    }


def _measure(run, settings, candidates, found, write):
    """Fill ``found``; it is written after each part."""
    if settings.core:
        counts = [settings.threads] if run.on_gpu else sorted({1, settings.threads})
        found["core"] = core.measure_backends(run, settings.batch, counts)
    if settings.sides:
        found["sizes"] = _sizes(run, settings)
    for candidate in candidates:
        _count(run, candidate, found)
    # Checking; then for each batch the memory, and the rounds, of which the first warms up.
    calls = len(candidates) * (1 + len(settings.batch) * (1 + len(KINDS) * (1 + run.rounds)))
    with tqdm(total=calls, unit="call") as bar:
        nets = _checked(run, candidates, bar)
        hat_light = [candidate.name for candidate in candidates if candidate.is_hat_light]
        found["base"] = next((name for name in (networks.BASE, *hat_light) if name in nets), None)
        with measure.arithmetic(None):
            for batch in settings.batch:
                run.batch = batch
                peaks = found["peak_mib"][str(batch)] = _peaks(run, candidates, nets, found["peak_mib"], bar)
                found["seconds"][str(batch)] = _rounds(run, candidates, nets, peaks, bar)
                write()


def _count(run, candidate, found):
    """Parameters and multiply-adds; None for a network of others that does not run without numbers, or at the size."""
    net = candidate.build()
    found["thousands"][candidate.name] = networks.parameters(net) / 1000
    own = found["multiply_adds"][candidate.name] = {}
    sizes = {"lq_64x64": multiply_adds.LQ_SIZE, "output_1280x720": multiply_adds.lq_size(run.scale)}
    for name, size in sizes.items():
        try:
            own[name] = multiply_adds.count(net, size)
        except Exception as failure:
            run.failed(f"{candidate.name}, multiply-adds of {name}", failure)
            own[name] = None


def _checked(run, candidates, bar):
    """The networks that pass their checks, on the device, by name."""
    nets = {}
    for candidate in candidates:
        bar.set_description(f"{candidate.name}, check")
        with run.noting_failure(f"{candidate.name}, check"):
            if checks.check(run, candidate):
                nets[candidate.name] = candidate.build().to(run.device)
        bar.update()
    return nets


def _sizes(run, settings):
    """Inference of Contrast on one image of each side, in processes of their own."""
    if run.on_gpu or (reason := measure.peak_unsupported_reason()):
        _note(run, "--sides: for the CPU only" if run.on_gpu else reason)
        return []
    rows = []
    for side in settings.sides:
        # A large image is its own average.
        repeats = max(1, min(8, (512 // side) ** 2))
        with run.noting_failure(f"Contrast on {side}x{side}"):
            one = measure.alone(partial(Contrast, upscale=run.scale), "inference", 1, side, run.scale, repeats)
            rows.append({"size": side, "seconds": statistics.median(one["seconds"]), "peak_mib": one["peak_mib"]})
    return rows


def _peaks(run, candidates, nets, before, bar):
    """MiB at the peak of an iteration, by name; None for a network that cannot make one."""
    if not run.on_gpu and (reason := measure.peak_unsupported_reason()):
        _note(run, reason)
        return {}
    peaks = {}
    for candidate in candidates:
        name = candidate.name
        if name in nets:
            bar.set_description(f"{name}, memory")
            # Of the smaller batches that are measured already.
            expected = max((run.batch / int(batch) * (own.get(name) or 0) for batch, own in before.items()), default=0)
            too_large = _too_large(run, name, expected, 0.9, "measured")
            peaks[name] = None if too_large else _peak(run, candidate, nets[name])
            if peaks[name] is not None and peaks[name] <= 0:
                # A network that pads small images: its step takes no more than its warm-up left behind.
                del peaks[name]
                run.notes.append(f"{name}: the peak at batch {run.batch} does not show above the warm-up's")
        bar.update()
    return peaks


def _note(run, text):
    """Add a note once, whatever the number of batches."""
    run.notes += [text] * (text not in run.notes)


def _too_large(run, name, mib, share, what):
    """True, with a note, if a step takes more than a share of the machine's memory; on a GPU it fails by itself."""
    memory = None if run.on_gpu else device_memory(run.device)
    if memory is None or mib <= share * memory.total / 2**20:
        return False
    run.notes.append(f"{name}: not {what} at batch {run.batch}, which takes about {mib / 1024:.0f} GiB")
    return True


def _peak(run, candidate, net):
    with run.noting_failure(f"{candidate.name}, memory of an iteration of {run.batch}"):
        if not run.on_gpu:
            return measure.alone(candidate.build, "step", run.batch, run.patch, run.scale)["peak_mib"]
        trial = measure.Trial(networks.set_training(net, True), run.batch, run.patch, run.scale)
        trial.step()
        return measure.gpu_peak(trial.step) / 2**20
    return None


def _rounds(run, candidates, nets, peaks, bar):
    """Seconds by kind and name; no iterations of a network whose peak could not be measured."""
    # No peaks at all where the system does not say them; None for one that failed.
    fits = {name for name in nets if peaks.get(name, 0) is not None}
    fits = {name for name in fits if not _too_large(run, name, peaks.get(name, 0), 0.5, "timed")}
    trials = {name: measure.Trial(net, run.batch, run.patch, run.scale) for name, net in nets.items()}
    calls = {
        (name, kind): getattr(trial, kind)
        for kind in KINDS
        for name, trial in trials.items()
        if kind == "inference" or name in fits
    }

    def before(key):
        name, kind = key
        networks.set_training(nets[name], kind == "step")
        bar.set_description(f"{name}, {kind}, batch {run.batch}")
        bar.update()

    def failed(key, failure):
        run.failed(f"{', '.join(key)}, batch {run.batch}", failure)

    times = run.interleaved(calls, 1, enough=lambda: run.left() < 0, failed=failed, before=before)
    return {kind: {each.name: times.get((each.name, kind), []) for each in candidates} for kind in KINDS}
