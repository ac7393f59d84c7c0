"""Validation and tests of any BasicSR model, shared out among the processes and broken off where a run is to end."""

import contextlib
from pathlib import Path

import torch
from basicsr.models.sr_model import SRModel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from contrast_arch.errors import TrainingStopped
from contrast_arch.images import named
from contrast_arch.training.data import randomness_kept
from contrast_arch.training.distributed import gather_objects, is_of_worker

# Methods of SRModel that sum up a validation.
SUMMARY = ("_update_best_metric_result", "_log_validation_metric_values")


class OneImage(list):
    """An image of a validation set, in the place of BasicSR's loader."""

    def __init__(self, dataset: Dataset, index: int):
        self.dataset = dataset
        try:
            super().__init__([default_collate([dataset[index]])])
        except Exception as error:  # a dataset may raise anything about a file, and OpenCV does
            if is_of_worker(error):
                raise
            raise TrainingStopped(f"validation: {named(dataset, index, error)}") from error


@contextlib.contextmanager
def _alone(model):
    """Keep the model from talking to other processes, from its summary and from a bar of its own."""
    wrapped = [net for net in vars(model).values() if isinstance(net, DistributedDataParallel)]
    # Some models change is_train for the time of an image, which may raise.
    kept = {"is_train": model.is_train, "opt": model.opt}
    for net in wrapped:
        for buffer in net.module.buffers() if net.broadcast_buffers else ():
            torch.distributed.broadcast(buffer, 0)  # running statistics, as in the next iteration
        net.require_forward_param_sync = False
    vars(model).update(dict.fromkeys(SUMMARY, lambda *_: None))
    model.opt = model.opt | {"val": model.opt["val"] | {"pbar": False}}
    try:
        yield
    finally:
        vars(model).update(kept)
        for name in SUMMARY:
            delattr(model, name)
        for net in wrapped:
            net.require_forward_param_sync = True


def validate(model, loader, iteration: int | str, tb_logger=None, broken_off=lambda: False, progress: bool = False):
    """Validate a model of BasicSR on a dataset; each image is measured once, by one of the processes.

    Metrics are those of one process to the last digit, and the random generators move on as under BasicSR's trainer.
    Models that do not validate image by image, as SRModel does, do it their own way, in all processes.

    Args:
        iteration: of the weights; in a test the name of the run.
        broken_off: is called before each round of images, in all processes; True ends the validation.

    Returns:
        Metric -> mean over the images; and name of an LQ image without its extension -> metric -> value, empty where a
        model does not tell. None where the validation was broken off; TrainingStopped where an image cannot be read.
    """
    opt, dataset, kind, measured = model.opt, loader.dataset, type(model), {}
    save_img, name, metrics = opt["val"]["save_img"], dataset.opt["name"], opt["val"].get("metrics")
    as_srmodel = isinstance(model, SRModel) and all(hasattr(model, method) for method in SUMMARY)
    with randomness_kept():
        if not as_srmodel or (kind.dist_validation, kind.validation) != (SRModel.dist_validation, SRModel.validation):
            model.validation(loader, iteration, tb_logger, save_img)
            return dict(getattr(model, "metric_results", None) or {}), {}
        rounds = range(opt["rank"], len(dataset) + opt["rank"], opt["world_size"])
        with _alone(model):
            for index in tqdm(rounds, unit="image", leave=False, disable=not (progress and opt["rank"] == 0)):
                if broken_off():
                    return None
                if index < len(dataset):  # in the last round some processes have no image
                    image = OneImage(dataset, index)
                    model.nondist_validation(image, iteration, None, save_img)
                    values = {key: float(model.metric_results[key]) for key in metrics or ()}
                    measured[index] = Path(image[0].get("lq_path", [""])[0]).stem, values
    # BasicSR's loader of validation images draws one number.
    torch.empty((), dtype=torch.int64).random_()
    found = {index: one for share in gather_objects(measured) for index, one in share.items()}
    per_image = [found[index] for index in sorted(found)]
    if not metrics or not found:
        return {}, {}
    model.metric_results = {key: sum(one[key] for _, one in per_image) / len(found) for key in metrics}
    model._initialize_best_metric_results(name)
    for key, value in model.metric_results.items():
        model._update_best_metric_result(name, key, value, iteration)
    model._log_validation_metric_values(iteration, name, tb_logger)
    return dict(model.metric_results), dict(per_image)
