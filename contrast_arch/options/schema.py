"""Keys of an option file, each once: type, default, unit and a line of help.

:class:`OptionFile` is what BasicSR 1.4.2 reads for SRModel, with the keys of ContrastModel and contrast-train. Both
read theirs by :func:`settings_of`. Messages, ``docs/options.md`` and ``options/schema.json`` are made from it. The
arguments of networks stand with the networks.
"""

import functools
from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from contrast_arch.options import kinds
from contrast_arch.options.kinds import Flag, Text, listed, number, whole
from contrast_arch.options.messages import shortened, unfit
from contrast_arch.options.problems import Path, Problem, raise_errors

CONTRAST_MODEL, SR_MODEL = "ContrastModel", "SRModel"
# Readers of keys that are not BasicSR's.
MODEL, LOOP = CONTRAST_MODEL, "contrast-train"
# Purposes for which BasicSR reads a key without asking whether it is there, some of them hours into a run.
TRAINING, TESTING = ("training",), ("testing",)
ALWAYS = TRAINING + TESTING
# With their types in torch.
AMP = {"bf16": "bfloat16", "fp16": "float16"}
# The second and third replay CUDA graphs.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CUDA_GRAPH_MODES = COMPILE_MODES[1:3]
Iterations = listed(whole(0, floats=True), "a list of iterations, such as [250000, 400000]")
Periods = listed(whole(1, floats=True), "a list of numbers of iterations, such as [250000, 250000]")
Numbers = listed(number(), "a list of numbers")


def _key(help: str, default: Any = None, **more):
    """
    Args:
        help: a line.
        default: None where there is none; ... where the section needs the key.
        more: unit; needed: purposes for which the key has to be there (in a dataset other than train, where it is
            ALWAYS); of: the reader, BasicSR unless given; allowed: allowed values, where the type does not word them.
    """
    return Field(default, description=help, json_schema_extra=more)


_own, _loops = functools.partial(_key, of=MODEL), functools.partial(_key, of=LOOP)
_interval = functools.partial(_key, unit="iterations", needed=TRAINING)


class Section(BaseModel, regex_engine="python-re"):
    """Keys of a section; others are reported by :mod:`contrast_arch.options.validation`."""


class Open(Section, extra="allow"):
    """A section whose other keys are arguments of the named part."""

    type: Text = _key("Its registered name")


class Network(Open):
    type: Text = _key("Its registered name; the other keys are its arguments, see networks.md", needed=ALWAYS)


class Optimizer(Open):
    type: Text = _key("Adam; ContrastModel takes any of torch.optim but LBFGS and SparseAdam")
    lr: number(0) = _key("Learning rate, such as !!float 2e-4")
    betas: Any = _key("Decays of the averages of Adam, such as [0.9, 0.99]")
    weight_decay: Any = _key("Weight decay", 0)


class Scheduler(Open):
    type: Text = _key("MultiStepLR or CosineAnnealingRestartLR")
    milestones: Iterations = _key("MultiStepLR: iterations at which the rate is multiplied by gamma", unit="iterations")
    gamma: number(above=0) = _key("MultiStepLR: factor on the rate at a milestone", 0.1)
    restarts: Iterations = _key("MultiStepLR: iterations at which the rate starts anew", [0], unit="iterations")
    restart_weights: Numbers = _key("MultiStepLR: factors on the rate after each restart")
    periods: Periods = _key("CosineAnnealingRestartLR: lengths of its periods, total_iter together", unit="iterations")
    eta_min: number(0) = _key("CosineAnnealingRestartLR: the lowest rate", 0)


class Loss(Open):
    type: Text = _key("L1Loss, MSELoss, CharbonnierLoss, PerceptualLoss or another that is registered")
    loss_weight: Any = _key("Factor", 1.0)
    reduction: Any = _key("mean, sum or none", "mean")


class Metric(Open):
    type: Text = _key("calculate_psnr, calculate_ssim, calculate_niqe or another that is registered")
    crop_border: whole(0) = _key(
        "Pixels left out at each side", unit="pixels", allowed="a whole number of at least 0, the scale as a rule"
    )
    test_y_channel: Any = _key("Compare the Y channel of YCbCr", False)
    better: Literal["higher", "lower"] = _key("Order of values, for the best one in the log", "higher")


class IoBackend(Open):
    type: Any = _key("disk, lmdb or memcached", "disk")


class Tile(Section):
    size: whole(1) = _own(
        "Side of a tile", ..., unit="LQ pixels", allowed="a whole number of LQ pixels, a multiple of window_size"
    )
    overlap: whole(0) | None = _own(
        "Overlap of neighbours",
        unit="LQ pixels",
        allowed="a whole number of LQ pixels, a multiple of window_size, at most half of size",
    )


