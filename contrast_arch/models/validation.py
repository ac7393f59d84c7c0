"""Validation images shared out among the processes, each of them measured once."""

from collections.abc import Iterator
from pathlib import Path

import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from torch.utils.data import Dataset, default_collate

from contrast_arch.errors import TrainingStopped
from contrast_arch.models.data import what_is_wrong


def shared_rounds(dataset: Dataset, rank: int, count: int) -> Iterator[dict | None]:
    """This process's images of a validation set, one a round; None in a round for which it has none left.

    Args:
        rank, count: of the processes.

    Raises:
        TrainingStopped: an image cannot be read; the message names it.
    """
    for first in range(0, len(dataset), count):
        index = first + rank
        if index >= len(dataset):
            yield None
            continue
        try:
            data = dataset[index]
        except Exception as error:  # a dataset may raise anything about a file, and OpenCV does
            raise TrainingStopped(f"validation: {what_is_wrong(dataset, index, error)}") from error
        yield default_collate([data])


def measured(result: torch.Tensor, gt: torch.Tensor | None, metrics: dict) -> dict:
    """An image of the network, and how good it is.

    Args:
        result: (1, 3, H, W), RGB in [0, 1].
        gt: the same, or None where there is none.
        metrics: name -> options, ``val: metrics``.

    Returns:
        ``image``, (H, W, 3), BGR in uint8, and ``metrics``, name -> value.
    """
    image = tensor2img([result])
    data = {"img": image} if gt is None else {"img": image, "img2": tensor2img([gt])}
    # As Python's numbers, since they are saved with the training state.
    return {"image": image, "metrics": {key: float(calculate_metric(data, opt)) for key, opt in metrics.items()}}


def image_file(opt: dict, dataset: Dataset, data: dict, iteration: int | str) -> str:
    """Where BasicSR's SRModel saves an image of the network.

    Args:
        opt: options as BasicSR's parser gives them.
        data: the validation image as its loader gives it.
    """
    name, folder = Path(data["lq_path"][0]).stem, Path(opt["path"]["visualization"])
    if opt["is_train"]:
        return str(folder / name / f"{name}_{iteration}.png")
    return str(folder / dataset.opt["name"] / f"{name}_{opt['val'].get('suffix') or opt['name']}.png")
