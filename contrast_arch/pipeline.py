"""BasicSR's training and test pipelines, behind checks and with one-line errors."""

import argparse
import contextlib
import importlib
import logging
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import TrainingStopped, exit_code
from contrast_arch.version import __version__

# What gloo and NCCL say when another process is gone, in whatever call that shows.
LOST = re.compile(r"peer|NCCL|gloo|connect|socket|timed? ?out", re.IGNORECASE)


def run(is_train: bool) -> int:
    """Run BasicSR's pipeline on ``sys.argv`` with experiments and results under the working directory.

    Returns:
        0; 1 where the input is not usable, the reason is then on stderr and nothing on disk has changed, or where
        training cannot go on; 130 where the user interrupted it.
    """
    # What else stands there is for BasicSR's own parser, which in a fork may know more.
    args, _ = command_line(is_train).parse_known_args()
    try:
        return exit_code(_run, args, is_train)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def command_line(is_train: bool) -> argparse.ArgumentParser:
    """Return the parser of ``contrast-train`` or ``contrast-test``: BasicSR's arguments, and ``--import``."""
    parser = argparse.ArgumentParser(
        f"contrast-{'train' if is_train else 'test'}",
        description=f"{'Train' if is_train else 'Test'} with BasicSR's own pipeline, under the working directory.",
        allow_abbrev=False,
    )
    parser.add_argument("-opt", required=True, metavar="FILE", help="an option file")
    add_import(parser)
    if is_train:
        add_override_state(parser)
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="change the option file")
    parser.add_argument("--launcher", default="none", help="none, pytorch or slurm (default: %(default)s)")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the newest training state")
    parser.add_argument("--debug", action="store_true", help="BasicSR's debug mode: log and validate often")
    # Some launchers add it; BasicSR takes and ignores it.
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


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


def add_override_state(parser: argparse.ArgumentParser) -> None:
    """Add ``--override-state`` to a command line."""
    parser.add_argument(
        "--override-state",
        "--override_state",
        action="store_true",
        help="resume with the learning rate, the optimizer's values and the schedule of the option file, not of the "
        "training state",
    )


def _run(args, is_train):
    compat.require_basicsr()
    # After that line, because it imports what BasicSR brings along.
    from contrast_arch.check import Situation, check_file

    name = "train" if is_train else "test"
    module = importlib.import_module(f"basicsr.{name}")
    override = is_train and args.override_state
    situation = Situation(
        is_train,
        args.launcher,
        args.force_yml,
        args.auto_resume,
        args.debug,
        imports=args.imports,
        override_state=override,
    )
    # Before BasicSR reads it: as soon as it has, it moves the folder of an earlier run aside.
    check_file(args.opt, situation)
    with contextlib.ExitStack() as changes:
        changes.enter_context(_basicsrs_command_line(is_train))
        changes.enter_context(_environment_logged(module))
        changes.enter_context(_options_kept(module, args.opt))
        changes.enter_context(_lost_processes())
        if override:
            changes.enter_context(_state_overridden(module))
        getattr(module, f"{name}_pipeline")(os.getcwd())
    if is_train:
        logging.getLogger("basicsr").info(f"Peak memory: {peak_memory()}")


@contextlib.contextmanager
def _basicsrs_command_line(is_train):
    """Leave out of ``sys.argv`` what BasicSR's own parser does not know."""
    earlier = sys.argv
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_import(parser)
    if is_train:
        add_override_state(parser)
    sys.argv = [earlier[0], *parser.parse_known_args(earlier[1:])[1]]
    try:
        yield
    finally:
        sys.argv = earlier


@contextlib.contextmanager
def _environment_logged(module):
    """Log which BasicSR runs with what BasicSR logs of its environment."""
    original = getattr(module, "get_env_info", str)

    def get_env_info():
        return f"{original()}\n\tcontrast_arch: {__version__}, run by BasicSR {compat.basicsr_in_use()}"

    module.get_env_info = get_env_info
    try:
        yield
    finally:
        module.get_env_info = original


@contextlib.contextmanager
def _state_overridden(module):
    """Give the training state that is resumed the values of the option file, for ``--override-state``."""
    from contrast_arch.check.parts import optimizer_and_scheduler
    from contrast_arch.models.resuming import fit_state

    original = module.load_resume_state

    def load_resume_state(opt):
        state = original(opt)
        if state is not None:
            fit_state(*optimizer_and_scheduler(opt), opt, state, override=True)
        return state

    module.load_resume_state = load_resume_state
    try:
        yield
    finally:
        module.load_resume_state = original


@contextlib.contextmanager
def _options_kept(module, file):
    """Keep the option file for BasicSR's copy in the experiment: it may be that copy, of an earlier run.

    BasicSR would copy it onto itself where it resumes the run, and not find it where it has moved the run aside.
    """
    original = getattr(module, "copy_opt_file", None)
    if original is None:  # tests, and older trainers
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = shutil.copy(file, folder)

        def copy_opt_file(_, experiments_root):
            # BasicSR makes the folders of new runs only; a run may go on from the state of another.
            for name in ("models", "training_states", "visualization"):
                os.makedirs(os.path.join(experiments_root, name), exist_ok=True)
            original(kept, experiments_root)

        module.copy_opt_file = copy_opt_file
        try:
            yield
        finally:
            module.copy_opt_file = original


@contextlib.contextmanager
def _lost_processes():
    """Say in one line that another process of the run is gone, which PyTorch says in many ways."""
    try:
        yield
    except RuntimeError as error:
        # Set by torchrun, and by BasicSR under Slurm.
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not LOST.search(str(error)):
            raise
        raise TrainingStopped(
            f"another process of this run has ended or does not answer ({str(error).splitlines()[0]}); look for its "
            "message above. What is saved is whole: the same command with --auto_resume goes on from there"
        ) from error


def peak_memory() -> str:
    """The most memory that this process has had so far, such as ``1234 MiB (allocated, GPU)``."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() >> 20} MiB (allocated, GPU)"
    try:
        import resource
    except ImportError:  # Windows
        return "not known"

    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20} MiB (resident, CPU)"


def check(file: Path) -> None:
    """Everything that training looks at before it starts.

    Args:
        file: an option file; what ``--auto_resume`` would go on from is checked with it.

    Raises:
        InputError: all that is wrong.
    """
    compat.require_basicsr()
    from contrast_arch.check import Situation, check_file

    check_file(str(file), Situation(is_train=True, auto_resume=True))
