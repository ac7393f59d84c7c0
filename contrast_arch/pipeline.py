"""contrast-train and contrast-test: the command line, checks before the start, and one-line errors."""

import argparse
import os
import sys
import time
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import InputError, exit_code


def run(is_train: bool) -> int:
    """Train or test as ``sys.argv`` says, with experiments and results under the working directory.

    Returns:
        See :func:`~contrast_arch.errors.exit_code`: 1 where the input is not usable (nothing on disk has changed then)
        or training cannot go on. With ``--restarts`` the code of the last start.
    """
    args, unknown = command_line(is_train).parse_known_args()
    if is_train and args.restarts:
        from contrast_arch.training import restarts

        # The last number counts.
        return exit_code(restarts.run, args, [*sys.argv[1:], "--restarts", "0"])
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
