"""Description of the machine that figures were measured on."""

import os
import platform
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import torch

from contrast_arch.version import __version__

CHECKOUT = Path(__file__).parents[3]


def _first_line(*command):
    """First line that a program prints, None where it cannot be run."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.partition("\n")[0] or None


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
        found["driver"] = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["cuda"] = torch.version.cuda or torch.version.hip
    # A package that is installed may lie in another project's repository.
    own = (CHECKOUT / ".git").exists() and _first_line("git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD")
    return found | {"commit": own or os.environ.get("COMMIT")}
