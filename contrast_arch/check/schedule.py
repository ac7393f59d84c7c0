"""Numbers that have to agree with each other: sizes, iterations, batches, the length of a dataset; logs."""

import importlib.util
import math
from collections.abc import Iterator

import torch

from contrast_arch.check.context import Run
from contrast_arch.check.parts import error_of, make_scheduler, trains_as_srmodel
from contrast_arch.inference.tiler import Tiler
from contrast_arch.options.problems import Problem
from contrast_arch.options.schema import CONTRAST_MODEL, micro_batches

# Metric -> width and height, either way round, that it needs after crop_border: SSIM's window, two blocks of NIQE.
METRIC_SIZES = {"calculate_ssim": (11, 11), "calculate_ssim_pt": (11, 11), "calculate_niqe": (192, 96)}


def size_problems(run: Run) -> Iterator[Problem]:
    """Compare ``gt_size``, ``crop_border`` and ``tile`` with scale, windows and images."""
    opt, scale, window = run.opt, run.opt["scale"], getattr(run.network, "window_size", None)
    gt_size = run.train_data["gt_size"] if opt["is_train"] else None
    if gt_size and scale and gt_size % scale:
        yield run.train_data.error(f"{gt_size} is not a multiple of scale: {scale}", "gt_size")
    elif gt_size and scale and window and gt_size // scale % window:
        text = f"{gt_size} is {gt_size // scale} LQ pixels, no multiple of window_size {window}"
        yield run.train_data.warning(f"{text}: the network pads every patch", "gt_size")
    for metric in opt.section("val", "metrics"):
        border = metric.values.get("crop_border", scale)
        yield from (metric.error(text, "crop_border") for text in _too_small(metric["type"], border, run.pairs))
        grey = any(dataset["color"] == "y" for dataset in opt.section("datasets"))
        if metric["type"] in ("calculate_psnr", "calculate_ssim") and not (metric["test_y_channel"] or grey):
            text = f"false: {metric['type']} is of RGB; most published figures are of Y: test_y_channel: true"
            yield metric.warning(text, "test_y_channel")
    tile = opt.section("val", "tile")
    if run.is_contrast_model and window and tile["size"]:
        fault = error_of(lambda: Tiler(tile["size"], tile["overlap"], window_size=window))
        yield from [tile.error(fault)] if fault else []


def _too_small(metric, border, found):
    """Name the smallest image of each validation and test set where it is too small for a metric."""
    most, least = METRIC_SIZES.get(metric, (1, 1))
    for phase, pairs in found.items():
        small = [
            (name, *sides)
            for name, *sides in pairs.results
            if min(sides) - 2 * border < least or max(sides) - 2 * border < most
        ]
        if small:
            image, *sides = min(small, key=lambda result: min(result[1:]))
            left = "x".join(str(max(0, side - 2 * border)) for side in sides)
            text = f"{border} leaves {left} pixels of {image} of datasets: {phase}, and {metric} needs at least"
            yield f"{text} {most}x{least}: leave the image out, or the metric, or write the scale"


def schedule_problems(run: Run) -> Iterator[Problem]:
    """Make the learning rate's schedule, and compare it with ``total_iter`` and ``warmup_iter``."""
    train, scheduler, rate = run.train, run.train.section("scheduler"), run.train.section("optim_g")["lr"]
    total, warmup = train["total_iter"], train["warmup_iter"] or -1
    if total is None:
        return
    if warmup >= total:
        text = f"{warmup}: with total_iter: {total} the rate never becomes that of optim_g"
        yield train.warning(text, "warmup_iter")
    try:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], rate or 1.0)
        schedule = make_scheduler(optimizer, scheduler.values)
        periods = list(getattr(schedule, "periods", ()))
        late = [milestone for milestone in getattr(schedule, "milestones", ()) if milestone >= total]
    except Exception:  # reported by optimizer_problems
        return
    if late:
        yield scheduler.warning(f"{late} are not reached in total_iter: {total} iterations", "milestones")
    # The rate of the last iteration is that at total_iter - 1.
    if periods and sum(periods) < total - 1:
        text = f"{periods} end after {sum(periods)} of {total} iterations, where BasicSR fails"
        yield scheduler.error(f"{text}; make their sum the same", "periods")
    elif periods and sum(periods) > total:
        text = f"{periods} are {sum(periods)} iterations, total_iter: {total}"
        yield scheduler.warning(f"{text}; the rate does not come down to eta_min", "periods")
    as_srmodel = trains_as_srmodel(run.opt.values, "setup_schedulers", "update_learning_rate")
    if 1 < warmup < total and rate and not periods and as_srmodel:
        yield from _warmup_problems(run, schedule, int(warmup))


