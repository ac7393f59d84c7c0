"""Signals and times at which a training run is to save or to end."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time

NOTHING, SAVE, STOP, TIME_IS_UP = range(4)
# Windows has no SIGUSR1.
TAKEN = tuple(filter(None, (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", None))))


class Requests:
    """Requests of SIGTERM and SIGINT (save and end) and SIGUSR1 (save and go on) since :meth:`listen`.

    A second SIGINT ends the run at once, as a KeyboardInterrupt.

    Attributes:
        wanted: ``NOTHING``, ``SAVE`` or ``STOP``.
    """

    def __init__(self):
        self.wanted = NOTHING
        self._interrupted = False
        self._earlier = {}

    def listen(self) -> None:
        """Take the signals over; nothing outside the main thread, where Python allows no handler."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in TAKEN:
            self._earlier[number] = signal.signal(number, self._take)

    def ignore(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    def done(self) -> None:
        """Forget a request to save; a request to end stays."""
        if self.wanted == SAVE:
            self.wanted = NOTHING

    def _take(self, number, frame):
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        stop = number in (signal.SIGTERM, signal.SIGINT)
        self.wanted = max(self.wanted, STOP if stop else SAVE)
        what = "saving and stopping" if stop else "saving"
        again = "; once more to stop at once" if number == signal.SIGINT else ""
        # Not through logging: the signal may have come while the log was being written.
        os.write(2, f"{signal.Signals(number).name}: {what} after this iteration{again}\n".encode())


class TimeLimit:
    """The moment by which a run has to end: ``train: max_hours`` from now, or the end of its Slurm job.

    Args:
        max_hours: None for no limit but Slurm's.
    """

    def __init__(self, max_hours: float | None):
        slurm = os.environ.get("SLURM_JOB_END_TIME", "")
        left = [max_hours * 3600] if max_hours else []
        # A minute for what comes after the last save.
        left += [int(slurm) - 60 - time.time()] if slurm.isdecimal() else []
        # A clock that is set anew in the meantime ends no run.
        self.end = time.monotonic() + min(left, default=float("inf"))

    def is_near(self, needed: float) -> bool:
        """True if less time is left than twice the seconds that another iteration and a save need."""
        return time.monotonic() + 2 * needed > self.end


def requeue() -> str:
    """Put this Slurm job back into its queue; return what came of it, for the log."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return "train: requeue: this is no Slurm job, and is not put back into a queue"
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        failure = result.stderr.strip() if result.returncode else ""
    except OSError as error:
        failure = str(error)
    return f"scontrol requeue {job} failed: {failure}" if failure else f"Job {job} is back in its queue."


def leave_to_the_trainer(*_) -> None:
    """For worker processes that load images: a signal to the whole group must not end them before the iteration."""
    for number in TAKEN:
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """Kill the worker processes of this one, which Python at its end would ask by SIGTERM and wait for.

    Called in the main thread. PyTorch's handler of SIGCHLD, which raises where a worker was killed, has no part in it:
    its error would be the last line, in place of the one that ended the run.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    number = getattr(signal, "SIGCHLD", None)  # Windows has none
    handler = number and signal.signal(number, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    if number:
        signal.signal(number, handler or signal.SIG_DFL)
