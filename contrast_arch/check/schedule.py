"""Numbers that have to agree with each other: sizes, iterations, intervals, batches, the length of a dataset."""

import importlib.util
import math
from collections.abc import Iterator

import torch

from contrast_arch.check.kinds import whole
from contrast_arch.check.pairs import Pairs
from contrast_arch.check.parts import optimizer_and_scheduler
from contrast_arch.check.problems import Problem, error, warning
from contrast_arch.check.registered import trains_as_srmodel
from contrast_arch.check.situation import Situation, one_process_per_gpu
from contrast_arch.models.settings import OURS, micro_batches, setting
from contrast_arch.options.generate import IMAGES_PER_CHECKPOINT

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


def size_problems(opt: dict, network: torch.nn.Module | None, found: dict[str, Pairs]) -> Iterator[Problem]:
    """``gt_size``, ``crop_border`` and ``tile`` against scale, windows and images."""
    scale, window = opt.get("scale"), getattr(network, "window_size", None)
    gt_size = opt["datasets"].get("train", {}).get("gt_size") if opt["is_train"] else None
    at = ("datasets", "train", "gt_size")
    if gt_size and scale and gt_size % scale:
        yield error(at, f"datasets: train: gt_size: {gt_size} is not a multiple of scale: {scale}")
    elif gt_size and scale and window and gt_size // scale % window:
        lq = gt_size // scale
        fitting = sorted({max(1, lq // window) * window * scale, -(-lq // window) * window * scale})
        yield warning(
            at,
            f"datasets: train: gt_size: {gt_size} is {lq} LQ pixels, no multiple of window_size {window}: the network "
            f"pads every patch; {' or '.join(map(str, fitting))} would fit",
        )
    for label, metric in ((opt.get("val") or {}).get("metrics") or {}).items():
        border, at = metric.get("crop_border", scale), ("val", "metrics", label, "crop_border")
        if not whole(0).fits(border):
            continue
        where = f"val: metrics: {label}: crop_border: {border}"
        small = list(_too_small(where, metric.get("type"), border, found))
        yield from (error(at, text) for text in small)
        if not small and scale and border != scale:
            yield warning(at, f"{where} is not the scale, {scale}, as is usual: the figures will not compare")
        grey = any(dataset.get("color") == "y" for dataset in opt["datasets"].values())
        if metric.get("type") in ("calculate_psnr", "calculate_ssim") and not (metric.get("test_y_channel") or grey):
            text = f"val: metrics: {label}: test_y_channel: false: {metric['type']} is of RGB"
            yield warning((*at[:3], "test_y_channel"), f"{text}; most published figures are of Y: test_y_channel: true")
    if opt.get("model_type") == OURS:
        yield from _tile_problems(opt, window)


def _too_small(where, metric, border, found) -> Iterator[str]:
    """Name the smallest image of each validation and test set where it is too small for a metric."""
    needed, is_enough = METRIC_SIZES.get(metric, ("1x1", lambda width, height: min(width, height) >= 1))
    for phase, pairs in found.items():
        small = [result for result in pairs.results if not is_enough(*(side - 2 * border for side in result[1:]))]
        if not small:
            continue
        image, width, height = min(small, key=lambda result: min(result[1:]))
        left = width - 2 * border, height - 2 * border
        if min(left) < 1:
            yield f"{where} leaves nothing of an image of {min(width, height)} pixels ({image}); the scale is usual"
        else:
            yield (
                f"{where} leaves {left[0]}x{left[1]} pixels of {image} of datasets: {phase}, and {metric} needs at "
                f"least {needed}: leave the image out, or the metric"
            )


def _tile_problems(opt, window):
    size, overlap = (setting(opt, "val", "tile", key) for key in ("size", "overlap"))
    for key, value in (("size", size), ("overlap", overlap)):
        if value and window and value % window:
            yield error(
                ("val", "tile", key),
                f"val: tile: {key}: {value} is not a multiple of the network's window_size {window}",
            )
    if size and overlap and 2 * overlap > size:
        yield error(("val", "tile", "overlap"), f"val: tile: overlap: {overlap}: expected at most half of size: {size}")


def schedule_problems(opt: dict) -> Iterator[Problem]:
    """The learning rate's schedule against ``total_iter``."""
    train = opt["train"]
    total, scheduler = train.get("total_iter"), train.get("scheduler") or {}
    if total is None:
        return
    late = [milestone for milestone in _numbers(scheduler.get("milestones")) if milestone >= total]
    at = ("train", "scheduler")
    if late and str(scheduler.get("type")).startswith("MultiStep"):
        yield warning(
            (*at, "milestones"),
            f"train: scheduler: milestones: {late} are not reached in total_iter: {total} iterations",
        )
    periods = _numbers(scheduler.get("periods"))
    if periods and scheduler.get("type") == "CosineAnnealingRestartLR":
        # The rate of the last iteration is that at total_iter - 1.
        if sum(periods) < total - 1:
            yield error(
                (*at, "periods"),
                f"train: scheduler: periods: {periods} end after {sum(periods)} of {total} iterations, where "
                "BasicSR fails; make their sum the same",
            )
        elif sum(periods) > total:
            text = f"train: scheduler: periods: {periods} are {sum(periods)} iterations, total_iter: {total}"
            yield warning((*at, "periods"), f"{text}; the rate does not come down to eta_min")
    warmup = train.get("warmup_iter", -1)
    if warmup >= total:
        yield warning(
            ("train", "warmup_iter"),
            f"train: warmup_iter: {warmup}: with total_iter: {total} the rate never becomes that of optim_g",
        )
    elif warmup > 1 and trains_as_srmodel(opt, "update_learning_rate"):
        yield from _warmup_problems(opt, int(warmup))


def _warmup_problems(opt, warmup):
    """Hold the rate with which BasicSR goes on after a warm-up against that of the option file."""
    from basicsr.models.lr_scheduler import MultiStepRestartLR

    from contrast_arch.models.schedules import multi_step_rates

    try:
        optimizer, schedule = optimizer_and_scheduler(opt)
    except Exception:  # what they raise is found on its own
        return
    if not isinstance(schedule, MultiStepRestartLR):
        return
    (group,) = optimizer.param_groups
    schedule.last_epoch = warmup - 1
    # Of the last iteration of the warm-up, where BasicSR's schedule goes on.
    group["lr"] = group["initial_lr"] / warmup * (warmup - 1)
    basicsrs, files = (f"{rates[0]:.6g}" for rates in (schedule.get_lr(), multi_step_rates(schedule)))
    if basicsrs != files:
        restart = min((at for at in schedule.restarts if at >= warmup), default=None)
        until = "to the end" if restart is None else f"until its restart at {restart}"
        yield warning(
            ("train", "warmup_iter"),
            f"train: warmup_iter: {warmup}: after the warm-up {opt['model_type']} trains with a rate of {basicsrs}, "
            f"not {files}, {until}: BasicSR's schedule goes on from the last rate of the warm-up, and skips the "
            f"milestones inside it; 'model_type: {OURS}' takes {files}; or write warmup_iter: -1",
        )


def _numbers(values):
    return list(values) if isinstance(values, (list, tuple)) and all(map(whole(0, floats=True).fits, values)) else []


def interval_problems(opt: dict, situation: Situation) -> Iterator[Problem]:
    """Checkpoints and validations against the 48,000 images between those of the published comparison."""
    per_gpu = opt["datasets"].get("train", {}).get("batch_size_per_gpu")
    if per_gpu is None:
        return
    processes = situation.world_size if situation.distributed else max(1, opt.get("num_gpu", 0))
    accumulate = micro_batches(opt)
    batch = per_gpu * processes * accumulate
    factors = f"batch_size_per_gpu {per_gpu}" + (f" x {processes} processes" if processes > 1 else "")
    factors += f" x accumulate {accumulate}" if accumulate > 1 else ""
    for section, key in (("val", "val_freq"), ("logger", "save_checkpoint_freq")):
        interval = (opt.get(section) or {}).get(key)
        fitting = max(1, round(IMAGES_PER_CHECKPOINT / batch))
        if interval is not None and interval != fitting:
            yield warning(
                (section, key),
                f"{section}: {key}: {interval} iterations are {interval * batch:,.0f} images ({factors}), not the "
                f"{IMAGES_PER_CHECKPOINT:,} of the published comparison; {fitting} would be",
            )
    total, save = opt["train"].get("total_iter"), (opt.get("logger") or {}).get("save_checkpoint_freq")
    if total and save and save > total:
        text = (
            f"logger: save_checkpoint_freq: {save} is not reached in total_iter: {total} iterations: no state is saved"
        )
        yield warning(("logger", "save_checkpoint_freq"), f"{text} to resume from")


def length_problems(opt: dict, situation: Situation, images: int) -> Iterator[Problem]:
    """The length of the training data against the batch.

    BasicSR counts as epochs what it would take with the last, incomplete batches, and then leaves those out.

    Args:
        images: in the dataset.
    """
    dataset, total = opt["datasets"]["train"], opt["train"].get("total_iter")
    per_gpu, ratio = dataset.get("batch_size_per_gpu"), dataset.get("dataset_enlarge_ratio", 1)
    if per_gpu is None:
        return
    at = ("datasets", "train", "batch_size_per_gpu")
    if images * ratio > LONGEST_EPOCH:
        text = f"datasets: train: dataset_enlarge_ratio: {ratio}: {images * ratio:.3g} images an epoch"
        yield error(("datasets", "train", "dataset_enlarge_ratio"), f"{text}; expected at most {LONGEST_EPOCH:.0e}")
        return
    world, ours = situation.world_size, opt.get("model_type") == OURS
    batch = per_gpu * (1 if situation.distributed else max(1, opt.get("num_gpu", 0)))
    batch *= micro_batches(opt)
    # ContrastModel shares out whole batches, BasicSR images.
    own = math.ceil(images * ratio) / world if ours else math.ceil(images * ratio / world)
    batches = int(own // batch)
    if not batches:
        yield error(
            at,
            f"datasets: train: {images} images (dataset_enlarge_ratio {ratio}) are {own:g} a process, less than a "
            f"batch of {batch}: nothing would be trained; raise dataset_enlarge_ratio to "
            f"{math.ceil(batch * world / images)}",
        )
    elif total is not None and opt.get("model_type") == "SRModel":
        epochs = math.ceil(int(total) / math.ceil(images * ratio / (per_gpu * world))) + 1
        ends = f"training ends after iteration {epochs * batches} of {int(total)}"
        if epochs * batches < total and opt.get("num_gpu", 0) > 1 and not situation.distributed:
            num_gpu = opt["num_gpu"]
            why = f"num_gpu: {num_gpu} without --launcher: BasicSR counts epochs in batches of one GPU"
            yield warning(("num_gpu",), f"{why}: {ends}; start a process per GPU: {one_process_per_gpu(num_gpu)}")
        elif epochs * batches < total:
            why = "datasets: train: SRModel counts the incomplete batches of epochs, which it leaves out"
            yield warning(at, f"{why}: {ends}; raise dataset_enlarge_ratio")


def log_problems(opt: dict, situation: Situation) -> Iterator[Problem]:
    """Loggers and validation: what they need beside them."""
    logger, val = opt.get("logger") or {}, opt.get("val") or {}
    if opt["is_train"]:
        if logger.get("use_tb_logger") and importlib.util.find_spec("tensorboard") is None:
            yield error(
                ("logger", "use_tb_logger"), "logger: use_tb_logger: true needs tensorboard: pip install tensorboard"
            )
        if (logger.get("wandb") or {}).get("project") is not None:
            if logger.get("use_tb_logger") is not True:
                yield error(
                    ("logger", "wandb"), "logger: wandb: project: needs use_tb_logger: true; BasicSR sends that on"
                )
            if importlib.util.find_spec("wandb") is None:
                yield error(
                    ("logger", "wandb"), "logger: wandb: project: needs wandb: pip install wandb, or write project: ~"
                )
        sets = [phase for phase in opt["datasets"] if phase.split("_")[0] == "val"]
        if val and not sets:
            yield warning(("val",), "val: datasets has no entry 'val': nothing is validated")
        if "debug" in opt.get("name", "") and not situation.debug:
            text = f"name: {opt['name']}: BasicSR takes 'debug' in a name for its debug mode: val_freq and"
            text += " save_checkpoint_freq become 8, print_freq 1, and TensorBoard and wandb are left out"
            yield warning(("name",), f"{text}; write another name")
        if "val" in opt and opt["val"] is None and "debug" in opt.get("name", ""):
            # Of every such name BasicSR changes the intervals, and does not ask whether the section is empty.
            text = "val: ~: with 'debug' in the name BasicSR writes val_freq into the section; leave it out"
            yield error(("val",), f"{text}, or give it keys")
        if sets and not val:
            yield warning(("datasets", sets[0]), f"datasets: {sets[0]}: without a section 'val' nothing is validated")
    elif val.get("save_img") and "suffix" not in val and opt.get("model_type") != OURS:
        yield error(("val",), "val has no suffix, which save_img: true needs; write 'suffix: ~' for none")
    measured = {phase: dataset for phase, dataset in opt["datasets"].items() if dataset["phase"] != "train"}
    names, sources = [dataset.get("name") for dataset in measured.values()], {}
    for phase, dataset in measured.items():
        name = dataset.get("name")
        source = str([dataset.get(key) for key in ("dataroot_gt", "dataroot_lq", "meta_info_file")])
        first = sources.setdefault(source, phase)
        if first != phase and dataset.get("dataroot_lq") and name != measured[first].get("name"):
            text = f"datasets: {phase}: name: {name}: its images are those of datasets: {first}"
            yield warning(("datasets", phase, "name"), f"{text}; write the folders of the set itself")
        if name is not None and names.count(name) > 1:
            yield warning(
                ("datasets", phase, "name"),
                f"datasets: {phase}: name: {name} is that of another too: they share their best metrics, their curves "
                "and the folder of their results; give each a name of its own",
            )
