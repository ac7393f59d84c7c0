"""``contrast-arch bench``: the order of the measurements."""

import contextlib
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch import Contrast, compat
from contrast_arch.check import check_backend
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench import checks, core, measure, multiply_adds, networks, results
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save
from contrast_arch.memory import device_memory
from contrast_arch.ops import chosen_backend
from contrast_arch.weights.load import check_device

# Inference first: every step changes the weights, and with them what is kept of them.
KINDS = ("inference", "step")


@dataclass
class Settings:
    """The published comparison's unless given: batch 8, 64x64 LQ, X4; ``quick``: batch 1, 32x32 LQ."""

    device: torch.device | str | None = None  # "cpu", "cuda" or "cuda:N"; None takes the GPU where PyTorch sees one
    batch: list[int] | None = None  # images of an iteration, one number or more
    patch: int | None = None  # side of the LQ images
    scale: int = 4  # of all networks
    rounds: int = 5  # how often each network is timed
    threads: int | None = None  # of PyTorch on the CPU; None leaves them
    minutes: float | None = None  # no round begins after so long, the first excepted; None for all rounds
    quick: bool = False  # small images, for a CPU
    sides: list[int] | None = None  # of single LQ images on which Contrast is measured too, on the CPU
    core: bool = False  # SS2D's core is measured by backend too

    def __post_init__(self):
        """Fill in what is None, and raise InputError for a value out of range or a device that is not there."""
        self.batch = sorted(set([1 if self.quick else 8] if self.batch is None else self.batch))
        self.patch = (32 if self.quick else 64) if self.patch is None else self.patch
        self.threads = torch.get_num_threads() if self.threads is None else self.threads
        for name in ("batch", "sides", "patch", "scale", "rounds", "threads"):
            values = getattr(self, name)
            most = 1024 if name == "threads" else 10**6
            for value in values if isinstance(values, list) else [values]:
                if value is not None and not 1 <= value <= most:
                    raise InputError(f"--{name} {value}: expected a whole number from 1 to {most}")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"--minutes {self.minutes}: expected more than 0, or none for all rounds")
        name = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        check_device(name)
        self.device = torch.device(name)
        if self.device.type not in ("cpu", "cuda"):
            raise InputError(f"--device {name}: expected cpu, cuda or cuda:N")
        check_backend(self.device)


def run(names: list[str] | None, output: Path, **settings) -> dict:
    """Measure networks and write OUTPUT/bench.md and bench.json; the tables also go to stdout.

    Args:
        names: as in ``options/train/train_NAME_SRx4_from_scratch.yml``, "HAT" for the upstream one, peers of
            ``contrast_arch.experiments.bench.networks.PEERS``, shipped weights, or paths of option files or of
            .safetensors. None or none at all: those of :func:`contrast_arch.networks.compared`, HAT and the peers
            where spandrel is installed.
        output: a folder, made if need be; earlier results in it are replaced.
        settings: fields of :class:`Settings`.

    Returns:
        The content of bench.json.

    Raises:
        InputError: a network, a setting or the folder cannot be used; before anything is measured.
    """
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
            found = _Bench(run, settings, candidates, output / "bench").measured()
    finally:
        torch.set_num_threads(threads)
    print(results.tables(found))
    return found


def _in_json(settings):
    """The settings, in values that JSON has."""
    tf32 = None
    if settings.device.type == "cuda":
        tf32 = {"products": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32}
    backend = chosen_backend("ss2d", torch.empty(0, device=settings.device))
    return asdict(settings) | {"device": str(settings.device), "tf32": tf32, "backend": backend}


