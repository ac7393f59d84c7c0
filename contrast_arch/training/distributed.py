"""The collectives of torch.distributed, for a single process too, and processes without a GPU."""

import atexit
import contextlib
import os
import re
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from contrast_arch.errors import TrainingStopped, WorkerLost

# What gloo and NCCL say when another process is gone, in whatever call that shows.
LOST = re.compile(r"peer|NCCL|gloo|connect|socket|timed? ?out", re.IGNORECASE)


def is_distributed() -> bool:
    """True if this process has a process group."""
    return distributed.is_available() and distributed.is_initialized()


def _device():
    """Device of tensors for the backend: NCCL takes those of a GPU only."""
    gpu = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def all_reduce_max(value: int) -> int:
    """Return the highest of the values that the processes give."""
    if not is_distributed():
        return value
    found = torch.tensor(value, device=_device())
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def gather_objects(value: Any) -> list | None:
    """Return what the processes give, by rank, in the first process; None in the others."""
    if not is_distributed():
        return [value]
    first = distributed.get_rank() == 0
    found = [None] * distributed.get_world_size() if first else None
    distributed.gather_object(value, found)
    return found


def broadcast_object(value: Any) -> Any:
    """Return what the first process gives, in all of them."""
    if not is_distributed():
        return value
    found = [value]
    distributed.broadcast_object_list(found, device=_device())
    return found[0]


@contextlib.contextmanager
def processes_on_cpus():
    """Let BasicSR start processes and wrap networks where PyTorch sees no GPU; the processes talk over gloo.

    BasicSR asks for GPUs in both places. Where there are some, nothing is changed.
    """
    if torch.cuda.is_available():
        yield
        return
    from unittest import mock

    import basicsr.utils.options as options

    start, wrap = options.init_dist, DistributedDataParallel.__init__

    def init_dist(launcher, backend="gloo", **arguments):
        # A process that still has its connections when Python ends is aborted.
        atexit.register(lambda: is_distributed() and distributed.destroy_process_group())
        cuda = {"device_count": lambda: 1, "set_device": lambda device: None}
        with mock.patch.multiple(torch.cuda, **cuda):
            start(launcher, backend="gloo", **arguments)

    def without_gpu(self, module, device_ids=None, **arguments):
        wrap(self, module, **arguments)

    with (
        mock.patch.object(options, "init_dist", init_dist),
        mock.patch.object(DistributedDataParallel, "__init__", without_gpu),
        mock.patch.object(torch.cuda, "current_device", lambda: 0),
    ):
        yield


@contextlib.contextmanager
def lost_processes():
    """Say in one line that another process of the run is gone, a loader worker too; PyTorch says it in many ways."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(" .")
        resume = "the same command with --auto_resume goes on from there"
        if reason.startswith("DataLoader worker"):
            raise WorkerLost(
                f"a process that loads images is gone ({reason}), most often for lack of memory; give fewer workers "
                f"(datasets: train: num_worker_per_gpu) or smaller images. What is saved is whole: {resume}"
            ) from error
        # Set by torchrun, and by BasicSR under Slurm.
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not LOST.search(str(error)):
            raise
        raise TrainingStopped(
            f"another process of this run has ended or does not answer ({reason}); look for its message above. What is "
            f"saved is whole: {resume}"
        ) from error
