"""Validation and tests of any BasicSR model, shared out among the processes and broken off where a run is to end."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from basicsr.models.sr_model import SRModel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from contrast_arch.errors import TrainingStopped
from contrast_arch.images import named
from contrast_arch.training.data import randomness_kept
from contrast_arch.training.distributed import gather_objects


class BrokenOffError(Exception):
    """The run is to end before the validation does."""


class SharedImages:
    """This process's images of a validation set, in the place of BasicSR's loader.

    A model of BasicSR takes one image after the other and adds up its metrics. Here they are read and set to zero after
    each image, so that they can be added up over all processes in the order of the dataset.

    Args:
        broken_off: is called before each round of images, in all processes; the validation ends where it gives True.

    Attributes:
        measured: index of an image -> its name and its metrics.
    """

    def __init__(self, model, dataset: Dataset, broken_off: Callable[[], bool], progress: bool):
        self.model, self.dataset, self.broken_off, self.progress = model, dataset, broken_off, progress
        self.rank, self.processes = model.opt["rank"], model.opt["world_size"]
        self.measured = {}

    def __iter__(self) -> Iterator[dict]:
        rounds = range(self.rank, len(self.dataset) + self.rank, self.processes)
        for index in tqdm(rounds, unit="image", leave=False, disable=not self.progress):
            if self.broken_off():
                raise BrokenOffError
            if index >= len(self.dataset):
                return  # in the last round some processes have no image
            try:
                data = default_collate([self.dataset[index]])
            except Exception as error:  # a dataset may raise anything about a file, and OpenCV does
                raise TrainingStopped(f"validation: {named(self.dataset, index, error)}") from error
            yield data
            sums = getattr(self.model, "metric_results", {})
            stem = Path(data.get("lq_path", [""])[0]).stem
            self.measured[index] = stem, {key: float(value) for key, value in sums.items()}
            self.model.metric_results = dict.fromkeys(sums, 0)


@contextlib.contextmanager
def _alone(model):
    """Keep the model from talking to other processes, from its summary and from a bar of its own."""
    wrapped = {name: net for name, net in vars(model).items() if isinstance(net, DistributedDataParallel)}
    val, is_train = model.opt["val"], model.is_train
    nothing = {name: lambda *_: None for name in ("_update_best_metric_result", "_log_validation_metric_values")}
    for net in wrapped.values():
        for buffer in net.module.buffers() if net.broadcast_buffers else ():
            torch.distributed.broadcast(buffer, 0)  # running statistics, as in the next iteration
    try:
        vars(model).update(nothing | {name: net.module for name, net in wrapped.items()})
        model.opt["val"] = val | {"pbar": False}
        yield
    finally:
        for name in nothing:
            del vars(model)[name]
        vars(model).update(wrapped)
        # Some models change it for the time of a validation, which may have been broken off.
        model.opt["val"], model.is_train = val, is_train


def validate(model, loader, iteration: int | str, tb_logger=None, broken_off=lambda: False, progress: bool = False):
    """Validate a model of BasicSR on a dataset; each image is measured once, by one of the processes.

    Metrics are added up in the order of the dataset: they are those of one process to the last digit. The random
    generators move on as under BasicSR's trainer. Models that do not validate image by image, as SRModel does, do it
    their own way, in all processes.

    Args:
        iteration: of the weights; in a test the name of the run.
        broken_off: see :class:`SharedImages`.

    Returns:
        Metric -> mean over the images; and name of an LQ image without its extension -> metric -> value, empty where a
        model does not tell. None where the validation was broken off; TrainingStopped where an image cannot be read.
    """
    save_img, name, kind = model.opt["val"]["save_img"], loader.dataset.opt["name"], type(model)
    as_srmodel = isinstance(model, SRModel) and hasattr(model, "_update_best_metric_result")
    with randomness_kept():
        if not as_srmodel or (kind.dist_validation, kind.validation) != (SRModel.dist_validation, SRModel.validation):
            model.validation(loader, iteration, tb_logger, save_img)
            return dict(getattr(model, "metric_results", None) or {}), {}
        images = SharedImages(model, loader.dataset, broken_off, progress and model.opt["rank"] == 0)
        try:
            with _alone(model):
                # SRModel takes no set without images, such as the share of a process may be.
                if images.rank < len(loader.dataset):
                    model.nondist_validation(images, iteration, None, save_img)
                else:
                    list(images)
        except BrokenOffError:
            return None
    # BasicSR's loader of validation images draws one number.
    torch.empty((), dtype=torch.int64).random_()
    found = {index: one for share in gather_objects(images.measured) for index, one in share.items()}
    per_image, metrics = [found[index] for index in sorted(found)], model.opt["val"].get("metrics")
    if not metrics or not found:
        return {}, {}
    model.metric_results = {key: sum(one[key] for _, one in per_image) / len(found) for key in metrics}
    model._initialize_best_metric_results(name)
    for key, value in model.metric_results.items():
        model._update_best_metric_result(name, key, value, iteration)
    model._log_validation_metric_values(iteration, name, tb_logger)
    return dict(model.metric_results), dict(per_image)
