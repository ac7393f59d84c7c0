"""Train any model of BasicSR: ``python -m contrast_arch.train -opt FILE``, or ``contrast-train -opt FILE``."""

import logging
import sys

from contrast_arch.errors import CRASHED
from contrast_arch.pipeline import run


def main() -> int:
    """Run ``contrast-train``; 70 after an unexpected error, whose traceback goes to stderr and the log of the run."""
    try:
        return run(is_train=True)
    except Exception:
        logging.getLogger("basicsr").exception("Unexpected error")
        return CRASHED


if __name__ == "__main__":
    sys.exit(main())
