"""The order of the training images, and which of them a resumed run has still to see."""

import atexit
import math
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from contrast_arch import images
from contrast_arch.errors import InputError
from contrast_arch.options.schema import micro_batches
from contrast_arch.training.randomness import randomness_of
from contrast_arch.training.signals import end_workers, leave_to_the_trainer
from contrast_arch.training.state import TrainState

# Unreadable images in a row before it is taken for something else than a few broken files.
MOST_REPLACED = 10


class Draw(NamedTuple):
    """One LQ/GT patch of an epoch.

    Attributes:
        epoch: counted from 0.
        position: in the epoch, counted from 0 over all processes.
        index: in the dataset.
    """

    epoch: int
    position: int
    index: int


class EpochSampler(Sampler):
    """A process's share of the training images, in the order of BasicSR's EnlargedSampler.

    Batches are the same whatever the number of processes: with two, each takes every second image of a batch. What
    does not fill a batch at the end of an epoch is left out, as BasicSR does. There are as many batches as iterations.

    Args:
        length: images of the dataset.
        ratio: ``dataset_enlarge_ratio``.
        batch: LQ/GT patches of an iteration, over all processes.
        rank, processes: of this process.
        iterations: that are to be done.
        epoch, position: where to start: the patches before it were seen by an earlier run.
    """

    def __init__(
        self,
        length: int,
        ratio: float,
        batch: int,
        rank: int = 0,
        processes: int = 1,
        iterations: int = 0,
        epoch: int = 0,
        position: int = 0,
    ):
        self.length = length
        self.total = math.ceil(length * ratio)
        self.batch, self.rank, self.processes = batch, rank, processes
        self.iterations = iterations
        self.first = self.epoch = epoch
        self.position = position
        if self.total < batch:
            raise InputError(
                f"datasets: train: {length} images (dataset_enlarge_ratio {ratio}) do not fill a batch of {batch}; add "
                "images, or raise dataset_enlarge_ratio"
            )

    def _rest(self):
        """Number of batches left of the first epoch; none where its images have become fewer than were seen."""
        return max(0, (self.total - self.position) // self.batch)

    def last_epoch(self) -> int:
        """The epoch in which the iterations end."""
        missing = self.iterations - self._rest()
        return self.first + max(0, -(-missing // (self.total // self.batch)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _batches(self):
        """First position, and number of batches, in the current epoch."""
        full, rest = self.total // self.batch, self._rest()
        if self.epoch == self.first:
            return self.position, min(rest, self.iterations)
        return 0, max(0, min(full, self.iterations - rest - (self.epoch - self.first - 1) * full))

    def __iter__(self) -> Iterator[Draw]:
        order = torch.randperm(self.total, generator=torch.Generator().manual_seed(self.epoch))
        start, batches = self._batches()
        for position in range(start + self.rank, start + batches * self.batch, self.processes):
            yield Draw(self.epoch, position, int(order[position]) % self.length)

    def __len__(self) -> int:
        return self._batches()[1] * (self.batch // self.processes)


class SeededDataset(Dataset):
    """A dataset of BasicSR whose crops and flips depend on the seed and the :class:`Draw` alone: not on what was drawn
    before, nor on the number of worker processes.

    An image that cannot be read is replaced by the next one that can; its sample says so in ``problem``, which is ""
    otherwise. Samples also have ``epoch`` and ``position``.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict:
        problem, tried = "", min(MOST_REPLACED, len(self.dataset))
        for index in range(draw.index, draw.index + tried):
            index %= len(self.dataset)
            try:
                with randomness_of(self.seed, draw.epoch, draw.position):
                    sample = dict(self.dataset[index])
            except Exception as error:  # a dataset may raise anything about a file, and OpenCV does
                problem = problem or images.named(self.dataset, index, error)
            else:
                return sample | {"epoch": draw.epoch, "position": draw.position, "problem": problem}
        if tried == 1:
            raise InputError(f"{problem}\nThe dataset has no other image to take instead")
        others = "image" if tried == 2 else f"{tried - 1} images"
        raise InputError(f"{problem}\nnor could the {others} after it be read; is the disk there?")


def with_accumulation(opt: dict) -> dict:
    """Return options whose batches are those of an iteration: all micro-batches together."""
    opt = deepcopy(opt)
    opt["datasets"]["train"]["batch_size_per_gpu"] *= micro_batches(opt)
    return opt


def images_of_an_iteration(opt: dict) -> int:
    """Count the training images of an iteration, over all processes.

    Args:
        opt: see :func:`with_accumulation`.
    """
    # Without a launcher BasicSR shares a batch out among the GPUs of one process.
    sharing = opt["world_size"] if opt["dist"] else max(1, opt["num_gpu"])
    return opt["datasets"]["train"]["batch_size_per_gpu"] * sharing


class TrainingBatches:
    """Batches of the training images, from a place in an epoch to the last iteration.

    Args:
        dataset: BasicSR's training set.
        opt: options as BasicSR's parser gives them, see :func:`with_accumulation`.
        start: where an earlier run stopped.

    Raises:
        InputError: the images do not fill a batch.
    """

    def __init__(self, dataset: Dataset, opt: dict, start: TrainState):
        from basicsr.data import build_dataloader

        self.opt, options = opt, opt["datasets"]["train"]
        self.sampler = EpochSampler(
            len(dataset),
            options.get("dataset_enlarge_ratio", 1),
            images_of_an_iteration(opt),
            opt["rank"],
            opt["world_size"],
            iterations=max(0, int(opt["train"]["total_iter"]) - start.iter),
            epoch=start.epoch,
            position=start.position,
        )
        arguments = {"num_gpu": opt["num_gpu"], "dist": opt["dist"], "sampler": self.sampler, "seed": 0}
        self.loader = build_dataloader(SeededDataset(dataset, opt["manual_seed"]), options, **arguments)
        self.loader.worker_init_fn = leave_to_the_trainer
        atexit.register(end_workers)
        # Starting an epoch would otherwise draw from the generator that the network uses.
        self.loader.generator = torch.Generator()

    def __iter__(self) -> Iterator[dict]:
        """Yield batches as the dataset gives them, with ``epoch``, ``position`` and ``problem`` of each image."""
        from basicsr.data.prefetch_dataloader import CUDAPrefetcher

        on_gpu = self.opt["datasets"]["train"].get("prefetch_mode") == "cuda"
        for epoch in range(self.sampler.first, self.sampler.last_epoch() + 1):
            self.sampler.set_epoch(epoch)
            yield from iter(CUDAPrefetcher(self.loader, self.opt).next, None) if on_gpu else self.loader