class Train(Section):
    total_iter: whole(1, 10**9, floats=True) = _interval("Length of the training")
    warmup_iter: whole(-1, floats=True) = _key(
        "Length of the rise of the rate to that of optim_g; -1: none", -1, unit="iterations"
    )
    ema_decay: number(0, 1) = _key("Decay of the averaged weights in an iteration; 0: none", 0)
    amp: Literal[tuple(AMP)] | None = _own(
        "Mixed precision: autocast for the network, losses in float32; fp16 with a GradScaler"
    )
    accumulate: whole(1) | None = _own(
        "Batches of batch_size_per_gpu images whose gradients make an iteration", 1, unit="micro-batches"
    )
    compile: Flag | Literal[COMPILE_MODES] | None = _own("torch.compile for training, or its mode", False)
    clip_grad_norm: number(above=0) | None = _own("Largest 2-norm of the gradients; larger ones are scaled down to it")
    channels_last: Flag | None = _own("Memory format of the convolutions, except depthwise ones", False)
    max_nonfinite: whole(1) | None = _own(
        "Longest series without a finite loss or gradient before the run ends", 10, unit="iterations"
    )
    max_hours: number(above=0) | None = _loops("Longest duration; the run saves and ends before", unit="hours")
    requeue: Flag | None = _loops("Requeue the job of Slurm when max_hours are over", False)
    watchdog_minutes: number(0, 525_600) | None = _loops(
        "Longest time without an iteration, a save or an image of a validation before the run ends with exit code 75; "
        "0: any; ~: 30, for one process any",
        unit="minutes",
    )
    optim_g: Optimizer = _key("Optimizer", needed=TRAINING)
    scheduler: Scheduler = _key("Schedule of the learning rate", needed=TRAINING)
    pixel_opt: Loss | None = _key("Loss on pixels")
    perceptual_opt: Loss | None = _key("Loss on features of VGG")

    @field_validator("compile")
    @classmethod
    def _graphs_do_not_accumulate(cls, mode, info):
        count = info.data.get("accumulate") or 1
        if mode in CUDA_GRAPH_MODES and count > 1:
            text = f"accumulate: 1, not {count}: a CUDA graph overwrites the gradients of the micro-batch before"
            raise PydanticCustomError("together", f"expected {text}; write compile: true, or no accumulate")
        return mode


class Dataset(Section):
    batch_size_per_gpu: whole(1) = _key("Images of a batch, in each process", unit="images", needed=TRAINING)
    num_worker_per_gpu: whole(0, 128) = _key(
        "Processes that load images, for each GPU", unit="processes", needed=TRAINING
    )
    dataset_enlarge_ratio: number(above=0) = _key("Repetitions of the dataset in an epoch", 1)
    name: kinds.Inside = _key("Name in the log and of the folder of results", needed=ALWAYS)
    type: Text = _key("PairedImageDataset, for a test without GT SingleImageDataset", needed=ALWAYS)
    dataroot_gt: kinds.FilePath = _key("Folder of the GT images")
    dataroot_lq: kinds.FilePath = _key("Folder of the LQ images")
    meta_info_file: kinds.FilePath | None = _key("File with the names of the images; ~: all in the folder")
    filename_tmpl: kinds.Template = _key("Name of an LQ image without its extension, {} for that of its GT", "{}")
    io_backend: IoBackend = _key("Storage of the images")
    gt_size: whole(1) = _key("Side of a training patch, a multiple of scale", unit="GT pixels", needed=TRAINING)
    use_hflip: Flag | None = _key("Flip patches at random", needed=TRAINING)
    use_rot: Flag | None = _key("Turn patches at random", needed=TRAINING)
    pin_memory: Flag | None = _key("Page-locked memory for batches", False)
    persistent_workers: Flag | None = _key("Keep the loading processes between epochs", False)
    prefetch_mode: Literal["cpu", "cuda"] | None = _key("Fetch batches ahead: by a thread, or on a CUDA stream")
    num_prefetch_queue: whole(1) = _key("Length of the queue of prefetch_mode: cpu", 1, unit="batches")
    color: Text | None = _key("y: one channel, Y of YCbCr")
    mean: Numbers | None = _key("Mean that is subtracted, for each channel")
    std: Numbers | None = _key("Standard deviation to divide by, for each channel")


class TrainingDataset(Dataset):
    skip_unreadable: Flag | None = _loops(
        "Take the next image in place of one that cannot be read, and name that in the log", False
    )


class Datasets(Section, extra="allow"):
    train: TrainingDataset = _key("Dataset of the training", needed=TRAINING)
    __pydantic_extra__: dict[str, Dataset]


class Val(Section):
    val_freq: whole(1, floats=True) = _interval("Interval of validations")
    save_img: Flag | None = _key("Save the images of the network", needed=ALWAYS)
    pbar: Flag | None = _key("Show a progress bar", False)
    suffix: kinds.Inside | None = _key("End of the names of saved images in a test; ~: the name of the run")
    tile: Tile | None = _own("Images in tiles, such as {size: 128, overlap: 32}")
    metrics: dict[str, Metric] | None = _key("Metrics by their names in the log")


