"""A tiny training run that is started, disturbed at a random moment and looked at, again and again."""

import atexit
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

from contrast_arch import train
from contrast_arch.errors import CRASHED, InputError
from contrast_arch.files import option_files
from contrast_arch.options.document import read_options
from contrast_arch.weights.files import ABOUT, read

ROOT = Path(__file__).parents[1]
TOTAL, SAVE, VALIDATE = 18, 3, 4
STARTED = "Start training from"
# Phase -> how the output shows its begin (None: the start itself) and its end.
PHASES = {
    "start": (None, STARTED),
    "training": (STARTED, "End of training"),
    "saving": ("Saving models", "iter:"),
    "validation": (rf"iter: +({'|'.join(map(str, range(VALIDATE, TOTAL, VALIDATE)))}),", "Validation "),
    "compilation": ("compiling, once", "compiled in"),
}
# Seconds after which a start counts as hung.
PATIENCE = 600


class Case(NamedTuple):
    """A kind of disturbance, and the runs that it meets.

    Attributes:
        goal: hits that are wanted.
        fault: key of ``FAULTS``.
        phase: key of ``PHASES``.
        processes: of the run, over gloo.
        workers: processes that load images, for each process.
        fresh: start Python anew; otherwise the run is a fork of this process, which has all imports and kernels.
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


def write_images(folder: Path) -> None:
    """Write pairs of noise, HR/N.png of 48x40 and LR/Nx4.png of 12x10."""
    generator = np.random.default_rng(0)
    for name in ("HR", "LR"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        small = generator.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(small).save(folder / "LR" / f"{number}x4.png")
        Image.fromarray(small.repeat(4, 0).repeat(4, 1)).save(folder / "HR" / f"{number}.png")


def write_options(path: Path, case: Case) -> None:
    """Write the shipped option file of Contrast, made tiny; validation images are its training images."""
    options = read_options(str(option_files() / "train" / "train_Contrast_light_SRx4_from_scratch.yml"))
    options |= {"name": "run", "model_type": case.model, "num_gpu": 0, "manual_seed": 0}
    options["network_g"] |= {"dims": 12, "depths": [1], "num_heads": [2], "window_size": 4}
    # Relative, so that all runs have the same options.
    data = {"dataroot_gt": "../images/HR", "dataroot_lq": "../images/LR"}
    training, (validation, *_) = options["datasets"].pop("train"), options["datasets"].values()
    training |= data | {"gt_size": 32, "batch_size_per_gpu": 2, "num_worker_per_gpu": case.workers}
    training |= {"dataset_enlarge_ratio": 7, "meta_info_file": None}
    options["datasets"] = {"train": training, "val": validation | data}
    options["train"] |= {"total_iter": TOTAL, "ema_decay": 0.9, "max_hours": 24}
    options["train"] |= {"accumulate": 2} if case.model == "ContrastModel" else {}
    options["train"]["scheduler"]["milestones"] = [TOTAL // 2]
    options["val"] |= {"val_freq": VALIDATE}
    options["logger"] |= {"save_checkpoint_freq": SAVE, "keep_last": 3, "print_freq": 1, "use_tb_logger": False}
    path.write_text(yaml.safe_dump(options, sort_keys=False))


def build_shim(target: Path) -> Path | None:
    """Compile the library that makes disks and clocks fail; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    command = [compiler, "-shared", "-fPIC", "-O2", str(Path(__file__).with_name("faults_shim.c")), "-ldl"]
    subprocess.run([*command, "-o", str(target)], check=True)
    return target


