"""Checks of an option file, before any long work starts and before anything on disk is touched."""

from contrast_arch.check.checks import check_file, find_problems
from contrast_arch.check.context import RunContext
from contrast_arch.check.parts import build_on_meta, check_backend
from contrast_arch.options.document import forced, read_options

__all__ = ["RunContext", "build_on_meta", "check_backend", "check_file", "find_problems", "forced", "read_options"]
