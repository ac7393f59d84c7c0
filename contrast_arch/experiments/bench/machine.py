"""Description of the machine that figures were measured on."""

import os
import platform
import re
import shlex
from importlib.metadata import distributions
from pathlib import Path

import torch
from torch.utils import collect_env

from contrast_arch.version import __version__

CHECKOUT = Path(__file__).parents[3]


def machine(threads: int) -> dict:
    """CPU, GPU where there is one, versions, and the commit of a checkout (elsewhere the variable COMMIT, or None)."""
    information = Path("/proc/cpuinfo")
    processor = re.search(r"^model name\s*: (.*)", information.read_text(), re.M) if information.exists() else None
    installed = {package.name: package.version for package in distributions()}
    found = {
        "cpu": processor[1] if processor else platform.processor(),
        "threads": threads,
        "contrast_arch": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        **{package: installed.get(package) for package in ("numba", "triton", "spandrel")},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["driver"] = collect_env.get_nvidia_driver_version(collect_env.run)
        found["cuda"] = torch.version.cuda or torch.version.hip
    git = shlex.join(["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"])
    # A package that is installed may lie in another project's repository.
    own = (CHECKOUT / ".git").exists() and collect_env.run_and_read_all(collect_env.run, git)
    return found | {"commit": own or os.environ.get("COMMIT")}