class Start:
    """A start of a run: one process or several, with their loader workers a group, whose output is one file.

    Attributes:
        lines: seconds since the start, and text, of what was printed.
        codes: exit codes by rank, None for a process that lives.
    """

    def __init__(self, run: "Run"):
        self.run, self.case, self.begun = run, run.case, time.monotonic()
        run.found["starts"] += 1
        self.out = run.options.with_name(f"{run.found['starts']}.out")
        self.out.write_bytes(b"")
        self.lines, self.pids, self._position = [], [], 0
        self.codes = [None] * self.case.processes
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        for rank in range(self.case.processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.case.processes)}
            self.pids.append(self._fork(run.environment | (address | ranks if self.case.processes > 1 else {})))
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
            os.environ.update(environment)
            arguments = ["-opt", str(self.run.options), "--auto_resume"]
            arguments += ["--launcher", "pytorch"] if self.case.processes > 1 else []
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
        """Return what was printed since the last call."""
        whole, newline, _ = self.text[self._position :].rpartition("\n")
        self._position += len(whole + newline)
        new = whole.splitlines()
        self.lines += [(time.monotonic() - self.begun, line) for line in new]
        return new

    def lives(self) -> bool:
        """True if all its processes live."""
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
            time.sleep(0.005)
        end = time.monotonic() + generator.uniform(0, seconds)
        while time.monotonic() < end and self.lives():
            time.sleep(0.005)
        return self.lives()

    def wait(self) -> set:
        """Wait for its end; return its exit codes, "hung" after ``PATIENCE`` seconds."""
        end = time.monotonic() + PATIENCE
        while None in self.codes and time.monotonic() < end:
            self.lives()
            self.follow()
            time.sleep(0.02)
        hung = {"hung"} if None in self.codes else set()
        self.signal(signal.SIGKILL)
        while None in self.codes:
            self.lives()
        return hung or set(self.codes)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, orphaned loader workers included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pids[0], number)

    def workers(self, rank: int = 0) -> list[int]:
        children = Path(f"/proc/{self.pids[rank]}/task/{self.pids[rank]}/children")
        return [int(pid) for pid in children.read_text().split()] if children.exists() else []


