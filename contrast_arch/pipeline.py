"""contrast-train and contrast-test: the command line, checks before the start, and one-line errors."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import CRASHED, NO_PROGRESS, InputError, exit_code
from contrast_arch.training.signals import TAKEN

# Seconds before a restart: each pause is twice the one before it.
FIRST_PAUSE, LONGEST_PAUSE = 10, 600
# The end of a training or a stop, an error with a message of ours, a wrong command line, Ctrl-C.
FINAL = (0, 1, 2, 130)
REASONS = {NO_PROGRESS: "it made no progress (train: watchdog_minutes)", CRASHED: "unexpected error, see its traceback"}


def run(is_train: bool) -> int:
    """Train or test as ``sys.argv`` says, with experiments and results under the working directory.

    Returns:
        See :func:`~contrast_arch.errors.exit_code`: 1 where the input is not usable (nothing on disk has changed then)
        or training cannot go on. With ``--restarts`` the code of the last start.
    """
    args, unknown = command_line(is_train).parse_known_args()
    if is_train and args.restarts:
        # The last number counts.
        return exit_code(restarted, args, [*sys.argv[1:], "--restarts", "0"])
    return exit_code(_run, args, unknown, is_train)


def command_line(is_train: bool) -> argparse.ArgumentParser:
    """Return the parser of ``contrast-train`` or ``contrast-test``: BasicSR's arguments, and those of this package."""
    action = "train" if is_train else "test"
    description = f"{action.title()} a model of BasicSR, under the working directory."
    parser = argparse.ArgumentParser(f"contrast-{action}", description=description, allow_abbrev=False)
    add = parser.add_argument
    add("-opt", required=True, metavar="FILE", help="an option file")
    add_import(parser)
    if is_train:
        override = "resume with the optimizer's values and the schedule of the option file, not of the training state"
        add("--override-state", "--override_state", action="store_true", help=override)
        which = "contrast: the loop of this package, for every model; basicsr: BasicSR's own (default: %(default)s)"
        add("--trainer", choices=("contrast", "basicsr"), default="contrast", help=which)
        restarts = "start one process again after a crash, from the newest state, at most N times until a newer one"
        add("--restarts", type=int, default=0, metavar="N", help=f"{restarts} (default: %(default)s)")
        progress = "show progress bars (default: where stderr is a terminal)"
        add("--progress", action=argparse.BooleanOptionalAction, help=progress)
    add("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="change the option file")
    add("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="(default: %(default)s)")
    add("--auto_resume", action="store_true", help="go on from the newest training state")
    add("--debug", action="store_true", help="BasicSR's debug mode: log and validate often")
    return parser


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add ``--import`` to a command line; ``args.imports`` are its values."""
    which = "a module that registers networks or models, such as hat; may be repeated (in an option file: imports)"
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=which)


def _run(args, unknown, is_train):
    """Check, and train or test; arguments that are unknown here are for BasicSR's parser, which a fork may extend."""
    compat.require_basicsr()
    # After that line, because they import what BasicSR brings along.
    from contrast_arch.check import RunContext, check_file
    from contrast_arch.options.document import forced, read_options

    override, by_basicsr = (is_train and args.override_state), (is_train and args.trainer == "basicsr")
    if by_basicsr and override:
        raise InputError("--override-state: BasicSR's trainer resumes with the state's values; leave --trainer out")
    settings = (args.launcher, args.force_yml, args.auto_resume, args.debug)
    # Before BasicSR reads it: as soon as it has, it moves the folder of an earlier run aside.
    check_file(args.opt, RunContext(is_train, *settings, imports=args.imports, override_state=override))
    flags = [f"--{name}" for name in ("auto_resume", "debug") if getattr(args, name)]
    flags += ["--force_yml", *args.force_yml] if args.force_yml else []
    earlier = sys.argv
    sys.argv = [earlier[0], *unknown, "-opt", args.opt, "--launcher", args.launcher, *flags]
    try:
        if by_basicsr:
            from basicsr.train import train_pipeline

            return train_pipeline(os.getcwd())
        import torch
        from basicsr.utils import options

        from contrast_arch.training import loop
        from contrast_arch.training.distributed import lost_processes, processes_on_cpus

        with lost_processes():
            with processes_on_cpus():
                opt, _ = options.parse_options(os.getcwd(), is_train=is_train)
            opt["root_path"] = os.getcwd()
            if not torch.cuda.is_available():
                opt["num_gpu"] = 0  # "auto" counted the one that stands in for BasicSR's
            if not is_train:
                return loop.test(opt)
            # BasicSR draws a new seed for every start, and so other crops for a run that is resumed.
            opt["manual_seed"] = forced(read_options(args.opt), args.force_yml).get("manual_seed")
            # Now, and as BasicSR writes it: it may lie in the folder of an earlier run, which is moved aside.
            head = f"# GENERATE TIME: {time.asctime()}\n# CMD:\n# {' '.join(earlier)}\n\n"
            copy = Path(args.opt).name, head + Path(args.opt).read_text(encoding="utf-8")
            bar = sys.stderr.isatty() if args.progress is None else args.progress
            return loop.Trainer(opt, copy, override, bar).run()
    finally:
        sys.argv = earlier


def check(file: Path) -> None:
    """Check an option file as training with ``--auto_resume`` does before it starts."""
    from contrast_arch.check import RunContext, check_file

    check_file(str(file), RunContext(is_train=True, auto_resume=True))


def restarted(args: argparse.Namespace, arguments: list[str]) -> int:
    """Train in a process of its own, and start that again after a crash, ``--restarts`` times.

    A start goes on from the newest state as soon as one was saved under this call; before, it is the start that the
    user asked for. A saved state makes the budget full again. The exit code is that of the last start; 128 + N where
    signal N ended it.

    Args:
        args, arguments: of contrast-train, and of the process.
    """
    from contrast_arch.options.document import forced, read_options

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
