"""A tiny training run that is started, disturbed at a random moment and looked at, again and again."""

import atexit
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml

from contrast_arch import train
from contrast_arch.errors import CRASHED, InputError
from contrast_arch.files import option_files
from contrast_arch.options.document import read_options
from contrast_arch.weights.files import ABOUT, read

ROOT = Path(__file__).parents[1]
TOTAL, SAVE, VALIDATE, STARTED = 18, 3, 4, "Start training from epoch"
# Phase -> how the output shows its begin (None: the start itself) and its end.
PHASES = {
    "start": (None, STARTED),
    "training": (STARTED, "End of training"),
    "saving": ("Saving models", "iter:"),
    "validation": (rf"iter: +({'|'.join(map(str, range(VALIDATE, TOTAL, VALIDATE)))}),", "Validation "),
    "compilation": ("compiling, once", "compiled in"),
}
PATIENCE = 600  # seconds, after which a start counts as hung


class Case(NamedTuple):
    """A kind of disturbance and the runs that it meets, wanted ``goal`` times.

    ``fresh``: start Python anew; otherwise the run is a fork of this process, which has all imports and kernels.
    """

    goal: int
    fault: str
    model: str
    phase: str = "training"
    processes: int = 1
    workers: int = 1
    fresh: bool = False

    @property
    def name(self) -> str:
        start = "new" if self.fresh else "forked"
        return f"{self.fault}, {self.phase}, {self.model}, {self.processes} x {self.workers} workers, {start}"


def write_options(path: Path, case: Case) -> None:
    """Write the shipped option file of Contrast, made tiny; validation images are its training images."""
    options = read_options(str(option_files() / "train" / "train_Contrast_light_SRx4_from_scratch.yml"))
    options |= {"name": "run", "model_type": case.model, "num_gpu": 0, "manual_seed": 0}
    # Relative, so that all runs have the same options.
    data = {"dataroot_gt": "../images/HR", "dataroot_lq": "../images/LR"}
    training = options["datasets"]["train"] | data | {"gt_size": 32, "batch_size_per_gpu": 2, "meta_info_file": None}
    training |= {"num_worker_per_gpu": case.workers, "dataset_enlarge_ratio": 7}
    options["datasets"] = {"train": training, "val": options["datasets"]["val_1"] | data}
    options["network_g"] |= {"dims": 12, "depths": [1], "num_heads": [2], "window_size": 4}
    options["train"] |= {"total_iter": TOTAL, "ema_decay": 0.9, "max_hours": 24}
    options["train"] |= {"accumulate": 2} if case.model == "ContrastModel" else {}
    options["val"]["val_freq"] = VALIDATE
    options["logger"] |= {"save_checkpoint_freq": SAVE, "keep_last": 3, "print_freq": 1, "use_tb_logger": False}
    path.write_text(yaml.safe_dump(options, sort_keys=False))


