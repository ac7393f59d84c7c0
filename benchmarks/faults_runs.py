"""A tiny training run that is started, disturbed at a random moment and looked at, again and again."""

import atexit
import contextlib
import os
import random
import re
import signal
import socket
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
from contrast_arch.errors import InputError
from contrast_arch.files import option_files
from contrast_arch.options.document import read_options
from contrast_arch.weights.files import ABOUT, read

ROOT = Path(__file__).parents[1]
TOTAL, SAVE, VALIDATE = 18, 3, 4
STARTED = "Start training from epoch"
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
        fault: key of ``FAULTS`` in faults_kinds.py.
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


class Fault(NamedTuple):
    """A disturbance of a run.

    Attributes:
        act: is given the run and its start, which lives; False if there was nothing to hit.
        codes: exit codes that the start may then end with, beside 0.
        after: is given the run once the start has ended; likewise.
    """

    act: Callable[["Run", "Start"], bool]
    codes: set[int]
    after: Callable[["Run"], bool] = lambda run: True


def write_images(folder: Path) -> None:
    """Write pairs of noise, HR/N.png of 48x40 and LR/Nx4.png of 12x10."""
    generator = np.random.default_rng(0)
    for number in range(6):
        small = generator.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        for name, pixels in ((f"LR/{number}x4.png", small), (f"HR/{number}.png", small.repeat(4, 0).repeat(4, 1))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)


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


class Start:
    """A start of a run: one process or several, with their loader workers a group, whose output is one file.

    Attributes:
        lines: seconds since the start, and text, of what was printed.
        codes: exit codes by rank, None for a process that lives.
    """

    def __init__(self, run: "Run"):
        run.found["starts"] += 1
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
            arguments = ["-opt", str(self.run.options), "--auto_resume"]
            arguments += ["--launcher", "pytorch"] if environment else []
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
        """Wait for its end; return its exit codes, with "hung" if it took more than ``PATIENCE`` seconds."""
        end = time.monotonic() + PATIENCE
        while None in self.codes and time.monotonic() < end:
            self.lives()
            self.follow()
        hung = {"hung"} if None in self.codes else set()
        self.signal(signal.SIGKILL)
        while None in self.codes:
            self.lives()
        return hung | set(self.codes)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, orphaned loader workers included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pids[0], number)

    def durations(self) -> dict[str, float]:
        """Mean seconds of each phase of a start that has ended."""
        found = {}
        for phase, (begin, end) in PHASES.items():
            opened, seconds = (0 if begin is None else None), []
            for moment, line in self.lines:
                if opened is not None and re.search(end, line):
                    seconds.append(moment - opened)
                    opened = None
                if begin and re.search(begin, line):
                    opened = moment
            found[phase] = sum(seconds) / max(1, len(seconds))
        return found


