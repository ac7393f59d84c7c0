"""Description of the machine that figures were measured on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from contrast_arch.version import __version__


def processor() -> str:
    """Name of the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


CHECKOUT = Path(__file__).parents[3]


def _first_line(*command):
    """First line that a program prints, None where it cannot be run."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.splitlines()[0] if output else None


def _installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit():
    """Short hash of a checkout's commit, or what COMMIT says; None for a package that is installed elsewhere."""
    own = (CHECKOUT / ".git").exists() and _first_line("git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD")
    return own or os.environ.get("COMMIT")


def machine(threads: int) -> dict:
    """CPU, GPU where there is one, versions, and the commit of a checkout."""
    found = {
        "cpu": processor(),
        "threads": threads,
        "contrast_arch": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
    found |= {package: _installed(package) for package in ("numba", "triton", "spandrel")}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["driver"] = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["cuda"] = torch.version.cuda or torch.version.hip
    return found | {"commit": _commit()}
