"""Test any model of BasicSR: ``python -m contrast_arch.test -opt FILE``, or ``contrast-test -opt FILE``.

Takes BasicSR's arguments (--force_yml, --launcher), and --import for the networks and models of a project. Results go
under the working directory.
"""

import sys

from contrast_arch.pipeline import run


def main() -> int:
    return run(is_train=False)


if __name__ == "__main__":
    sys.exit(main())
