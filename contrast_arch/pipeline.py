"""BasicSR's training and test pipelines, behind checks and with one-line errors."""

import importlib
import os
import sys

from contrast_arch import compat
from contrast_arch.errors import InputError


def run(is_train: bool) -> int:
    """Run BasicSR's pipeline on ``sys.argv`` with experiments and results under the working directory.

    Returns:
        0, or 1 where the input is not usable; the reason is then on stderr and nothing on disk has changed.
    """
    try:
        if not compat.basicsr_installed():
            raise InputError(f"BasicSR is not installed: {compat.HOW_TO_INSTALL}")
        try:
            compat.mend_basicsr()
        except Exception as error:
            raise InputError(f"BasicSR does not import: {error}; to install it: {compat.HOW_TO_INSTALL}") from error
        from contrast_arch.preflight import check_option_file, check_options

        name = "train" if is_train else "test"
        module = importlib.import_module(f"basicsr.{name}")
        check_option_file(sys.argv[1:], is_train)
        with compat.checked_options(module, check_options):
            getattr(module, f"{name}_pipeline")(os.getcwd())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
