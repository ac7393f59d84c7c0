"""The end of a run that hangs: stacks of all threads, and an exit code for the queue."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from contrast_arch.errors import NO_PROGRESS

# Seconds after which a process ends by a signal, if it could not end itself.
GRACE = 60
# Windows has none.
HAS_ALARM = hasattr(signal, "setitimer")


class Watchdog:
    """Thread that ends this process where it makes no progress, with exit code 75 and all stacks in log and stderr.

    Where another thread keeps Python's lock, or stderr takes nothing, SIGALRM ends the process a minute later; the
    stacks are in the log then too. Worker processes end with it.

    Args:
        minutes: longest time between two calls of :meth:`progress`; 0 watches nothing.
        log: file of the run's log.
        rank: of this process.
    """

    def __init__(self, minutes: float, log: Path | str, rank: int = 0):
        self.minutes, self.path, self.rank = minutes, log, rank
        self._deadline, self._ended = float("inf"), threading.Event()

    def start(self) -> None:
        """Watch from here on."""
        if not self.minutes:
            return
        self._log = open(self.path, "ab", buffering=0)  # noqa: SIM115
        if HAS_ALARM:
            faulthandler.register(signal.SIGALRM, self._log, chain=True)
        self.progress()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def progress(self) -> None:
        """Begin to wait anew."""
        self._deadline = time.monotonic() + self.minutes * 60
        self._set_alarm(self.minutes * 60 + GRACE)

    def stop(self) -> None:
        """Watch no more."""
        self._ended.set()
        self._set_alarm(0)

    def _set_alarm(self, seconds):
        if self.minutes and HAS_ALARM:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _watch(self):
        while (left := self._deadline - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        self._end()

    def _end(self):
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        line = f"{now},000 ERROR: Process {self.rank} has made no progress for {self.minutes:g} minutes "
        line += f"(train: watchdog_minutes) and ends with exit code {NO_PROGRESS}. Its threads:\n"
        # The log first: stderr may be what hangs.
        for file in (self._log.fileno(), 2):
            with contextlib.suppress(OSError):
                os.write(file, line.encode())
                faulthandler.dump_traceback(file)
        # A worker that hangs would stay, and keep stdout open for whoever reads it.
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(NO_PROGRESS)
