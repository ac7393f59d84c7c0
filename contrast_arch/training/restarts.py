"""A run that starts again after a crash: ``contrast-train --restarts N``."""

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from contrast_arch.errors import CRASHED, NO_PROGRESS, InputError
from contrast_arch.options.document import forced, read_options
from contrast_arch.training.signals import TAKEN

# Seconds before a restart: each pause is twice the one before it.
FIRST_PAUSE, LONGEST_PAUSE = 10, 600
# The end of a training or a stop, an error with a message of ours, a wrong command line, Ctrl-C.
FINAL = (0, 1, 2, 130)
REASONS = {NO_PROGRESS: "it made no progress (train: watchdog_minutes)", CRASHED: "unexpected error, see its traceback"}


def run(args: argparse.Namespace, arguments: list[str]) -> int:
    """Train in a process of its own, and start that again after a crash.

    A start goes on from the newest state as soon as one was saved under this call; before, it is the start that the
    user asked for. A saved state makes the budget full again.

    Args:
        args, arguments: of contrast-train, and of the process.

    Returns:
        Exit code of the last start; 128 + N where signal N ended it.
    """
    if args.restarts < 0 or args.launcher != "none":
        text = "expected 0 or more, and no launcher: one process alone would wait for the others, see docs/cluster.md"
        raise InputError(f"--restarts {args.restarts} --launcher {args.launcher}: {text}")
    # Any other entry would import BasicSR, and stay in memory for days.
    entries = [entry for entry in args.force_yml if entry.split("=")[0].strip() == "name"]
    name = str(forced(read_options(args.opt), entries).get("name"))
    folder = Path("experiments", f"debug_{name}" if args.debug and not name.startswith("debug") else name)
    restarts, resuming, stopped, process = 0, [], threading.Event(), None

    def states():
        return {(path.name, path.lstat().st_mtime_ns) for path in folder.glob("training_states/*.state")}

    def pass_on(number, frame):
        if number in (signal.SIGTERM, signal.SIGINT):
            stopped.set()
        if process:
            # A terminal sends Ctrl-C to both processes, and a second SIGINT would end the run at once.
            process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    for number in TAKEN:
        signal.signal(number, pass_on)
    while True:
        before = states()
        process = subprocess.Popen([sys.executable, "-m", "contrast_arch.train", *arguments, *resuming])
        code = process.wait()
        if states() - before:
            restarts, resuming = 0, ["--auto_resume"]
        if code in FINAL or stopped.is_set():
            break
        reason = REASONS.get(code, f"exit code {code}")
        if code < 0:
            reason = f"ended by signal {-code} ({signal.strsignal(-code)})"
        if restarts == args.restarts:
            _say(f"Crashed: {reason}; no restart is left, {restarts} have brought no newer state.")
            break
        pause, restarts = min(FIRST_PAUSE * 2**restarts, LONGEST_PAUSE), restarts + 1
        _say(f"Crashed: {reason}; restart {restarts} of {args.restarts} in {pause} seconds.")
        if stopped.wait(pause):
            break
    return code if code >= 0 else 128 - code


def _say(message):
    print(time.strftime("%Y-%m-%d %H:%M:%S"), "WARNING:", message, file=sys.stderr, flush=True)
