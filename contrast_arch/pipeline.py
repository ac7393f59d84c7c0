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
        0; 1 where the input is not usable, the reason is then on stderr and nothing on disk has changed, or where
        training cannot go on; 130 where the user interrupted it. With ``--restarts`` also what the last start gave.
    """
    # What else stands there is for BasicSR's own parser, which in a fork may know more.
    args, _ = command_line(is_train).parse_known_args()
    try:
        if is_train and args.restarts:
            return exit_code(_run_again, args)
        return exit_code(_run, args, is_train)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def command_line(is_train: bool) -> argparse.ArgumentParser:
    """Return the parser of ``contrast-train`` or ``contrast-test``: BasicSR's arguments, and those of this package."""
    parser = argparse.ArgumentParser(
        f"contrast-{'train' if is_train else 'test'}",
        description=f"{'Train' if is_train else 'Test'} a model of BasicSR, under the working directory.",
        allow_abbrev=False,
    )
    parser.add_argument("-opt", required=True, metavar="FILE", help="an option file")
    _add_own(parser, is_train)
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="change the option file")
    parser.add_argument("--launcher", default="none", help="none, pytorch or slurm (default: %(default)s)")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the newest training state")
    parser.add_argument("--debug", action="store_true", help="BasicSR's debug mode: log and validate often")
    # Some launchers add it; BasicSR takes and ignores it.
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def _add_own(parser, is_train):
    """Add the arguments that BasicSR's own parser does not know."""
    add_import(parser)
    if is_train:
        parser.add_argument(
            "--override-state",
            "--override_state",
            action="store_true",
            help="resume with the learning rate, the optimizer's values and the schedule of the option file, not of "
            "the training state",
        )
        add_trainer(parser)
        _add_restarts(parser)
        parser.add_argument(
            "--progress",
            action=argparse.BooleanOptionalAction,
            help="show progress bars (default: where stderr is a terminal)",
        )


def _add_restarts(parser):
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="start again after a crash (a signal, out of memory, an unexpected error, watchdog_minutes), from the "
        "newest state: at most N times until a newer one is saved, after 10, 20, 40 ... at most 600 seconds; for one "
        "process (default: %(default)s)",
    )


def add_trainer(parser: argparse.ArgumentParser) -> None:
    """Add ``--trainer`` to a command line."""
    parser.add_argument(
        "--trainer",
        choices=("contrast", "basicsr"),
        default="contrast",
        help="contrast: the loop of this package, for every model; basicsr: BasicSR's own, unchanged "
        "(default: %(default)s)",
    )


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add ``--import`` to a command line; ``args.imports`` are its values."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module that registers networks or models of a project, such as hat; may be repeated "
        "(in an option file: imports: [hat])",
    )


def _run_again(args):
    from contrast_arch.training import restarts

    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_restarts(own)
    return restarts.run(args, own.parse_known_args(sys.argv[1:])[1])


def _run(args, is_train):
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_own(own, is_train)
    basicsr = is_train and args.trainer == "basicsr"
    if basicsr and args.override_state:
        raise InputError("--override-state: BasicSR's trainer resumes with the state's values; leave --trainer out")
    compat.require_basicsr()
    # After that line, because it imports what BasicSR brings along.
    from contrast_arch.check import RunContext, check_file

    settings = (args.launcher, args.force_yml, args.auto_resume, args.debug)
    # Before BasicSR reads it: as soon as it has, it moves the folder of an earlier run aside.
    own_trainer = {"override_state": args.override_state, "trainer": args.trainer} if is_train else {}
    check_file(args.opt, RunContext(is_train, *settings, imports=args.imports, **own_trainer))
    earlier = sys.argv
    try:
        sys.argv = [earlier[0], *own.parse_known_args(earlier[1:])[1]]
        if basicsr:
            from basicsr.train import train_pipeline

            train_pipeline(os.getcwd())
        else:
            _own_loop(args, is_train, f"# GENERATE TIME: {time.asctime()}\n# CMD:\n# {' '.join(earlier)}\n\n")
    finally:
        sys.argv = earlier


def _own_loop(args, is_train, header):
    """Train or test in this package's loop.

    Args:
        header: of the experiment's copy of the option file, as BasicSR writes it.
    """
    import basicsr.utils.options as options

    from contrast_arch.options.document import forced, read_options
    from contrast_arch.training import loop
    from contrast_arch.training.distributed import lost_processes, processes_on_cpus

    with lost_processes():
        with processes_on_cpus():
            opt, _ = options.parse_options(os.getcwd(), is_train=is_train)
        opt["root_path"] = os.getcwd()
        if not is_train:
            loop.test(opt)
            return
        # BasicSR draws a new seed for every start, and so other crops for a run that is resumed.
        opt["manual_seed"] = forced(read_options(args.opt), args.force_yml).get("manual_seed")
        # Now: it may lie in the folder of an earlier run, which is moved aside.
        copy = Path(args.opt).name, header + Path(args.opt).read_text(encoding="utf-8")
        bar = sys.stderr.isatty() if args.progress is None else args.progress
        loop.train(opt, copy, args.override_state, bar)


def check(file: Path) -> None:
    """Check all that training checks before it starts.

    Args:
        file: an option file; what ``--auto_resume`` would go on from is checked with it.

    Raises:
        InputError: all that is wrong.
    """
    compat.require_basicsr()
    from contrast_arch.check import RunContext, check_file

    check_file(str(file), RunContext(is_train=True, auto_resume=True))