class Start:
    """A start of a run: processes that are a group with their loader workers; ``codes`` are None while they live."""

    def __init__(self, run: "Run"):
        run.found["starts"] += 1
        time.sleep(run.experiment.exists() and not run.states())  # BasicSR moves it aside, by a name with the second
        self.run, self.case, self.begun = run, run.case, time.monotonic()
        self.out = run.options.with_name(f"{run.found['starts']}.out")
        self.out.touch()
        self.lines, self.pids, self.codes = [], [], [None] * self.case.processes
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        group["WORLD_SIZE"] = str(self.case.processes)
        for rank in map(str, range(self.case.processes)):
            self.pids.append(self._fork(group | {"RANK": rank, "LOCAL_RANK": rank} if self.case.processes > 1 else {}))
            os.setpgid(self.pids[-1], self.pids[0])

    def _fork(self, environment):
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            atexit._clear()  # what is to be done at this process's end
            out = os.open(self.out, os.O_WRONLY | os.O_APPEND)
            os.dup2(out, 1), os.dup2(out, 2)
            os.chdir(self.run.work)
            os.environ.update(self.run.environment | environment)
            arguments = ["-opt", str(self.run.options), "--auto_resume"] + ["--launcher", "pytorch"] * bool(environment)
            if self.case.fresh:
                os.execv(sys.executable, [sys.executable, "-m", "contrast_arch.train", *arguments])
            sys.argv = ["contrast-train", *arguments]
            code = train.main()
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @property
    def text(self) -> str:
        return self.out.read_text(errors="replace")

    def follow(self) -> list[str]:
        """Return the lines that were printed since the last call."""
        new = self.text.rpartition("\n")[0].splitlines()[len(self.lines) :]
        self.lines += [(time.monotonic() - self.begun, line) for line in new]
        return new

    def lives(self) -> bool:
        """Wait a moment; True if all its processes live."""
        time.sleep(0.005)
        for rank, pid in enumerate(self.pids):
            if self.codes[rank] is None:
                ended, status = os.waitpid(pid, os.WNOHANG)
                self.codes[rank] = os.waitstatus_to_exitcode(status) if ended else None
        return self.codes == [None] * len(self.pids)

    def wait_for(self, phase: str, seconds: float, generator: random.Random) -> bool:
        """Wait for a moment at random of a phase that lasts so long; False if the run ended before."""
        begin, _ = PHASES[phase]
        left = generator.randint(1, 3) if phase in ("saving", "validation") else 1
        while begin and left > 0 and self.lives():
            left -= sum(bool(re.search(begin, line)) for line in self.follow())
        end = time.monotonic() + generator.uniform(0, seconds)
        while self.lives():
            if time.monotonic() > end:
                return True
        return False

    def wait(self) -> set:
        """Wait for its end; return its exit codes, and "hung" where it took too long."""
        end = time.monotonic() + PATIENCE
        while None in self.codes and time.monotonic() < end:
            self.lives()
            self.follow()
        hung = ["hung"] * (None in self.codes)
        self.signal(signal.SIGKILL)
        while None in self.codes:
            self.lives()
        return {*hung, *self.codes}

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, orphaned loader workers included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pids[0], number)

    def durations(self) -> dict[str, float]:
        """Seconds of each phase of a start that has ended, where it came first."""
        found = {}
        for phase, (begin, end) in PHASES.items():
            lines = iter(self.lines)
            first = 0 if begin is None else next((moment for moment, line in lines if re.search(begin, line)), 0)
            found[phase] = next((moment for moment, line in lines if re.search(end, line)), first) - first
        return found


