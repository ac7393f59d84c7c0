"""The collectives of torch.distributed, for a single process too, and processes without a GPU."""

import atexit
import contextlib
import gc
import os
import re
import traceback
from typing import Any
from unittest import mock

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from contrast_arch.errors import TrainingStopped, WorkerLost
from contrast_arch.training.signals import end_workers

# Words of gloo's and NCCL's errors when another process is gone.
LOST = re.compile(r"peer|NCCL|gloo|connect|socket|timed? ?out", re.IGNORECASE)


def all_reduce_max(value: int) -> int:
    """Return the highest value of all processes."""
    if not distributed.is_initialized():
        return value
    # NCCL takes tensors of a GPU only.
    found = torch.tensor(value, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def gather_objects(value: Any) -> list:
    """Return the values of all processes, by rank, in each of them."""
    found = [value] * (distributed.get_world_size() if distributed.is_initialized() else 1)
    if distributed.is_initialized():
        distributed.all_gather_object(found, value)
    return found


def broadcast_object(value: Any) -> Any:
    """Return the value of the first process in each of them."""
    found = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(found)
    return found[0]


@contextlib.contextmanager
def processes_on_cpus():
    """Let BasicSR, which asks for a GPU, start processes over gloo and wrap networks where PyTorch sees none."""
    if torch.cuda.is_available():
        yield
        return
    atexit.register(leave_process_group)
    start, wrap = distributed.init_process_group, DistributedDataParallel.__init__

    def over_gloo(backend=None, **arguments):
        start("gloo", **arguments)

    def without_gpu(self, module, device_ids=None, **arguments):
        wrap(self, module, **arguments)

    with (
        mock.patch.object(distributed, "init_process_group", over_gloo),
        mock.patch.object(DistributedDataParallel, "__init__", without_gpu),
        mock.patch.multiple(torch.cuda, device_count=lambda: 1, set_device=lambda _: None, current_device=lambda: 0),
    ):
        yield


def leave_process_group() -> None:
    """End the process group and the threads of gloo: one that frees a tensor while Python ends aborts the process
    ("terminate called without an active exception", PyTorch's issue 190489)."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        # The threads end with the group, which DistributedDataParallel holds too, in a cycle of the model's.
        gc.collect()


def is_of_worker(error: Exception) -> bool:
    """True for the error that PyTorch raises, wherever the run is just then, when a loader worker is gone."""
    return str(error).startswith("DataLoader worker")


@contextlib.contextmanager
def lost_processes():
    """Turn PyTorch's many errors for a lost process of the run, a loader worker too, into one line."""
    # PyTorch's handler of SIGCHLD may raise while the inner one reads what was raised before.
    with _lost_process(), _lost_process():
        yield


@contextlib.contextmanager
def _lost_process():
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # The next worker to die would interrupt the message with an error of PyTorch's handler, or print one behind it.
        end_workers()
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(" .")
        resume = "What is saved is whole: the same command with --auto_resume goes on from there"
        # A worker that is killed while it hands over an image shows as an error of multiprocessing's pipes.
        pipes = "/multiprocessing/" in "".join(traceback.format_tb(error.__traceback__))
        if pipes or is_of_worker(error):
            raise WorkerLost(
                f"a process that loads images is gone ({reason}), most often for lack of memory; give fewer workers "
                f"(datasets: train: num_worker_per_gpu) or smaller images. {resume}"
            ) from error
        if os.environ.get("WORLD_SIZE", "1") == "1" or isinstance(error, OSError) or not LOST.search(str(error)):
            raise
        gone = f"another process of this run has ended or does not answer ({reason}); look for its message above"
        raise TrainingStopped(f"{gone}. {resume}") from error