class Run:
    """A training run in a folder of its own, and counts of all that was found.

    Attributes:
        saved: iteration that a save had ended for, so that later starts must have it.
        damaged: files that a fault has changed, with their content then.
        named: those of them that the next start has to pass over.
        found: see :meth:`hit`.
        problems: texts of what was not as it has to be.
    """

    def __init__(self, folder: Path, case: Case, images: Path, seed: str, shim: Path | None, stop_seconds: float = 60):
        self.case, self.random, self.stop_seconds = case, random.Random(seed), stop_seconds
        self.work, self.options = folder / "work", folder / "run.yml"
        self.images, self.control = folder / "images", folder / "control"
        self.work.mkdir(parents=True)
        self.images.symlink_to(images)
        write_options(self.options, case)
        self.environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if shim is not None:
            self.set_control()
            self.environment |= {"FAULTS_CONTROL": str(self.control), "FAULTS_FOLDER": str(self.work)}
            self.environment |= {"LD_PRELOAD": str(shim)}
        if case.phase == "compilation":
            self.environment |= {"NUMBA_CACHE_DIR": str(folder / "numba")}
        self.saved, self.damaged, self.named, self.problems, self.found = 0, {}, [], [], Counter()

    def set_control(self, *values: int) -> None:
        """Write ``struct control`` of faults_shim.c."""
        with open(self.control, "r+b" if self.control.exists() else "wb") as file:
            file.write(struct.pack("5q", *values, *[0] * (5 - len(values))))

    def failed_calls(self) -> int:
        return struct.unpack("5q", self.control.read_bytes())[4]

    @property
    def experiment(self) -> Path:
        return self.work / "experiments" / "run"

    def states(self) -> list[int]:
        """List iterations of whole training states, the newest first."""
        names = [path.stem for path in self.experiment.glob("training_states/[!.]*.state")]
        damaged = {int(re.search(r"(\d+)\.", path.name)[1]) for path in self.damaged}
        return sorted(set(map(int, names)) - damaged, reverse=True)

    def undisturbed(self) -> dict[str, float]:
        """Run to the end; return the mean seconds of each phase.

        Raises:
            RuntimeError: it ended with an error.
        """
        start = Start(self)
        if start.wait() != {0}:
            raise RuntimeError(f"{self.case.name}: without any fault:\n{start.text[-2000:]}")
        durations = {}
        for phase, (begin, end) in PHASES.items():
            opened, found = (0 if begin is None else None), []
            for seconds, line in start.lines:
                if opened is not None and re.search(end, line):
                    found.append(seconds - opened)
                    opened = None
                if begin and re.search(begin, line):
                    opened = seconds
            durations[phase] = sum(found) / len(found) if found else 0.0
        return durations

    def hit(self, durations: dict[str, float]) -> bool:
        """Start it, hit it, and look at what is left; True if the run has ended.

        Counts ``starts``, ``hits``, ``writing`` (hits while a file was being written), ``files`` (read afterwards),
        ``bad`` (those that do not load) and ``lost`` (seconds of training since the newest state, rounded up).
        """
        # A start that is to resume needs a state.
        phase = (
            "saving" if self.case.phase == "start" and not self.case.fresh and not self.states() else self.case.phase
        )
        fault, start, began = FAULTS[self.case.fault], Start(self), time.time()
        ended = not start.wait_for(phase, durations[phase], self.random)
        moment = time.time()
        really = not ended and fault.act(self, start)
        codes = start.wait()
        self._look(start, codes, {0} if ended else fault.codes | {0})
        really = really and fault.after(self)
        if really and phase == self.case.phase:
            self.found["hits"] += 1
            self.found["writing"] += any(self.experiment.rglob(".*.tmp"))
            states = list(self.experiment.glob("training_states/[!.]*.state"))
            lost = moment - max([began, *(path.stat().st_mtime for path in states)]) if codes != {0} else 0
            self.found["lost"] += max(0, lost)
            self.found["most_lost"] = max(self.found["most_lost"], lost)
        return codes == {0}

    def finish(self) -> None:
        """Start it once more, undisturbed, unless it has ended."""
        start = Start(self)
        self._look(start, start.wait(), {0})

    def _look(self, start, codes, allowed):
        """Look at the output of a start that has ended, and at all files."""
        text = start.text
        problems = [f"exit codes {codes}, expected {allowed}"] if not codes <= allowed else []
        problems += ["a traceback"] if "Traceback" in text or "Logging error" in text else []
        problems += ["no message"] if codes - {0, -signal.SIGKILL} and not re.search("^error: ", text, re.M) else []
        if STARTED in text:
            problems += [f"{path.name} was not passed over" for path in self.named if path.name not in text]
            problems += ["a whole state was passed over"] if not self.damaged and "Passed over" in text else []
            resumed = int(re.search(r"Start training from epoch: \d+, iter: (\d+)", text)[1])
            problems += [f"went on from {resumed}, {self.saved} was saved"] if resumed < self.saved else []
            self.named = []
            self.saved = max(resumed, last_saved(text))
        self.damaged = {path: was for path, was in self.damaged.items() if path.exists() and path.read_bytes() == was}
        for path in [*self.experiment.glob("models/[!.]*"), *self.experiment.glob("training_states/[!.]*")]:
            if path not in self.damaged:
                self.found["files"] += 1
                try:
                    read(path)
                except InputError as error:
                    self.found["bad"] += 1
                    problems.append(str(error))
        newest = max(self.states(), default=0)
        problems += [f"newest state {newest}, {self.saved} was saved"] if newest < self.saved else []
        self.problems += [f"{'; '.join(problems)}\n{text[-2000:]}"] if problems else []

    def result(self) -> tuple:
        """Content of the last weights, and of the newest state."""
        state = self.experiment / "training_states" / f"{TOTAL}.state"
        return tuple(read(path) for path in (self.experiment / "models" / "net_g_latest.pth", state))


