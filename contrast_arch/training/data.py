"""The training images in their order, and the random numbers with which they are cropped."""

import atexit
import contextlib
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from basicsr.data import build_dataloader
from torch.utils.data import DataLoader, Dataset

from contrast_arch import images
from contrast_arch.errors import InputError
from contrast_arch.models.checkpoints import TrainState
from contrast_arch.training.signals import end_workers, leave_to_the_trainer

# Images in a row that are tried; more are no few broken files.
MOST_TRIED = 10


class Draw(NamedTuple):
    """An LQ/GT patch: its epoch, its place in the epoch over all processes, its index in the dataset; from 0."""

    epoch: int
    position: int
    index: int


def draws(length: int, total: int, batch: int, iterations: int, start=(0, 0), rank=0, world=1) -> Iterator[Draw]:
    """Yield a process's share of the training images, in the order of BasicSR's EnlargedSampler.

    Images at the end of an epoch that fill no batch are left out, as BasicSR does.

    Args:
        length, total: images of the dataset, and of an epoch: at least ``batch``.
        batch: LQ/GT patches of an iteration, over all processes.
        start: epoch and position: the patches before were seen by an earlier run.
        rank, world: of this process, which takes every ``world``-th image.
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
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextlib.contextmanager
def randomness_kept(*numbers: int):
    """Restore the generators after the block; inside, those of the CPU depend on numbers alone, if any are given."""
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
    """A dataset of BasicSR whose crops and flips depend on the seed and the :class:`Draw` alone.

    An image that cannot be read is replaced by the next one that can; its sample says so in ``problem``, which is ""
    otherwise. Samples also have ``epoch`` and ``position``.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: Draw) -> dict:
        problem, tried = "", min(MOST_TRIED, len(self.dataset))
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


def training_loader(dataset: Dataset, opt: dict, batch: int, start: TrainState) -> DataLoader:
    """Make BasicSR's loader of a :class:`SeededDataset`, for one pass from a place in an epoch to the last iteration.

    Args:
        batch: images of an iteration, over all processes.
        start: where an earlier run stopped.
    """
    options, length = opt["datasets"]["train"], len(dataset)
    total = math.ceil(length * options.get("dataset_enlarge_ratio", 1))
    if total < batch:
        raise InputError(
            f"datasets: train: {length} images, {total} an epoch, do not fill a batch of {batch}; add images, or raise "
            "dataset_enlarge_ratio"
        )
    left, place = int(opt["train"]["total_iter"]) - start.iter, (start.epoch, start.position)
    order = draws(length, total, batch, left, place, opt["rank"], opt["world_size"])
    seeded = SeededDataset(dataset, opt["manual_seed"])
    loader = build_dataloader(seeded, options, num_gpu=opt["num_gpu"], dist=opt["dist"], sampler=order)
    loader.worker_init_fn = leave_to_the_trainer
    atexit.register(end_workers)
    # To start it would otherwise draw from the generator that the network uses.
    loader.generator = torch.Generator()
    return loader