class _Bench:
    """A run of the command; ``found`` is the content of bench.json."""

    def __init__(self, run, settings, candidates, target):
        self.run, self.settings, self.candidates, self.target = run, settings, candidates, target
        self.found = {
            "machine": machine(settings.threads),
            "setting": _in_json(settings),
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

    def measured(self):
        """Fill ``found``; it is written after each batch."""
        run, settings, found = self.run, self.settings, self.found
        if settings.core:
            counts = [settings.threads] if run.on_gpu else sorted({1, settings.threads})
            found["core"] = core.measure_backends(run, settings.batch, counts)
        if settings.sides:
            found["sizes"] = self._sizes()
        for candidate in self.candidates:
            self._count(candidate)
        # Checking; then for each batch the memory, and the rounds, of which the first warms up.
        calls = len(self.candidates) * (1 + len(settings.batch) * (1 + len(KINDS) * (1 + run.rounds)))
        with tqdm(total=calls, unit="call") as self.bar, measure.arithmetic(None):
            self.nets = {candidate.name: net for candidate in self.candidates if (net := self._checked(candidate))}
            bases = (networks.BASE, *(candidate.name for candidate in self.candidates if candidate.is_hat_light))
            found["base"] = next((name for name in bases if name in self.nets), None)
            for run.batch in settings.batch:
                self.peaks = found["peak_mib"][str(run.batch)] = {}
                for candidate in self.candidates:
                    self._peak(candidate)
                found["seconds"][str(run.batch)] = self._rounds()
                save(self.target, results.tables(found), found)
        return found

    def _count(self, candidate):
        """Parameters and multiply-adds; None where a network of others does not run without numbers, or at the size."""
        net = candidate.build()
        self.found["thousands"][candidate.name] = networks.parameters(net) / 1000
        own = self.found["multiply_adds"][candidate.name] = {}
        for name, size in {"lq_64x64": (64, 64), "output_1280x720": multiply_adds.lq_size(self.run.scale)}.items():
            own[name] = None
            with self.run.noting_failure(f"{candidate.name}, multiply-adds of {name}"):
                own[name] = multiply_adds.count(net, size)

    def _checked(self, candidate):
        """The network on the device; None if it does not pass its checks."""
        self.bar.set_description(f"{candidate.name}, check")
        self.bar.update()
        with self.run.noting_failure(f"{candidate.name}, check"):
            if checks.check(self.run, candidate):
                return candidate.build().to(self.run.device)

    def _sizes(self):
        """Inference of Contrast on one image of each side, in processes of their own."""
        if self.run.on_gpu or (reason := measure.peak_unsupported_reason()):
            self.run.note("--sides: for the CPU only" if self.run.on_gpu else reason)
            return []
        rows = []
        for side in self.settings.sides:
            # A large image is its own average.
            repeats = max(1, min(8, (512 // side) ** 2))
            with self.run.noting_failure(f"Contrast on {side}x{side}"):
                build = partial(Contrast, upscale=self.run.scale)
                one = measure.alone(build, "inference", 1, side, self.run.scale, repeats)
                rows.append({"size": side, "seconds": statistics.median(one["seconds"]), "peak_mib": one["peak_mib"]})
        return rows

    def _peak(self, candidate):
        """Note the MiB at the peak of an iteration; None for a network that cannot make one."""
        run, name = self.run, candidate.name
        self.bar.set_description(f"{name}, memory")
        self.bar.update()
        if not run.on_gpu and (reason := measure.peak_unsupported_reason()):
            run.note(reason)
        elif name in self.nets:
            # Of the smaller batches that are measured already.
            known = self.found["peak_mib"].items()
            expected = max((run.batch / int(batch) * (peaks.get(name) or 0) for batch, peaks in known), default=0)
            self.peaks[name] = None
            if not self._too_large(name, expected, 0.9, "measured"):
                with run.noting_failure(f"{name}, memory of an iteration of {run.batch}"):
                    self.peaks[name] = self._measured_peak(candidate)
            if self.peaks[name] is not None and self.peaks[name] <= 0:
                # A network that pads small images: its step takes no more than its warm-up left behind.
                del self.peaks[name]
                run.note(f"{name}: the peak at batch {run.batch} does not show above the warm-up's")

    def _measured_peak(self, candidate):
        run = self.run
        if not run.on_gpu:
            return measure.alone(candidate.build, "step", run.batch, run.patch, run.scale)["peak_mib"]
        net = networks.set_training(self.nets[candidate.name], True)
        trial = measure.Trial(net, run.batch, run.patch, run.scale)
        trial.step()
        return measure.gpu_peak(trial.step) / 2**20

    def _too_large(self, name, mib, share, what):
        """True, with a note, if a step takes more than a share of the machine's memory; on a GPU it fails by itself."""
        memory = None if self.run.on_gpu else device_memory(self.run.device)
        if memory is None or mib <= share * memory.total / 2**20:
            return False
        self.run.note(f"{name}: not {what} at batch {self.run.batch}, which takes about {mib / 1024:.0f} GiB")
        return True

    def _rounds(self):
        """Seconds by kind and name; no iterations of a network whose peak could not be measured."""
        run, calls = self.run, {}
        trials = {name: measure.Trial(net, run.batch, run.patch, run.scale) for name, net in self.nets.items()}
        for kind in KINDS:
            for name, trial in trials.items():
                # No peaks at all where the system does not say them; None for one that failed.
                peak = self.peaks.get(name, 0)
                if kind == "inference" or (peak is not None and not self._too_large(name, peak, 0.5, "timed")):
                    calls[name, kind] = getattr(trial, kind)

        def before(key):
            name, kind = key
            networks.set_training(self.nets[name], kind == "step")
            self.bar.set_description(f"{name}, {kind}, batch {run.batch}")
            self.bar.update()

        def failed(key, failure):
            run.failed(f"{', '.join(key)}, batch {run.batch}", failure)

        enough = lambda: run.left() < 0  # noqa: E731
        times = measure.interleaved(calls, run.rounds, run.device, 1, enough, failed, before)
        return {kind: {each.name: times.get((each.name, kind), []) for each in self.candidates} for kind in KINDS}
