"""What the processes of a training run tell each other. Every function works in a single process too."""

from typing import Any

import torch
from torch import distributed


def several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _device():
    """Where tensors have to be for the backend: NCCL takes those of a GPU only."""
    gpu = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def highest(value: int) -> int:
    """The highest of the values that the processes give."""
    if not several():
        return value
    found = torch.tensor(value, device=_device())
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def added(values: torch.Tensor) -> torch.Tensor:
    """The sum, element by element, of what the processes give; of any shape, the same in each process."""
    if several():
        values = values.to(_device())
        distributed.all_reduce(values)
    return values


def collected(value: Any) -> list | None:
    """What the processes give, by rank, in the first process; None in the others."""
    if not several():
        return [value]
    first = distributed.get_rank() == 0
    found = [None] * distributed.get_world_size() if first else None
    distributed.gather_object(value, found)
    return found


def told(value: Any) -> Any:
    """What the first process gives, in all of them."""
    if not several():
        return value
    found = [value]
    distributed.broadcast_object_list(found, device=_device())
    return found[0]
