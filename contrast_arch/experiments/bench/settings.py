"""Settings of ``contrast-arch bench``, checked before anything is measured."""

from dataclasses import dataclass

import torch

from contrast_arch.check import check_backend
from contrast_arch.errors import InputError
from contrast_arch.weights.load import check_device

PUBLISHED = {"batch": [8], "patch": 64}
QUICK = {"batch": [1], "patch": 32}


@dataclass
class Settings:
    """The published comparison's unless given: batch 8, 64x64 LQ, X4.

    Args:
        device: "cpu", "cuda" or "cuda:N"; None takes the GPU where PyTorch sees one.
        batch: images of an iteration, one number or more, small ones first; None is 8, or 1 with ``quick``.
        patch: side of the LQ images; None is 64, or 32 with ``quick``.
        scale: of all networks.
        rounds: how often each network is timed.
        threads: of PyTorch on the CPU; None leaves them.
        minutes: no round begins after so long, the first excepted; None for all rounds.
        quick: small images, for a CPU.
        sides: of single LQ images on which Contrast is measured too, on the CPU.
        core: whether SS2D's core is measured by backend too.

    Raises:
        InputError: a value out of range, or a device that is not there.
    """

    device: str | None = None
    batch: list[int] | None = None
    patch: int | None = None
    scale: int = 4
    rounds: int = 5
    threads: int | None = None
    minutes: float | None = None
    quick: bool = False
    sides: list[int] | None = None
    core: bool = False

    def __post_init__(self):
        for name in ("batch", "patch"):
            if getattr(self, name) is None:
                setattr(self, name, (QUICK if self.quick else PUBLISHED)[name])
        if self.threads is None:
            self.threads = torch.get_num_threads()
        self.batch = sorted(set(self.batch))
        for name in ("batch", "sides", "patch", "scale", "rounds", "threads"):
            values = getattr(self, name) or []
            for value in values if name in ("batch", "sides") else [getattr(self, name)]:
                most = 1024 if name == "threads" else 10**6
                if not 1 <= value <= most:
                    raise InputError(f"--{name} {value}: expected a whole number from 1 to {most}")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"--minutes {self.minutes}: expected more than 0, or none for all rounds")
        self.device = find_device(self.device)
        check_backend(self.device)


def find_device(name: str | None) -> torch.device:
    """The device of this name; None takes the GPU where PyTorch sees one.

    Raises:
        InputError: it is not there, or neither a CPU nor a CUDA or ROCm GPU.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    if torch.device(name).type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected cpu, cuda or cuda:N")
    return torch.device(name)
