"""BasicSR's training and test pipelines, behind checks and with one-line errors."""

import contextlib
import importlib
import logging
import os
import re
import sys
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import TrainingStopped, exit_code

# What gloo and NCCL say when another process is gone, in whatever call that shows.
LOST = re.compile(r"peer|NCCL|gloo|connect|socket|timed? ?out", re.IGNORECASE)


def run(is_train: bool) -> int:
    """Run BasicSR's pipeline on ``sys.argv`` with experiments and results under the working directory.

    Returns:
        0; 1 where the input is not usable, the reason is then on stderr and nothing on disk has changed, or where
        training cannot go on; 130 where the user interrupted it.
    """
    try:
        return exit_code(_run, is_train)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _run(is_train):
    compat.require_basicsr()
    # After that line, because it imports what BasicSR brings along.
    from contrast_arch.preflight import check_run

    name = "train" if is_train else "test"
    module = importlib.import_module(f"basicsr.{name}")
    # Before BasicSR reads it: as soon as it has, it moves the folder of an earlier run aside.
    check_run(sys.argv[1:], is_train)
    with _lost_processes():
        getattr(module, f"{name}_pipeline")(os.getcwd())
    if is_train:
        logging.getLogger("basicsr").info(f"Peak memory: {peak_memory()}")


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
    from contrast_arch.preflight import Situation, check_file

    check_file(str(file), Situation(is_train=True, auto_resume=True))
