"""The tests here import BasicSR at their top, which works once the package has mended it."""

import contrast_arch  # noqa: F401
