"""Train any model of BasicSR: ``python -m contrast_arch.train -opt FILE``, or ``contrast-train -opt FILE``.

Takes BasicSR's arguments (--force_yml, --auto_resume, --launcher, --debug), --import for the networks and models of a
project, and --restarts for starts after a crash. Experiments go under the working directory.
"""

import logging
import sys

from contrast_arch.errors import CRASHED
from contrast_arch.pipeline import run


def main() -> int:
    """Run ``contrast-train``.

    Returns:
        See :func:`~contrast_arch.pipeline.run`; 70 after an unexpected error, whose traceback is on stderr and in the
        log of the run.
    """
    try:
        return run(is_train=True)
    except Exception:
        # Without a log yet, logging writes to stderr alone.
        logging.getLogger("basicsr").exception("Unexpected error")
        return CRASHED


if __name__ == "__main__":
    sys.exit(main())
