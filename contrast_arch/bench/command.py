"""``contrast-arch bench``: what is measured in which order. See :func:`contrast_arch.bench.run`."""

import contextlib
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch import compat
from contrast_arch.bench import checks, measure, multiply_adds, networks, results
from contrast_arch.bench.figure import draw
from contrast_arch.bench.machine import machine
from contrast_arch.bench.settings import Settings
from contrast_arch.errors import InputError
from contrast_arch.ops import chosen_backend

KINDS = ("inference", "step")


def run(names: list[str] | None, output: Path, **settings) -> dict:
    """See :func:`contrast_arch.bench.run`."""
    start = time.perf_counter()
    settings = Settings(**settings)
    compat.require_basicsr()
    candidates, notes = networks.find(names, settings.scale, settings.patch)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: no folder can be made there: {error.strerror}") from error
    deadline = start + 60 * settings.minutes if settings.minutes else float("inf")
    run = measure.Run(settings.device, deadline, settings.patch, settings.batch, settings.rounds, settings.scale, notes)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.cuda.device(run.device) if run.on_gpu else contextlib.nullcontext():
            found = _measure(run, candidates)
            found = {"machine": machine(settings.threads), "setting": _setting(settings, found), **found}
    finally:
        torch.set_num_threads(threads)
    found["summary"] = results.summary(found)
    figure = output / "bench.png"
    if not draw(found, _title(found), figure):
        figure.unlink(missing_ok=True)
        run.notes.append("nothing was timed, so there is no figure")
    text = results.report(found)
    results.save(output / "bench", text, found)
    print(text)
    return found


def _title(found):
    here, setting = found["machine"], found["setting"]
    where = here["cpu"] if setting["device"] == "cpu" else here["gpu"]
    return f"X{setting['scale']}, batch {setting['batch']}, {setting['patch']}x{setting['patch']} LQ, on {where}"


def _setting(settings, found):
    """The settings as they were used, in values that JSON has."""
    setting = {key: value for key, value in asdict(settings).items() if key != "device"}
    setting["rounds"] = max((len(n["seconds"][kind]) for n in found["networks"] for kind in KINDS), default=0)
    backend = chosen_backend("ss2d", torch.empty(0, device=settings.device))
    cuda = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    tf32 = dict(zip(("products", "convolutions"), cuda, strict=True)) if settings.device.type == "cuda" else None
    more = {"loss": "MSE", "optimizer": "Adam", "lr": 2e-4, "tf32": tf32, "published": settings.published}
    return {"device": str(settings.device), "backend": backend, **setting, **more}


def _measure(run, candidates):
    """Every candidate's figures, in the form of bench.json; empty where it failed, which the notes say."""
    # Counting, checking and memory; then the rounds, of which the first warms up.
    with tqdm(total=len(candidates) * (3 + len(KINDS) * (1 + run.rounds)), unit="call") as bar:
        rows = {candidate.name: _row(run, candidate, bar) for candidate in candidates}
        trials = _trials(run, candidates, bar)
        with measure.arithmetic(None):
            peaks = _peaks(run, candidates, trials, bar)
            times = _rounds(run, trials, peaks, bar)
    for name, peak in peaks.items():
        rows[name]["peak_mib"] = peak
    for (name, kind), seconds in times.items():
        rows[name]["seconds"][kind] = seconds
    hat_light = [candidate.name for candidate in candidates if candidate.is_hat_light][:1]
    bases = [name for name in (*hat_light, networks.BASE) if name in rows and rows[name]["seconds"]["step"]]
    return {"networks": list(rows.values()), "bases": bases, "checks": run.checks, "notes": run.notes}


def _row(run, candidate, bar):
    """Size and cost of a network; what is to be timed of it is left empty."""
    bar.set_description(f"{candidate.name}, multiply-adds")
    net = candidate.build()
    row = {"name": candidate.name, "parameters": networks.parameters(net), "multiply_adds": {}, "peak_mib": None}
    sizes = {"lq_64x64": multiply_adds.LQ_SIZE, "output_1280x720": multiply_adds.lq_size(run.scale)}
    for name, size in sizes.items():
        try:
            row["multiply_adds"][name] = multiply_adds.count(net, size)
        except Exception as failure:  # networks of others may not run without numbers, or at this size
            run.failed(f"{candidate.name}, multiply-adds of {name}", failure)
            row["multiply_adds"][name] = None
    bar.update()
    return row | {"seconds": {kind: [] for kind in KINDS}}


def _trials(run, candidates, bar):
    """Trials of the candidates that pass their checks, by name."""
    trials = {}
    for candidate in candidates:
        bar.set_description(f"{candidate.name}, check")
        try:
            if checks.check(run, candidate):
                net = candidate.build().to(run.device)
                trials[candidate.name] = measure.Trial(net, run.batch, run.patch, run.scale)
        except Exception as failure:
            run.failed(f"{candidate.name}, check", failure)
        bar.update()
    return trials


def _peaks(run, candidates, trials, bar):
    """MiB at the peak of an iteration, by name; None for a network that cannot make one."""
    reason = None if run.on_gpu else measure.no_peak()
    if reason is not None:
        run.notes.append(reason)
        return {}
    peaks = {}
    for candidate in candidates:
        if candidate.name in trials:
            bar.set_description(f"{candidate.name}, memory")
            try:
                peaks[candidate.name] = _peak(run, candidate, trials[candidate.name])
            except Exception as failure:
                run.failed(f"{candidate.name}, memory of an iteration", failure)
                peaks[candidate.name] = None
        bar.update()
    return peaks


def _peak(run, candidate, trial):
    if not run.on_gpu:
        return measure.alone(candidate.build, "step", run.batch, run.patch, run.scale, training=True)["peak_mib"]
    trial.net.train()
    trial.step()
    return measure.gpu_peak(trial.step) / 2**20


def _rounds(run, trials, peaks, bar):
    """Seconds by (name, kind); no iterations of a network whose peak could not be measured."""
    calls = {(name, kind): getattr(trial, kind) for kind in KINDS for name, trial in trials.items()}
    for name, peak in peaks.items():
        if peak is None:
            del calls[name, "step"]

    def before(key):
        name, kind = key
        trials[name].net.train(kind == "step")
        bar.set_description(f"{name}, {kind}")
        bar.update()

    def failed(key, failure):
        run.failed(", ".join(key), failure)

    return run.interleaved(calls, 1, enough=lambda: run.left() < 0, failed=failed, before=before)