class Run:
    """A training run in a folder of its own, and all that was found.

    ``saved`` was saved for good, so that later starts must have it. ``damaged`` are files that a fault has changed,
    with their content then; the next start must pass over those in ``named``. ``found`` counts ``starts``, ``hits``,
    ``writing`` (hits while a file was written), ``files`` read after starts, ``bad`` ones among them, and ``lost``
    seconds from the newest state, or the start, to the hit. ``problems`` are texts of all that is not as it has to be.
    """

    def __init__(self, folder: Path, case: Case, images: Path, seed: str, stop_seconds: float):
        self.case, self.random, self.stop_seconds = case, random.Random(seed), stop_seconds
        self.work, self.options, self.images = folder / "work", folder / "run.yml", folder / "images"
        self.control, self.experiment = folder / "control", self.work / "experiments" / "run"
        self.work.mkdir(parents=True)
        self.images.symlink_to(images)
        write_options(self.options, case)
        self.control.write_bytes(bytes(40))
        self.environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.environment |= {"FAULTS_CONTROL": str(self.control), "FAULTS_FOLDER": str(self.work)}
        self.environment |= {"NUMBA_CACHE_DIR": str(folder / "numba")} if case.phase == "compilation" else {}
        self.saved, self.damaged, self.named, self.problems, self.found = 0, {}, [], [], Counter()

    def states(self) -> list[int]:
        """List iterations of whole training states, the newest first."""
        names = [path.stem for path in self.experiment.glob("training_states/[!.]*.state")]
        damaged = {int(re.search(r"(\d+)\.", path.name)[1]) for path in self.damaged}
        return sorted(set(map(int, names)) - damaged, reverse=True)

    def hit(self, durations: dict[str, float]) -> bool:
        """Start it, hit it, and look at what is left; True if the run has come to its end."""
        act, codes, *after = FAULTS[self.case.fault]
        phase, start, began = self.case.phase, Start(self), time.time()
        if phase == "start" and not self.case.fresh and not self.states():
            phase = "saving"  # a start that is to resume needs a state
        really = start.wait_for(phase, durations[phase], self.random)
        moment, hit = time.time(), really and act(self, start)
        found = self.look(start, codes | {0} if really else {0})
        # Files of a run that has ended stay whole: they are what is compared.
        if hit and phase == self.case.phase and all(found != {0} and damage(self) for damage in after):
            states = self.experiment.glob("training_states/[!.]*.state")
            newest = max([began, *(path.stat().st_mtime for path in states)])
            lost = max(0, moment - newest) if found != {0} else 0
            self.found += Counter(hits=1, writing=any(self.experiment.rglob(".*.tmp")), lost=lost)
            self.found["most_lost"] = max(self.found["most_lost"], lost)
        return found == {0}

    def look(self, start: Start, allowed: set) -> set:
        """Wait for the end of a start, look at its output and at all files, and return its exit codes."""
        codes, text = start.wait(), start.text
        problems = [f"exit codes {codes}, expected {allowed}"] if not codes <= allowed else []
        # Orphaned workers of a killed process may print one.
        problems += ["a traceback"] if codes != {-signal.SIGKILL} and re.search("Traceback|Logging err", text) else []
        problems += ["no message"] if codes - {0, -signal.SIGKILL} and not re.search("^error: ", text, re.M) else []
        if started := re.search(rf"{STARTED}: \d+, iter: (\d+)", text):
            passed_over = " ".join(line for line in text.splitlines() if "Passed over" in line)
            missed = [path.name for path in self.named if path in self.damaged and path.name not in passed_over]
            problems += [f"{name} was not passed over" for name in missed]
            problems += ["a whole state was passed over"] if passed_over and not self.damaged else []
            problems += [f"went on before {self.saved}"] if int(started[1]) < self.saved else []
            self.named, self.saved = [], max(int(started[1]), _last_saved(text))
        self.damaged = {path: was for path, was in self.damaged.items() if path.exists() and path.read_bytes() == was}
        for path in {*self.experiment.rglob("[!.]*.pth"), *self.experiment.rglob("[!.]*.state")} - self.damaged.keys():
            self.found["files"] += 1
            try:
                read(path)
            except InputError as error:
                self.found["bad"] += 1
                problems.append(str(error))
        there = max([int(started[1]) if started else 0, *self.states()])  # it may be changed where it does not matter
        problems += [f"{self.saved} is not there"] if self.saved > there else []
        self.problems += [f"{'; '.join(problems)}\n{text[-2000:]}"] if problems else []
        return codes

    def result(self) -> tuple:
        """Content of the last weights, and of the newest state."""
        files = self.experiment / "models" / "net_g_latest.pth", self.experiment / "training_states" / f"{TOTAL}.state"
        return tuple(map(read, files))


def _last_saved(text):
    """The last iteration whose save has ended, as the output shows."""
    iteration = pending = saved = 0
    for line in text.splitlines():
        found = re.search(r"iter: +(\d+), lr", line)
        if "Saving models" in line:
            pending = iteration
        elif "Nothing was saved" in line:
            pending = 0
        elif found:
            saved, iteration = pending or saved, int(found[1])
    return saved