def _warmup_problems(run, schedule, warmup):
    """Compare BasicSR's rate after a warm-up with that of the option file."""
    from contrast_arch.models.optimizers import multi_step_rates

    (group,) = schedule.optimizer.param_groups
    schedule.last_epoch = warmup - 1
    # Of the last iteration of the warm-up, where BasicSR's schedule goes on.
    group["lr"] = group["initial_lr"] / warmup * (warmup - 1)
    basicsrs, files = (f"{rates[0]:.6g}" for rates in (schedule.get_lr(), multi_step_rates(schedule)))
    if basicsrs != files:
        yield run.train.warning(
            f"{warmup}: after the warm-up {run.opt['model_type']} trains with a rate of {basicsrs}, not {files}: "
            "BasicSR's schedule goes on from the last rate of the warm-up, and skips the milestones inside it; "
            f"'model_type: {CONTRAST_MODEL}' takes {files}; or write warmup_iter: -1",
            "warmup_iter",
        )


def length_problems(run: Run) -> Iterator[Problem]:
    """Find training data of less than one batch; contrast-train takes whole batches."""
    dataset, world = run.train_data, run.context.world_size
    per_gpu, ratio = dataset["batch_size_per_gpu"], dataset.values.get("dataset_enlarge_ratio", 1)
    if per_gpu is None or "train" not in run.pairs:
        return
    images = len(run.pairs["train"].lq)
    # Without a launcher BasicSR shares a batch out among the GPUs of one process.
    sharing = world if run.opt["dist"] else max(1, run.opt["num_gpu"] or 0)
    batch = per_gpu * sharing * micro_batches(run.opt.values)
    if math.ceil(images * ratio) < batch:
        text = f"{images} images (dataset_enlarge_ratio {ratio}) are less than a batch of {batch}: nothing would be "
        yield dataset.error(
            f"{text}trained; raise dataset_enlarge_ratio to {math.ceil(batch / images)}", "batch_size_per_gpu"
        )


def log_problems(run: Run) -> Iterator[Problem]:
    """Find missing parts of loggers and validation."""
    opt, logger, val = run.opt, run.opt.section("logger"), run.opt.section("val")
    measured = [dataset for dataset in opt.section("datasets") if dataset["phase"] != "train"]
    if opt["is_train"]:
        wandb = logger.section("wandb")["project"] is not None
        if wandb and logger["use_tb_logger"] is not True:
            yield logger.error("project: needs use_tb_logger: true; BasicSR sends that on", "wandb")
        modules = {"tensorboard": ("use_tb_logger", logger["use_tb_logger"]), "wandb": ("wandb", wandb)}
        for module, (key, needed) in modules.items():
            if needed and importlib.util.find_spec(module) is None:
                yield logger.error(f"needs {module}: pip install {module}, or switch it off", key)
        if bool(val.values) != bool(measured):
            yield opt.warning("nothing is validated without both a section 'val' and a dataset 'val'", "val")
        if "debug" in (opt["name"] or "") and not run.context.debug:
            text = f"{opt['name']}: BasicSR takes 'debug' in a name for its debug mode: val_freq and"
            text += " save_checkpoint_freq become 8, print_freq 1, and TensorBoard and wandb are left out"
            yield opt.warning(f"{text}; write another name", "name")
    elif val["save_img"] and "suffix" not in val and not run.is_contrast_model:
        yield val.error("no suffix, which save_img: true needs; write 'suffix: ~' for none")
    names = [dataset["name"] for dataset in measured]
    for dataset in measured:
        if dataset["name"] is not None and names.count(dataset["name"]) > 1:
            text = "is that of another too: they share their best metrics, their curves and the folder of their results"
            yield dataset.warning(f"{dataset['name']}: {text}; give each a name of its own", "name")
