"""Train with BasicSR's own pipeline: ``python -m contrast_arch.train -opt FILE``, or ``contrast-train -opt FILE``.

Takes BasicSR's arguments (--force_yml, --auto_resume, --launcher, --debug), and --import for the networks and models of
a project. Experiments go under the working directory.
"""

import sys

from contrast_arch.pipeline import run


def main() -> int:
    return run(is_train=True)


if __name__ == "__main__":
    sys.exit(main())
