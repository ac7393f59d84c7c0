"""BasicSR's training and test pipelines, behind checks and with one-line errors."""

import contextlib
import importlib
import io
import logging
import os
import sys
from pathlib import Path
from unittest import mock

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
    from contrast_arch.preflight import check_option_file, check_options

    name = "train" if is_train else "test"
    module = importlib.import_module(f"basicsr.{name}")
    check_option_file(sys.argv[1:], is_train)
    with compat.checked_options(module, check_options):
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
        InputError: the first thing that is wrong.
    """
    compat.require_basicsr()
    from basicsr.utils.options import parse_options

    from contrast_arch.preflight import check_option_file, check_options

    arguments = ["-opt", str(file), "--auto_resume"]
    check_option_file(arguments, is_train=True)
    # BasicSR's reader takes its arguments from there only, and prints that nothing is distributed.
    with mock.patch.object(sys, "argv", ["contrast-train", *arguments]), contextlib.redirect_stdout(io.StringIO()):
        options, _ = parse_options(os.getcwd(), is_train=True)
    check_options(options)
