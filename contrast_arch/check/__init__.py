"""What is wrong with an option file, found before any long work starts and before anything on disk is touched."""

from contrast_arch.check.checkpoint import check_checkpoint
from contrast_arch.check.checks import check_file, find_problems
from contrast_arch.check.network import check_backend, check_network
from contrast_arch.check.situation import Situation
from contrast_arch.options.document import forced, read_options
from contrast_arch.options.problems import Problem

__all__ = [
    "Problem",
    "Situation",
    "check_backend",
    "check_checkpoint",
    "check_file",
    "check_network",
    "find_problems",
    "forced",
    "read_options",
]
