"""Memory of the devices."""

import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

import torch


class Memory(NamedTuple):
    """Bytes of a device: total, and free now."""

    total: int
    free: int


def device_memory(device: torch.device) -> Memory | None:
    """Memory of a GPU or, for the CPU, of the machine or container; None where the system does not say."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    memory = Memory(kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024)
    # Of a container; without a limit the text is "max".
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int(Path("/sys/fs/cgroup", f"memory.{name}").read_text()) for name in ("max", "current"))
        memory = Memory(min(memory.total, limit), min(memory.free, max(0, limit - used)))
    return memory


def peak_memory() -> int | None:
    """Most bytes of this process so far: allocated on the GPU, or without one resident; None on Windows."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
