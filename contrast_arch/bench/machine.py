"""What the figures were measured on."""

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


def first_line(*command: str, folder: Path | None = None) -> str | None:
    """First line that a program prints, None where it cannot be run."""
    try:
        output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.splitlines()[0] if output else None


def _installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(threads: int) -> dict:
    """CPU, GPU where there is one, and versions."""
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
        found["driver"] = first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["cuda"] = torch.version.cuda or torch.version.hip
    return found
