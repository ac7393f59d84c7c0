"""Numbers that have to agree with each other: sizes, iterations, intervals, batches, the length of a dataset."""

import importlib.util
import math
from collections.abc import Iterator

import torch

from contrast_arch.check.context import Run, one_process_per_gpu
from contrast_arch.check.parts import make_scheduler, trains_as_srmodel
from contrast_arch.options.generate import IMAGES_PER_CHECKPOINT
from contrast_arch.options.problems import Problem
from contrast_arch.options.schema import CONTRAST_MODEL, micro_batches

# The sampler makes a list of the numbers of all images of an epoch.
LONGEST_EPOCH = 10**8
# Metric -> the pixels that it needs after crop_border, in words, and True if a width and a height are enough.
METRIC_SIZES = {
    # The Gaussian window. BasicSR gives NaN for less.
    "calculate_ssim": ("11x11", lambda width, height: min(width, height) >= 11),
    "calculate_ssim_pt": ("11x11", lambda width, height: min(width, height) >= 11),
    # The covariance of the features of its blocks of 96x96. BasicSR fails with less than two.
    "calculate_niqe": ("192x96 or 96x192", lambda width, height: (width // 96) * (height // 96) >= 2),
}


def size_problems(run: Run) -> Iterator[Problem]:
    """Hold ``gt_size``, ``crop_border`` and ``tile`` against scale, windows and images."""
    opt, scale, window = run.opt, run.opt["scale"], getattr(run.network, "window_size", None)
    gt_size = run.train_data["gt_size"] if opt["is_train"] else None
    if gt_size and scale and gt_size % scale:
        yield run.train_data.error(f"{gt_size} is not a multiple of scale: {scale}", "gt_size")
    elif gt_size and scale and window and gt_size // scale % window:
        lq = gt_size // scale
        fitting = " or ".join(str(size * window * scale) for size in (lq // window, -(-lq // window)) if size)
        text = f"{gt_size} is {lq} LQ pixels, no multiple of window_size {window}: the network pads every patch"
        yield run.train_data.warning(f"{text}; {fitting} would fit", "gt_size")
    for metric in opt.section("val", "metrics"):
        border = metric.values.get("crop_border", scale)
        small = [metric.error(text, "crop_border") for text in _too_small(metric["type"], border, run.pairs)]
        yield from small
        if not small and scale and border != scale:
            text = f"{border} is not the scale, {scale}, as is usual: the figures will not compare"
            yield metric.warning(text, "crop_border")
        grey = any(dataset["color"] == "y" for dataset in opt.section("datasets"))
        if metric["type"] in ("calculate_psnr", "calculate_ssim") and not (metric["test_y_channel"] or grey):
            text = f"false: {metric['type']} is of RGB; most published figures are of Y: test_y_channel: true"
            yield metric.warning(text, "test_y_channel")
    tile = opt.section("val", "tile")
    if run.is_contrast_model and tile.values:
        size, overlap = tile["size"], tile["overlap"]
        for key, value in tile.values.items() if window else ():
            if value and value % window:
                yield tile.error(f"{value} is not a multiple of the network's window_size {window}", key)
        if size and overlap and 2 * overlap > size:
            yield tile.error(f"{overlap}: expected at most half of size: {size}", "overlap")


def _too_small(metric, border, found):
    """Name the smallest image of each validation and test set where it is too small for a metric."""
    needed, is_enough = METRIC_SIZES.get(metric, ("1x1", lambda width, height: min(width, height) >= 1))
    for phase, pairs in found.items():
        small = [result for result in pairs.results if not is_enough(*(side - 2 * border for side in result[1:]))]
        if small:
            image, *sides = min(small, key=lambda result: min(result[1:]))
            left = "x".join(str(max(0, side - 2 * border)) for side in sides)
            text = f"{border} leaves {left} pixels of {image} of datasets: {phase}, and {metric} needs at least"
            yield f"{text} {needed}: leave the image out, or the metric, or write the scale"


def schedule_problems(run: Run) -> Iterator[Problem]:
    """Hold the learning rate's schedule, made for real, against ``total_iter`` and ``warmup_iter``."""
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
    except Exception:  # what keeps it from being made is found on its own
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
    """Hold the rate with which BasicSR goes on after a warm-up against that of the option file."""
    from contrast_arch.models.optimizers import multi_step_rates

    (group,) = schedule.optimizer.param_groups
    schedule.last_epoch = warmup - 1
    # Of the last iteration of the warm-up, where BasicSR's schedule goes on.
    group["lr"] = group["initial_lr"] / warmup * (warmup - 1)
    basicsrs, files = (f"{rates[0]:.6g}" for rates in (schedule.get_lr(), multi_step_rates(schedule)))
    if basicsrs != files:
        restart = min((at for at in schedule.restarts if at >= warmup), default=None)
        until = "to the end" if restart is None else f"until its restart at {restart}"
        yield run.train.warning(
            f"{warmup}: after the warm-up {run.opt['model_type']} trains with a rate of {basicsrs}, not {files}, "
            f"{until}: BasicSR's schedule goes on from the last rate of the warm-up, and skips the milestones inside "
            f"it; 'model_type: {CONTRAST_MODEL}' takes {files}; or write warmup_iter: -1",
            "warmup_iter",
        )


def _processes(run):
    """Number of devices that share a batch of BasicSR's: processes, or the GPUs of DataParallel."""
    return run.context.world_size if run.context.distributed else max(1, run.opt["num_gpu"] or 0)


def interval_problems(run: Run) -> Iterator[Problem]:
    """Hold checkpoints and validations against the 48,000 images between those of the published comparison."""
    per_gpu, logger = run.train_data["batch_size_per_gpu"], run.opt.section("logger")
    if per_gpu is None:
        return
    processes, accumulate = _processes(run), micro_batches(run.opt.values)
    batch = per_gpu * processes * accumulate
    factors = f"batch_size_per_gpu {per_gpu}" + (f" x {processes} processes" if processes > 1 else "")
    factors += f" x accumulate {accumulate}" if accumulate > 1 else ""
    fitting = max(1, round(IMAGES_PER_CHECKPOINT / batch))
    for section, key in ((run.opt.section("val"), "val_freq"), (logger, "save_checkpoint_freq")):
        if section[key] not in (None, fitting):
            text = f"{section[key]} iterations are {section[key] * batch:,.0f} images ({factors}), not the "
            text += f"{IMAGES_PER_CHECKPOINT:,} of the published comparison; {fitting} would be"
            yield section.warning(text, key)
    total, save = run.train["total_iter"], logger["save_checkpoint_freq"]
    if total and save and save > total:
        text = f"{save} is not reached in total_iter: {total} iterations: no state is saved to resume from"
        yield logger.warning(text, "save_checkpoint_freq")


def length_problems(run: Run) -> Iterator[Problem]:
    """Hold the length of the training data against the batch."""
    dataset, total, context = run.train_data, run.train["total_iter"], run.context
    per_gpu, ratio = dataset["batch_size_per_gpu"], dataset.values.get("dataset_enlarge_ratio", 1)
    if per_gpu is None or "train" not in run.pairs:
        return
    images = len(run.pairs["train"].lq)
    if images * ratio > LONGEST_EPOCH:
        text = f"{ratio}: {images * ratio:.3g} images an epoch; expected at most {LONGEST_EPOCH:.0e}"
        yield dataset.error(text, "dataset_enlarge_ratio")
        return
    world, by_basicsr = context.world_size, context.trainer == "basicsr"
    # contrast-train shares out whole batches.
    batch = per_gpu * _processes(run) // world * (1 if by_basicsr else micro_batches(run.opt.values))
    own = math.ceil(images * ratio) / world
    if own < batch:
        text = f"{images} images (dataset_enlarge_ratio {ratio}) are {own:g} a process, less than a batch of {batch}: "
        text += f"nothing would be trained; raise dataset_enlarge_ratio to {math.ceil(batch * world / images)}"
        yield dataset.error(text, "batch_size_per_gpu")
    elif by_basicsr and total is not None:
        # It counts as epochs what it would take with the last, incomplete batches, and then leaves those out.
        epochs = math.ceil(int(total) / math.ceil(images * ratio / (per_gpu * world))) + 1
        end = math.ceil(images * ratio / world) // batch * epochs
        ends, num_gpu = f"training ends after iteration {end} of {int(total)}", run.opt["num_gpu"] or 0
        if end < total and num_gpu > 1 and not context.distributed:
            why = f"{num_gpu} without --launcher: BasicSR counts epochs in batches of one GPU"
            yield run.opt.warning(f"{why}: {ends}; start a process per GPU: {one_process_per_gpu(num_gpu)}", "num_gpu")
        elif end < total:
            text = f"{per_gpu}: BasicSR counts the incomplete batches of epochs, which it leaves out: {ends}"
            yield dataset.warning(f"{text}; raise dataset_enlarge_ratio", "batch_size_per_gpu")


def log_problems(run: Run) -> Iterator[Problem]:
    """Find what loggers and validation lack."""
    opt, logger, val = run.opt, run.opt.section("logger"), run.opt.section("val")
    datasets = list(opt.section("datasets"))
    if opt["is_train"]:
        wandb = logger.section("wandb")["project"] is not None
        if wandb and logger["use_tb_logger"] is not True:
            yield logger.error("project: needs use_tb_logger: true; BasicSR sends that on", "wandb")
        for needs, key, module in (
            (logger["use_tb_logger"], "use_tb_logger", "tensorboard"),
            (wandb, "wandb", "wandb"),
        ):
            if needs and importlib.util.find_spec(module) is None:
                yield logger.error(f"needs {module}: pip install {module}, or switch it off", key)
        sets = [dataset for dataset in datasets if dataset["phase"] == "val"]
        if val.values and not sets:
            yield val.warning("datasets has no entry 'val': nothing is validated")
        if sets and not val.values:
            yield sets[0].warning("without a section 'val' nothing is validated")
        debugs = "debug" in (opt["name"] or "")
        if debugs and not run.context.debug:
            text = f"{opt['name']}: BasicSR takes 'debug' in a name for its debug mode: val_freq and"
            text += " save_checkpoint_freq become 8, print_freq 1, and TensorBoard and wandb are left out"
            yield opt.warning(f"{text}; write another name", "name")
        if debugs and "val" in opt and opt["val"] is None:
            # It does not ask whether the section is empty.
            text = "with 'debug' in the name BasicSR writes val_freq into the section; leave it out, or give it keys"
            yield val.error(f"~: {text}")
    elif val["save_img"] and "suffix" not in val and not run.is_contrast_model:
        yield val.error("no suffix, which save_img: true needs; write 'suffix: ~' for none")
    names, sources = [dataset["name"] for dataset in datasets if dataset["phase"] != "train"], {}
    for dataset in (dataset for dataset in datasets if dataset["phase"] != "train"):
        name = dataset["name"]
        source = str([dataset[key] for key in ("dataroot_gt", "dataroot_lq", "meta_info_file")])
        first = sources.setdefault(source, dataset)
        if first is not dataset and dataset["dataroot_lq"] and name != first["name"]:
            text = f"{name}: its images are those of {first.where()}; write the folders of the set itself"
            yield dataset.warning(text, "name")
        if name is not None and names.count(name) > 1:
            text = "is that of another too: they share their best metrics, their curves and the folder of their results"
            yield dataset.warning(f"{name}: {text}; give each a name of its own", "name")
