"""Signals and times at which a training run is to save or to end, and the end of one that hangs."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from contrast_arch.errors import NO_PROGRESS

NOTHING, SAVE, STOP, TIME_IS_UP = range(4)
# Windows has neither SIGUSR1 nor SIGCHLD.
TAKEN = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
# Seconds after which a process that hangs ends by a signal, if it could not end itself.
GRACE = 60


class Requests:
    """Requests of SIGTERM and SIGINT (save and end) and SIGUSR1 (save and go on) inside a ``with`` block: ``wanted``.

    A second SIGINT raises KeyboardInterrupt.
    """

    def __init__(self):
        self.wanted, self._interrupted, self._earlier = NOTHING, False, {}

    def __enter__(self):
        self._earlier = {number: signal.signal(number, self._take) for number in TAKEN}
        return self

    def __exit__(self, *_):
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _take(self, number, frame):
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        stop = number in (signal.SIGTERM, signal.SIGINT)
        self.wanted = max(self.wanted, STOP if stop else SAVE)
        text = f"{signal.Signals(number).name}: saving{' and stopping' * stop} after this iteration"
        text += "; once more to stop at once" * (number == signal.SIGINT)
        # Not through logging: the signal may have come while the log was being written.
        os.write(2, f"{text}\n".encode())


def end_of(max_hours: float | None) -> float:
    """The time, of ``time.monotonic()``, by which a run has to end: hours from now, or the end of its Slurm job."""
    slurm = os.environ.get("SLURM_JOB_END_TIME", "")
    left = [max_hours * 3600] if max_hours else []
    # A minute for what comes after the last save.
    left += [int(slurm) - 60 - time.time()] if slurm.isdecimal() else []
    return time.monotonic() + min(left, default=float("inf"))


def requeue() -> str:
    """Put this Slurm job back into its queue; return the outcome, for the log."""
    job = os.environ.get("SLURM_JOB_ID", "")
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"train: requeue: {error} {getattr(error, 'stderr', '')}".strip()
    return f"Job {job} is back in its queue."


def leave_to_the_trainer(*_) -> None:
    """Ignore, in a process that loads images, signals to the whole group: it is needed until the iteration is done."""
    for number in TAKEN:
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """Kill the worker processes, which Python at its end would ask by SIGTERM and wait for."""
    if hasattr(signal, "SIGCHLD"):
        # PyTorch's handler raises where a worker was killed: its error would be the last line, in place of the run's.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


class Watchdog:
    """Thread that ends this process where :meth:`progress` is not called for some minutes (0: never) inside a ``with``
    block, with exit code 75 and all stacks in log and stderr; its worker processes end too.

    Where another thread keeps Python's lock, or stderr takes nothing, SIGALRM does it a minute later.
    """

    def __init__(self, minutes: float, log: Path | str, rank: int = 0):
        self.minutes, self.path, self.rank = minutes, log, rank
        self._deadline, self._ended = float("inf"), threading.Event()

    def __enter__(self):
        if self.minutes:
            self._log = open(self.path, "ab", buffering=0)
            faulthandler.register(signal.SIGALRM, self._log, chain=True)
            self.progress()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def progress(self) -> None:
        """Begin to wait anew."""
        if self.minutes:
            self._deadline = time.monotonic() + self.minutes * 60
            signal.setitimer(signal.ITIMER_REAL, self.minutes * 60 + GRACE)

    def __exit__(self, *_):
        self._ended.set()
        if self.minutes:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self):
        while (left := self._deadline - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')},000 ERROR: Process {self.rank} has made no progress for "
        line += f"{self.minutes:g} minutes (train: watchdog_minutes), exit code {NO_PROGRESS}. Its threads:\n"
        # The log first: stderr may be what hangs.
        for file in (self._log.fileno(), 2):
            with contextlib.suppress(OSError):
                os.write(file, line.encode())
                faulthandler.dump_traceback(file)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(NO_PROGRESS)
