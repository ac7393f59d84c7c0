"""BasicSR's training and test pipelines, behind checks and with one-line errors."""

import importlib
import logging
import os
import sys
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import exit_code


def run(is_train: bool) -> int:
    """Run BasicSR's pipeline on ``sys.argv`` with experiments and results under the working directory.

    Returns:
        0, or 1 where the input is not usable; the reason is then on stderr and nothing on disk has changed.
    """
    return exit_code(_run, is_train)


def _run(is_train):
    compat.require_basicsr()
    # After that line, because it imports what BasicSR brings along.
    from contrast_arch.preflight import check_run

    name = "train" if is_train else "test"
    module = importlib.import_module(f"basicsr.{name}")
    # Before BasicSR reads it: as soon as it has, it moves the folder of an earlier run aside.
    check_run(sys.argv[1:], is_train)
    getattr(module, f"{name}_pipeline")(os.getcwd())
    if is_train:
        logging.getLogger("basicsr").info(f"Peak memory: {peak_memory()}")


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
