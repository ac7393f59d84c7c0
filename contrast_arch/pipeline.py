"""BasicSR's training and test pipelines, behind checks and with one-line errors."""

import importlib
import os
import sys

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