def difference(a, b, place: str = "") -> str | None:
    """Place of the first difference, to the bit, in nested dicts and lists; what files say of themselves aside."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else place
    if type(a) is not type(b) or not isinstance(a, (dict, list, tuple)):
        return None if type(a) is type(b) and a == b else f"{place}: {a!r:.200}, {b!r:.200}"
    if len(a) != len(b) or (isinstance(a, dict) and a.keys() != b.keys()):
        return place
    keys = a.keys() - {ABOUT, "checksums"} if isinstance(a, dict) else range(len(a))
    return next(filter(None, (difference(a[key], b[key], f"{place}.{key}") for key in keys)), None)


# Faults: each is given the run and its start, which lives, and returns False if there was nothing to hit.


def _kill(run, start, alone=False):
    """All processes, or one alone, as the system does where memory is short."""
    if alone or (len(start.pids) == 1 and run.random.random() < 0.5):
        os.kill(run.random.choice(start.pids), signal.SIGKILL)
    else:
        start.signal(signal.SIGKILL)
    return True


def _kill_worker(run, start):
    pid = start.pids[0]
    while start.lives():
        workers = [int(worker) for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if workers:  # between two epochs there is none
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.random.choice(workers), signal.SIGKILL)
                return True
    return False


def _stop(run, start):
    stopped = run.random.choice([start.pids, start.pids[-1:]])
    for number, seconds in ((signal.SIGSTOP, run.stop_seconds), (signal.SIGCONT, 0)):
        for pid in stopped:
            os.kill(pid, number)
        time.sleep(seconds)
    return True


def _control(run, start, *values):
    """Let ``struct control`` of faults_shim.c have these values until the start ends; return how many calls failed."""
    control = np.memmap(run.control, np.int64, "r+")
    control[: len(values)] = values
    start.wait()
    failed = int(control[4])
    control[:] = 0
    return failed


def _jump(run, start):
    _control(run, start, run.random.choice([-1, 1]) * run.random.randrange(3600, 48 * 3600))
    return True


def _disk_errors(run, start, once):
    """Of write (1), fsync (2) or rename (4), in no more calls in a row than a save tries again after; or of all."""
    calls, count = (1 << run.random.randrange(3), run.random.randint(1, 2)) if once else (7, 1 << 40)
    return _control(run, start, 0, calls, run.random.randrange(30 if calls & 1 else 4), count) > 0


def _full_disk(run, start):
    """All but a random rest is taken; afterwards it is free again."""
    ballast, free = run.work / "ballast", shutil.disk_usage(run.work).free
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(max(0, free - run.random.randrange(150_000))))
    start.wait()
    ballast.unlink()
    return True


def _read_only_disk(run, start):
    """For all files that are opened from now on; a start on it has to end too."""
    side = run.options.with_name("read-only")
    side.mkdir(exist_ok=True)
    with mounted(side, "--bind", str(run.experiment)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(side)], check=True)
        with mounted(run.experiment, "--bind", str(side)):
            start.wait()
            run.look(type(start)(run), {1})
    return True


def _damage(run: Run, cut: bool) -> bool:
    """Cut the newest state, or its checkpoint, at any place, or flip a bit; False if there is no state before it."""
    states = run.states()
    if len(states) < 2:
        return False
    path = run.experiment / run.random.choice([f"training_states/{states[0]}.state", f"models/net_g_{states[0]}.pth"])
    before, data = read(path), bytearray(path.read_bytes())
    at = run.random.randrange(len(data))
    data[at] ^= 1 << run.random.randrange(8)
    path.write_bytes(data[:at] if cut else data)
    run.damaged[path], run.saved = path.read_bytes(), states[1]
    try:
        harmless = difference(before, read(path)) is None
    except InputError:
        harmless = False
    run.named += [] if harmless else [path]
    return True


@contextlib.contextmanager
def mounted(folder, *arguments: str):
    """Mount something on a folder for a while, as root."""
    subprocess.run(["mount", *arguments, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# Fault -> how it acts; exit codes that the start may then end with, beside 0; what it does once that has ended.
FAULTS = {
    "SIGKILL": (_kill, {-9}),
    "SIGKILL of a rank": (partial(_kill, alone=True), {-9, 1}),
    "SIGKILL of a loader worker": (_kill_worker, {CRASHED}),
    "SIGSTOP": (_stop, set()),
    "clock jumps": (_jump, set()),
    "disk errors once": (partial(_disk_errors, once=True), set()),
    "disk errors from then on": (partial(_disk_errors, once=False), {1}),
    "full disk": (_full_disk, {1}),
    "read-only disk": (_read_only_disk, {1}),
    "flipped bit": (_kill, {-9}, partial(_damage, cut=False)),
    "cut file": (_kill, {-9}, partial(_damage, cut=True)),
}
