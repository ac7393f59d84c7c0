"""Test any model of BasicSR: ``python -m contrast_arch.test -opt FILE``, or ``contrast-test -opt FILE``."""

import sys

from contrast_arch.pipeline import run


def main() -> int:
    """Run ``contrast-test``."""
    return run(is_train=False)


if __name__ == "__main__":
    sys.exit(main())
