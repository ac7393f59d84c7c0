"""The training images in their order, and the random numbers with which they are cropped."""

import atexit
import contextlib
import math
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from contrast_arch import images
from contrast_arch.errors import InputError
from contrast_arch.options.validation import micro_batches
from contrast_arch.training.signals import end_workers, leave_to_the_trainer
from contrast_arch.training.state import TrainState

# Images that are tried in place of one; more in a row are no few broken files.
MOST_REPLACED = 10


class Draw(NamedTuple):
    """One LQ/GT patch: its epoch, its position in the epoch over all processes, its index in the dataset; from 0."""

    epoch: int
    position: int
    index: int


def draws(length: int, total: int, batch: int, iterations: int, start=(0, 0), rank=0, world=1) -> Iterator[Draw]:
    """Yield a process's share of the training images, in the order of BasicSR's EnlargedSampler.

    Batches are the same whatever the number of processes: with two, each takes every second image of a batch. What
    does not fill a batch at the end of an epoch is left out, as BasicSR does.

    Args:
        length, total: images of the dataset, and of an epoch: at least ``batch``.
        batch: LQ/GT patches of an iteration, over all processes.
        start: epoch and position: the patches before were seen by an earlier run.
        rank, world: of this process, and the number of processes.
    """
    epoch, position = start
    while iterations > 0:
        order = torch.randperm(total, generator=torch.Generator().manual_seed(epoch))
        # None where the images have become fewer than were seen of this epoch.
        batches = max(0, min(iterations, (total - position) // batch))
        for place in range(position + rank, position + batches * batch, world):
            yield Draw(epoch, place, int(order[place]) % length)
        epoch, position, iterations = epoch + 1, 0, iterations - batches


def random_states() -> dict:
    """Return the states of Python's, NumPy's and PyTorch's generators, as ``weights_only`` reads them."""
    kind, keys, *rest = np.random.get_state()
    states = {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict) -> None:
    """Set the states of :func:`random_states`."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextlib.contextmanager
def randomness_kept(*numbers: int):
    """Restore the generators after the block; inside, those of Python, NumPy and PyTorch's CPU depend on numbers (each
    from 0) alone, where some are given."""
    states = random_states()
    try:
        if numbers:
            first, second, third = np.random.SeedSequence(numbers).generate_state(3)
            random.seed(int(first))
            np.random.seed(second)
            # torch.manual_seed would set those of the GPUs too.
            torch.default_generator.manual_seed(int(third))
        yield
    finally:
        set_random_states(states)


class SeededDataset(Dataset):
    """A dataset of BasicSR whose crops and flips depend on the seed and the :class:`Draw` alone, not on earlier draws
    or the number of worker processes.

    An image that cannot be read is replaced by the next one that can; its sample says so in ``problem``, which is ""
    otherwise. Samples also have ``epoch`` and ``position``.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: Draw) -> dict:
        problem, tried = "", min(MOST_REPLACED, len(self.dataset))
        for index in range(draw.index, draw.index + tried):
            index %= len(self.dataset)
            try:
                with randomness_kept(self.seed, draw.epoch, draw.position):
                    sample = dict(self.dataset[index])
            except Exception as error:  # a dataset may raise anything about a file, and OpenCV does
                problem = problem or images.named(self.dataset, index, error)
            else:
                return sample | {"epoch": draw.epoch, "position": draw.position, "problem": problem}
        raise InputError(f"{problem}\nNone of the {tried} images from it on can be read; is the disk there?")


def with_accumulation(opt: dict) -> tuple[dict, int]:
    """Return options whose batches are those of an iteration, all micro-batches together; and the number of images of
    an iteration, over all processes."""
    opt = deepcopy(opt)
    opt["datasets"]["train"]["batch_size_per_gpu"] *= micro_batches(opt)
    # Without a launcher BasicSR shares a batch out among the GPUs of one process.
    sharing = opt["world_size"] if opt["dist"] else max(1, opt["num_gpu"])
    return opt, opt["datasets"]["train"]["batch_size_per_gpu"] * sharing


def training_loader(dataset: Dataset, opt: dict, batch: int, start: TrainState) -> DataLoader:
    """Make BasicSR's loader of a :class:`SeededDataset`, for one pass from a place in an epoch to the last iteration.

    Args:
        opt, batch: see :func:`with_accumulation`.
        start: where an earlier run stopped.
    """
    from basicsr.data import build_dataloader

    options = opt["datasets"]["train"]
    ratio = options.get("dataset_enlarge_ratio", 1)
    total = math.ceil(len(dataset) * ratio)
    if total < batch:
        raise InputError(
            f"datasets: train: {len(dataset)} images (dataset_enlarge_ratio {ratio}) do not fill a batch of {batch}; "
            "add images, or raise dataset_enlarge_ratio"
        )
    iterations, place = int(opt["train"]["total_iter"]) - start.iter, (start.epoch, start.position)
    order = draws(len(dataset), total, batch, iterations, place, opt["rank"], opt["world_size"])
    seeded = SeededDataset(dataset, opt["manual_seed"])
    loader = build_dataloader(seeded, options, num_gpu=opt["num_gpu"], dist=opt["dist"], sampler=order)
    loader.worker_init_fn = leave_to_the_trainer
    atexit.register(end_workers)
    # To start it would otherwise draw from the generator that the network uses.
    loader.generator = torch.Generator()
    return loader