class Run:
    """A training run in a folder of its own, and counts of all that was found.

    Attributes:
        saved: iteration that was saved for good, so that later starts must have it.
        damaged: files that a fault has changed, with their content then.
        named: those of them that the next start has to pass over.
        found: counts of ``starts``, ``hits``, ``writing`` (hits while a file was written), ``files`` (read after
            starts), ``bad`` (those that do not load) and ``lost`` (seconds from newest state or start to the hit).
        problems: texts of what was not as it has to be.
    """

    def __init__(self, folder: Path, case: Case, images: Path, seed: str, stop_seconds: float):
        self.case, self.random, self.stop_seconds = case, random.Random(seed), stop_seconds
        self.work, self.options, self.images = folder / "work", folder / "run.yml", folder / "images"
        self.control, self.experiment = folder / "control", self.work / "experiments" / "run"
        self.work.mkdir(parents=True)
        self.images.symlink_to(images)
        write_options(self.options, case)
        self.environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.control.write_bytes(bytes(40))
        self.environment |= {"FAULTS_CONTROL": str(self.control), "FAULTS_FOLDER": str(self.work)}
        if case.phase == "compilation":
            self.environment |= {"NUMBA_CACHE_DIR": str(folder / "numba")}
        self.saved, self.damaged, self.named, self.problems, self.found = 0, {}, [], [], Counter()

    def states(self) -> list[int]:
        """List iterations of whole training states, the newest first."""
        names = [path.stem for path in self.experiment.glob("training_states/[!.]*.state")]
        damaged = {int(re.search(r"(\d+)\.", path.name)[1]) for path in self.damaged}
        return sorted(set(map(int, names)) - damaged, reverse=True)

    def hit(self, fault: Fault, durations: dict[str, float]) -> bool:
        """Start it, hit it, and look at what is left; True if the run has come to its end."""
        phase, start, began = self.case.phase, Start(self), time.time()
        if phase == "start" and not self.case.fresh and not self.states():
            phase = "saving"  # a start that is to resume needs a state
        really = start.wait_for(phase, durations[phase], self.random)
        codes, moment = fault.codes | {0} if really else {0}, time.time()
        really = really and fault.act(self, start)
        found = self.look(start, codes)
        if really and phase == self.case.phase and fault.after(self):
            states = self.experiment.glob("training_states/[!.]*.state")
            lost = moment - max([began, *(path.stat().st_mtime for path in states)]) if found != {0} else 0
            lost = max(0, lost)
            self.found += Counter(hits=1, writing=any(self.experiment.rglob(".*.tmp")), lost=lost)
            self.found["most_lost"] = max(self.found["most_lost"], lost)
        return found == {0}

    def look(self, start: Start, allowed: set) -> set:
        """Wait for the end of a start, look at its output and at all files, and return its exit codes."""
        codes, text, problems = start.wait(), start.text, []
        problems += [f"exit codes {codes}, expected {allowed}"] if not codes <= allowed else []
        problems += ["a traceback"] if "Traceback" in text or "Logging error" in text else []
        problems += ["no message"] if codes - {0, -signal.SIGKILL} and not re.search("^error: ", text, re.M) else []
        started = re.search(rf"{STARTED}: \d+, iter: (\d+)", text)
        if started:
            problems += [f"{path.name} was not passed over" for path in self.named if path.name not in text]
            problems += ["a whole state was passed over"] if not self.damaged and "Passed over" in text else []
            resumed = int(started[1])
            problems += [f"went on from {resumed}, {self.saved} was saved"] if resumed < self.saved else []
            self.named, self.saved = [], max(resumed, _last_saved(text))
        self.damaged = {path: was for path, was in self.damaged.items() if path.exists() and path.read_bytes() == was}
        files = *self.experiment.glob("models/[!.]*"), *self.experiment.glob("training_states/[!.]*")
        for path in set(files) - self.damaged.keys():
            self.found["files"] += 1
            try:
                read(path)
            except InputError as error:
                self.found["bad"] += 1
                problems.append(str(error))
        newest = max(self.states(), default=0)
        problems += [f"newest state {newest}, {self.saved} was saved"] if newest < self.saved else []
        self.problems += [f"{'; '.join(problems)}\n{text[-2000:]}"] if problems else []
        return codes

    def result(self) -> tuple:
        """Content of the last weights, and of the newest state.

        Raises:
            InputError: one cannot be read.
        """
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
    """Place of the first difference, to the bit, in nested dicts and lists; what a checkpoint says of itself aside."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else place
    if type(a) is not type(b) or not isinstance(a, (dict, list, tuple)):
        return None if type(a) is type(b) and a == b else f"{place}: {a!r:.200}, {b!r:.200}"
    if len(a) != len(b) or (isinstance(a, dict) and a.keys() != b.keys()):
        return place
    keys = a.keys() - {ABOUT} if isinstance(a, dict) else range(len(a))
    return next(filter(None, (difference(a[key], b[key], f"{place}.{key}") for key in keys)), None)