def last_saved(text):
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
    """Place of the first difference, to the bit, in nested dicts and lists; what a checkpoint says of itself aside."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else place
    if type(a) is not type(b) or not isinstance(a, (dict, list, tuple)):
        return None if type(a) is type(b) and a == b else f"{place}: {a!r:.200}, {b!r:.200}"
    if len(a) != len(b) or (isinstance(a, dict) and a.keys() != b.keys()):
        return place
    keys = a.keys() - {ABOUT} if isinstance(a, dict) else range(len(a))
    return next(filter(None, (difference(a[key], b[key], f"{place}.{key}") for key in keys)), None)


def _kill(run, start):
    if len(start.pids) == 1 and run.random.random() < 0.5:
        os.kill(start.pids[0], signal.SIGKILL)  # as the system does when memory is short: workers notice by themselves
    else:
        start.signal(signal.SIGKILL)
    return True


def _kill_rank(run, start):
    os.kill(run.random.choice(start.pids), signal.SIGKILL)
    return True


def _kill_worker(run, start):
    while start.lives():
        # Between two epochs there is none.
        workers = start.workers(run.random.randrange(len(start.pids)))
        if workers:
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


def _jump(run, start):
    run.set_control(run.random.choice([-1, 1]) * run.random.randrange(3600, 48 * 3600))
    start.wait()
    run.set_control()
    return True


def _one_error(run, start):
    """As many calls in a row as a save tries again after."""
    return _errors(run, start, 1 << run.random.randrange(3), run.random.randint(1, 2))


def _dead_disk(run, start):
    return _errors(run, start, 7, 1 << 40)


def _errors(run, start, calls, count):
    run.set_control(0, calls, run.random.randrange(30 if calls & 1 else 4), count)
    start.wait()
    failed = run.failed_calls()
    run.set_control()
    return failed > 0


def _full_disk(run, start):
    """All but a random rest is taken; afterwards it is free again."""
    ballast, free = run.work / "ballast", shutil.disk_usage(run.work).free
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(max(0, free - run.random.randrange(150_000))))
    start.wait()
    ballast.unlink()
    return True


def _read_only_disk(run, start):
    """For all files that are opened from now on; a start on it must end too."""
    side = run.options.with_name("read-only")
    side.mkdir(exist_ok=True)
    with mounted(side, "--bind", str(run.experiment)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(side)], check=True)
        with mounted(run.experiment, "--bind", str(side)):
            start.wait()
            again = Start(run)
            run._look(again, again.wait(), {1})
    return True


def _broken_image(run, start):
    """A copy of the training images, of which one is cut or gone."""
    whole = run.images.resolve()
    broken = run.images.with_name("broken")
    shutil.copytree(whole, broken, dirs_exist_ok=True)
    image = run.random.choice(sorted(broken.rglob("*.png")))
    image.write_bytes(image.read_bytes()[:-60])
    if run.random.random() < 0.5:
        image.unlink()
    for target, wait in ((broken, True), (whole, False)):
        link = run.images.with_name("link")
        link.symlink_to(target)
        link.replace(run.images)
        if wait:
            start.wait()
    return True


def _flip(run):
    bit = 1 << run.random.randrange(8)
    return _damage(run, lambda data, at: data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])


def _cut(run):
    return _damage(run, lambda data, at: data[:at])


def _damage(run, change):
    """Change the newest state, or its checkpoint, at any place; False if there is none before it."""
    states = run.states()
    if len(states) < 2:
        return False
    names = f"training_states/{states[0]}.state", f"models/net_g_{states[0]}.pth"
    path = run.experiment / run.random.choice(names)
    before, data = read(path), path.read_bytes()
    path.write_bytes(change(data, run.random.randrange(len(data))))
    with contextlib.suppress(InputError):
        if difference(before, read(path)) is None:
            return True
    run.damaged[path], run.saved = path.read_bytes(), states[1]
    run.named.append(path)
    return True


class Fault(NamedTuple):
    """A disturbance of a run.

    Attributes:
        act: is given the run and its start, which lives; False if there was nothing to hit.
        codes: exit codes that the start may then end with, beside 0.
        after: is given the run once the start has ended; likewise.
    """

    act: Callable[[Run, Start], bool]
    codes: set[int]
    after: Callable[[Run], bool] = lambda run: True


FAULTS = {
    "SIGKILL": Fault(_kill, {-9}),
    "SIGKILL of a rank": Fault(_kill_rank, {-9, 1}),
    "SIGKILL of a loader worker": Fault(_kill_worker, {CRASHED}),
    "SIGSTOP": Fault(_stop, set()),
    "clock jumps": Fault(_jump, set()),
    "disk errors once": Fault(_one_error, set()),
    "disk errors from then on": Fault(_dead_disk, {1}),
    "full disk": Fault(_full_disk, {1}),
    "read-only disk": Fault(_read_only_disk, {1}),
    "broken image": Fault(_broken_image, {1}),
    "flipped bit": Fault(_kill, {-9}, _flip),
    "cut file": Fault(_kill, {-9}, _cut),
}


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str):
    """Mount something on a folder for a while.

    Raises:
        subprocess.CalledProcessError: it cannot be mounted; one has to be root.
    """
    subprocess.run(["mount", *arguments, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