class Wandb(Section):
    project: Text | None = _key("Project of Weights & Biases; ~: none")
    resume_id: Text | None = _key("Run that goes on")


class Logger(Section):
    print_freq: whole(1, floats=True) = _interval("Interval of lines in the log")
    save_checkpoint_freq: whole(1, floats=True) = _interval("Interval of checkpoints and states")
    use_tb_logger: Flag | None = _key("Write events for TensorBoard", needed=TRAINING)
    wandb: Wandb | None = _key("Weights & Biases; needs use_tb_logger")
    keep_last: whole(1) | None = _loops(
        "Newest states that are kept, besides those of the best metrics; ~: all", unit="states"
    )
    save_format: Literal["pth", "safetensors"] | None = _loops(
        "Format of checkpoints; safetensors is written beside pth, with the averaged weights where there are any", "pth"
    )


class Paths(Section):
    pretrain_network_g: kinds.FilePath | None = _key(
        "Weights to begin with; for ContrastModel also the name of shipped ones"
    )
    param_key_g: Text | None = _key("Entry of that file, such as params_ema for averaged weights", "params")
    strict_load_g: Flag | None = _key("Refuse weights that lack some of the network, or have others", True)
    resume_state: kinds.FilePath | None = _key("State that the training goes on from")
    ignore_resume_networks: kinds.Names | None = _key("Networks that keep pretrain_network_g on resuming")


class DistParams(Section):
    backend: Text = _key("Backend of torch.distributed", "nccl")
    port: whole(1, 65535) = _key("Port of the first process under --launcher slurm", 29500)


class OptionFile(Section):
    """An option file for training or testing."""

    name: kinds.FolderName = _key("Name of the run and of its folder", needed=ALWAYS)
    model_type: Text = _key("SRModel, ContrastModel or another that is registered", needed=ALWAYS)
    scale: whole(1) = _key("GT size over LQ size", needed=TRAINING)
    num_gpu: Literal["auto"] | whole(0) = _key(
        "Number of GPUs; auto: all that PyTorch sees",
        unit="GPUs",
        needed=ALWAYS,
        allowed="auto, or the number of GPUs, 0 for none",
    )
    # NumPy takes 32 bits, and each process and worker adds its number.
    manual_seed: whole(0, 2**32 - 2**16) | None = _key("Seed; ~: a random one")
    find_unused_parameters: Flag | None = _key("Argument of DistributedDataParallel", False)
    imports: kinds.Modules = _loops("Modules that register networks, models and datasets of a project")
    datasets: Datasets = _key("Datasets: train, val and val_...; for a test test and test_...", needed=ALWAYS)
    network_g: Network = _key("The network", needed=ALWAYS)
    path: Paths = _key("Files to begin with", needed=ALWAYS)
    train: Train = _key("Training", needed=TRAINING)
    val: Val | None = _key("Validation, or the test", needed=TESTING)
    logger: Logger = _key("Log and checkpoints", needed=TRAINING)
    dist_params: DistParams | None = _key("Processes that train together")


def settings_of(opt: dict) -> OptionFile:
    """Read the keys of ContrastModel and contrast-train from options.

    Args:
        opt: as BasicSR parsed them, complete or not. Keys of BasicSR and of others are passed over; ``~`` is the
            default, which ContrastModel's keys have with SRModel too.

    Raises:
        InputError: all values that cannot be used, a line each.
    """
    given = {}
    for path in OWN:
        *sections, key = path
        section, value = given, value_at(opt, path)
        for name in sections:
            section = section.setdefault(name, {})
        if value is not None and (path not in KEYS or opt.get("model_type") != SR_MODEL):
            section[key] = value
    raise_errors([Problem.at(path, f"{shortened(value)}: {words}") for path, value, words in unfit(OptionFile, given)])
    return OptionFile.model_validate(given)


def value_at(options: dict, path: Path) -> Any:
    """Value of the key at a path; None without one."""
    for key in path:
        options = options.get(key) if isinstance(options, dict) else None
    return options


def micro_batches(opt: dict) -> int:
    """Number of micro-batches per iteration (1 for models that do not accumulate)."""
    return settings_of(opt).train.accumulate if opt.get("model_type") == CONTRAST_MODEL else 1


def _own_keys(model, path=()) -> Iterator[tuple[Path, FieldInfo]]:
    for name, field in model.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        section = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if "of" in field.json_schema_extra:
            yield (*path, name), field
        elif section:
            yield from _own_keys(section, (*path, name))


# Keys that are not BasicSR's, by their path, and those of them that ContrastModel adds; val: tile is one.
OWN = dict(_own_keys(OptionFile))
KEYS = {path: field for path, field in OWN.items() if field.json_schema_extra["of"] == MODEL}
