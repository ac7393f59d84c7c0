"""A run that starts again after a crash: ``contrast-train --restarts N``."""

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from contrast_arch.errors import CRASHED, NO_PROGRESS, InputError
from contrast_arch.training.signals import TAKEN

# Seconds before a restart: each pause is twice the one before it.
FIRST_PAUSE, LONGEST_PAUSE = 10, 600
# The end of a training or a stop, an error with a message of ours, a wrong command line, Ctrl-C.
FINAL = (0, 1, 2, 130)
REASONS = {NO_PROGRESS: "it made no progress (train: watchdog_minutes)", CRASHED: "unexpected error, see its traceback"}
HOW_ELSE = {
    "pytorch": "torchrun restarts its processes by itself: torchrun --max-restarts={}",
    "slurm": "a task that starts alone would wait for the others; put the job back into the queue (docs/cluster.md)",
}


def run(args: argparse.Namespace, arguments: list[str]) -> int:
    """Train in a process of its own, and start that again after a crash.

    A start goes on from the newest state as soon as one was saved under this call; before, it is the start that the
    user asked for. A saved state makes the budget full again.

    Args:
        args, arguments: of contrast-train, and of the process.

    Returns:
        Exit code of the last start; 128 + N where signal N ended it.
    """
    if args.restarts < 0:
        raise InputError(f"--restarts {args.restarts}: expected 0 or more")
    if args.launcher != "none":
        how_else = HOW_ELSE.get(args.launcher, "its processes start together").format(args.restarts)
        raise InputError(f"--restarts {args.restarts} --launcher {args.launcher}: {how_else}; leave --restarts out")
    experiment, restarts, resuming = _experiment(args), 0, []
    states, stopped, process = _states(experiment), threading.Event(), None

    def pass_on(number, frame):
        if number in (signal.SIGTERM, signal.SIGINT):
            stopped.set()
        if process:
            # A terminal sends Ctrl-C to both processes, and a second SIGINT would end the run at once.
            process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    for number in TAKEN:
        signal.signal(number, pass_on)
    while True:
        process = subprocess.Popen([sys.executable, "-m", "contrast_arch.train", *arguments, *resuming])
        code, before, states = process.wait(), states, _states(experiment)
        if states - before:
            restarts, resuming = 0, ["--auto_resume"]
        if code in FINAL or stopped.is_set():
            break
        reason = REASONS.get(code, f"exit code {code}")
        if code < 0:
            reason = f"ended by signal {-code} ({signal.strsignal(-code)})"
        if restarts == args.restarts:
            _say(experiment, f"Crashed: {reason}; no restart is left, {restarts} have brought no newer state.")
            break
        pause, restarts = min(FIRST_PAUSE * 2**restarts, LONGEST_PAUSE), restarts + 1
        _say(experiment, f"Crashed: {reason}; restart {restarts} of {args.restarts} in {pause} seconds.")
        if stopped.wait(pause):
            break
    return code if code >= 0 else 128 - code


def _experiment(args):
    """Folder of the run."""
    from contrast_arch.options.document import forced, read_options

    # Any other entry would import BasicSR, and stay in memory for days.
    entries = [entry for entry in args.force_yml if entry.split("=")[0].strip() == "name"]
    name = str(forced(read_options(args.opt), entries).get("name"))
    return Path("experiments", f"debug_{name}" if args.debug and not name.startswith("debug") else name)


def _states(experiment):
    """The training states of a run, with the times at which they were written."""
    return {(path.name, path.lstat().st_mtime_ns) for path in experiment.glob("training_states/*.state")}


def _say(experiment, message):
    """Write a line to stderr and to the newest log of the run."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')},000 WARNING: {message}\n"
    sys.stderr.write(line)
    with contextlib.suppress(OSError, ValueError):
        newest = max(experiment.glob("train_*.log"), key=lambda path: path.stat().st_mtime_ns)
        with newest.open("a") as log:
            log.write(line)
