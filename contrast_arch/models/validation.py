"""Validation, shared out among the processes and broken off where a run is to end."""

from collections.abc import Iterator
from pathlib import Path

import torch
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.images import is_utf8, printable
from contrast_arch.inference.tiler import Tiler
from contrast_arch.models import processes
from contrast_arch.models.data import what_is_wrong
from contrast_arch.models.randomness import randomness_kept
from contrast_arch.models.settings import setting


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

    Raises:
        TrainingStopped: OpenCV cannot write a file of that name.
    """
    name, folder = Path(data["lq_path"][0]).stem, Path(opt["path"]["visualization"])
    if opt["is_train"]:
        file = str(folder / name / f"{name}_{iteration}.png")
    else:
        file = str(folder / dataset.opt["name"] / f"{name}_{opt['val'].get('suffix') or opt['name']}.png")
    if not is_utf8(file):
        raise TrainingStopped(
            f"val: save_img: {printable(file)}: the name is not UTF-8, and OpenCV cannot write it; rename the image or "
            "the folder, or write save_img: false"
        )
    return file


class SharedValidation(SRModel):
    """SRModel whose validation and tests are shared out among the processes; in tiles where ``val: tile`` asks for it.

    Each image is measured once, and metrics are added up in the order of the dataset: they are those of one process to
    the last digit. Only the first process writes.

    Args:
        opt: options as BasicSR's parser gives them.

    Raises:
        InputError: tiles that the network cannot take.
    """

    def __init__(self, opt: dict):
        # Dataset -> the iteration that was measured last, and its metrics. Two sets may have one name.
        self.validated = {}
        super().__init__(opt)
        self.tiler = self._tiler()

    def _tiler(self):
        size = setting(self.opt, "val", "tile", "size")
        if size is None:
            return None
        window_size = getattr(self.get_bare_model(self.net_g), "window_size", 1)
        overlap = setting(self.opt, "val", "tile", "overlap")
        progress = self.opt["rank"] == 0 and not self.opt["val"].get("pbar", False)
        try:
            return Tiler(size, overlap, window_size=window_size, progress=progress)
        except ValueError as error:
            raise InputError(f"val: tile: {error}") from error

    def broken_off(self, current_iter) -> bool:
        """Asked before every image: whether the validation must end here. All processes have to give one answer."""
        return False

    def test(self):
        net = self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)
        net.eval()
        with torch.no_grad():
            self.output = net(self.lq) if self.tiler is None else self.tiler(net, self.lq)
        if self.is_train:
            self.net_g.train()

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        dataset = dataloader.dataset
        name = dataset.opt["name"]
        metrics = self.opt["val"].get("metrics")
        # At the end of training BasicSR validates once more; the weights are still the same.
        measured_at, means = self.validated.get(dataset, (None, None)) if self.is_train else (None, None)
        if measured_at != current_iter:
            with randomness_kept():
                values = self._measure(dataloader, current_iter, save_img, metrics or {})
            if values is None:
                get_root_logger().info(f"Validation of {name} was broken off; a resumed run begins with it.")
                return
            # In the order of the dataset, so that the number of processes changes no digit.
            means = {key: sum(found[key] for found in values) / len(values) for key in metrics or {} if values}
        if self.is_train:
            self.validated[dataset] = current_iter, means
        if metrics and self.opt["rank"] == 0:
            self._initialize_best_metric_results(name)
            self.metric_results = dict(means)
            for key, value in means.items():
                self._update_best_metric_result(name, key, value, current_iter)
            self._log_validation_metric_values(current_iter, name, tb_logger)

    def _initialize_best_metric_results(self, dataset_name):
        earlier = getattr(self, "best_metric_results", {}).pop(dataset_name, {})
        super()._initialize_best_metric_results(dataset_name)
        # A resumed run may have more metrics than its state, or other ideas of what is better.
        best = self.best_metric_results[dataset_name]
        best |= {key: found for key, found in earlier.items() if found["better"] == best.get(key, found)["better"]}

    def _measure(self, dataloader, current_iter, save_img, metrics):
        """The metrics of each image, in the first process; None in all of them where it was broken off."""
        count = self.opt["world_size"]
        rounds = shared_rounds(dataloader.dataset, self.opt["rank"], count)
        hidden = not self.opt["val"].get("pbar", False) or self.opt["rank"] != 0
        values = []
        for data in tqdm(rounds, total=-(-len(dataloader.dataset) // count), unit="image", disable=hidden):
            if self.broken_off(current_iter):
                return None
            image = None
            if data is not None:
                self.feed_data(data)
                self.test()
                visuals = self.get_current_visuals()
                self._refuse_not_finite(visuals["result"], data["lq_path"][0], current_iter)
                image = measured(visuals["result"], visuals.get("gt"), metrics)
                if save_img:
                    image["path"] = image_file(self.opt, dataloader.dataset, data, current_iter)
                else:
                    del image["image"]
                for name in ("lq", "gt", "output"):
                    self.__dict__.pop(name, None)
            for found in filter(None, processes.collected(image) or []):
                values.append(found["metrics"])
                # Only the first process writes.
                if save_img:
                    imwrite(found["image"], found["path"])
        return values

    def _refuse_not_finite(self, result, lq_path, current_iter):
        if not torch.isfinite(result).all():
            when = f" (iteration {current_iter})" if self.is_train else ""
            raise TrainingStopped(
                f"validation: {lq_path}: the network's result{when} holds NaN or infinity; no picture was saved. Take "
                "an earlier checkpoint (path: pretrain_network_g for a test, path: resume_state for training)"
            )
