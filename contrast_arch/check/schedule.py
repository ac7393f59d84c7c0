"""Numbers that have to agree with each other: sizes, iterations, batches, the length of a dataset; logs."""

import importlib.util
import math
from collections.abc import Iterator

from contrast_arch.check.context import Run
from contrast_arch.check.parts import error_of, trains_as_srmodel
from contrast_arch.inference.tiler import Tiler
from contrast_arch.models.optimizers import multi_step_rates
from contrast_arch.options.document import Problem
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.options.validation import micro_batches

# Metric -> width and height, either way round, that it needs after crop_border: SSIM's window, two blocks of NIQE.
METRIC_SIZES = {"calculate_ssim": (11, 11), "calculate_ssim_pt": (11, 11), "calculate_niqe": (192, 96)}


def size_problems(run: Run) -> Iterator[Problem]:
    """Compare ``gt_size``, ``crop_border`` and ``tile`` with scale, windows and images."""
    opt, scale, window = run.opt, run.opt["scale"], getattr(run.network, "window_size", None)
    gt_size = run.train_data["gt_size"] if opt["is_train"] else None
    if gt_size and scale and gt_size % scale:
        yield run.train_data.error(f"{gt_size} is not a multiple of scale: {scale}", "gt_size")
    elif gt_size and scale and window and gt_size // scale % window:
        text = f"{gt_size}: every patch is padded, since {gt_size // scale} is no multiple of window_size {window}"
        yield run.train_data.warning(text, "gt_size")
    grey = any(dataset["color"] == "y" for dataset in opt.sections("datasets"))
    for metric in opt.sections("val", "metrics"):
        border = metric.get("crop_border", scale)
        yield from (metric.error(text, "crop_border") for text in _too_small(metric["type"], border, run.images))
        if metric["type"] in ("calculate_psnr", "calculate_ssim") and not (metric["test_y_channel"] or grey):
            yield metric.warning("false: most published figures are of Y: test_y_channel: true", "test_y_channel")
    tile = opt.section("val", "tile")
    if run.is_contrast_model and window and tile["size"]:
        fault = error_of(lambda: Tiler(tile["size"], tile["overlap"], window_size=window))
        yield from [tile.error(fault)] if fault else []


def _too_small(metric, border, found):
    """Name the smallest image of each validation and test set where it is too small for a metric."""
    most, least = METRIC_SIZES.get(metric, (1, 1))
    for phase, images in found.items():
        name, *sides = min(
            images.results,
            key=lambda result: min(min(result[1:]) - least, max(result[1:]) - most),
            default=("", math.inf, math.inf),
        )
        left = [max(0, side - 2 * border) for side in sides]
        if min(left) < least or max(left) < most:
            text = f"{border} leaves {left[0]}x{left[1]} pixels of {name} of datasets: {phase}; {metric} needs"
            yield f"{text} {most}x{least}: leave out the image or the metric"


def schedule_problems(run: Run) -> Iterator[Problem]:
    """Compare the learning rate's schedule with ``total_iter`` and ``warmup_iter``."""
    train, scheduler, schedule = run.train, run.train.section("scheduler"), run.scheduler
    total, warmup = train["total_iter"], train["warmup_iter"] or -1
    if total is None:
        return
    if warmup >= total:
        yield train.warning(f"{warmup}: the rate of optim_g is not reached in total_iter: {total}", "warmup_iter")
    periods = list(getattr(schedule, "periods", ()))
    if late := [milestone for milestone in getattr(schedule, "milestones", ()) if milestone >= total]:
        yield scheduler.warning(f"{late} are not reached in total_iter: {total}", "milestones")
    # The rate of the last iteration is that at total_iter - 1.
    if periods and sum(periods) < total - 1:
        yield scheduler.error(f"{periods}: BasicSR fails at their end; expected the sum total_iter: {total}", "periods")
    elif periods and sum(periods) > total:
        yield scheduler.warning(f"{periods}: eta_min is not reached in total_iter: {total}", "periods")
    as_srmodel = trains_as_srmodel(run.model, "setup_schedulers", "update_learning_rate")
    if 1 < warmup < total and hasattr(schedule, "milestones") and as_srmodel:
        (group,) = schedule.optimizer.param_groups
        # The last iteration of the warm-up, where BasicSR's schedule goes on.
        schedule.last_epoch = int(warmup) - 1
        group["lr"] = group["initial_lr"] / warmup * (warmup - 1)
        basicsrs, files = (f"{rates[0]:.6g}" for rates in (schedule.get_lr(), multi_step_rates(schedule)))
        text = f"{warmup}: after the warm-up BasicSR trains with a rate of {basicsrs}, not {files}; write "
        text += f"'model_type: {CONTRAST_MODEL}', or warmup_iter: -1"
        yield from [train.warning(text, "warmup_iter")] if basicsrs != files else []


def length_problems(run: Run) -> Iterator[Problem]:
    """Find training data of less than one batch; contrast-train takes whole batches."""
    dataset, world = run.train_data, run.context.world_size
    per_gpu, ratio = dataset["batch_size_per_gpu"], dataset.get("dataset_enlarge_ratio", 1)
    if per_gpu is None or "train" not in run.images:
        return
    images = len(run.images["train"].lq)
    # Without a launcher BasicSR shares a batch out among the GPUs of one process.
    sharing = world if run.opt["dist"] else max(1, run.opt["num_gpu"] or 0)
    batch = per_gpu * sharing * micro_batches(run.opt)
    if math.ceil(images * ratio) < batch:
        text = f"{images} images are less than a batch of {batch}; raise dataset_enlarge_ratio from {ratio} to"
        yield dataset.error(f"{text} {math.ceil(batch / images)}", "batch_size_per_gpu")


def log_problems(run: Run) -> Iterator[Problem]:
    """Find missing parts of loggers and validation."""
    opt, logger, val = run.opt, run.opt.section("logger"), run.opt.section("val")
    measured = [dataset for dataset in opt.sections("datasets") if dataset["phase"] != "train"]
    if opt["is_train"]:
        if logger.section("wandb")["project"] is not None:
            if logger["use_tb_logger"] is not True:
                yield logger.error("project: needs use_tb_logger: true", "wandb")
            if importlib.util.find_spec("wandb") is None:
                yield logger.error("needs wandb: pip install wandb, or switch it off", "wandb")
        if bool(val) != bool(measured):
            yield opt.warning("nothing is validated without both a section 'val' and a dataset 'val'", "val")
        if "debug" in (opt["name"] or "") and not run.context.debug:
            text = "it has 'debug' in it, which is BasicSR's debug mode: val_freq and save_checkpoint_freq become 8"
            yield opt.warning(f"{opt['name']}: {text}", "name")
    elif val["save_img"] and "suffix" not in val and not run.is_contrast_model:
        yield val.error("no suffix, which save_img: true needs; write 'suffix: ~' for none")
    names = [dataset["name"] for dataset in measured if "name" in dataset]
    for dataset in measured:
        if names.count(dataset["name"]) > 1:
            yield dataset.warning(f"{dataset['name']}: two sets share it, and their results; rename one", "name")
