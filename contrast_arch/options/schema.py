"""Keys of an option file, each once: type, default, unit and a line of help.

:class:`OptionFile` is what BasicSR 1.4.2 reads for SRModel, with the keys of ContrastModel and contrast-train.
Validation, messages, ``docs/options.md`` and ``options/schema.json`` are made from it. The arguments of networks stand
with the networks.
"""

import functools
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, Strict, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

CONTRAST_MODEL, SR_MODEL = "ContrastModel", "SRModel"
# Purposes for which BasicSR reads a key without asking whether it is there, some of them hours into a run.
TRAINING, TESTING = ("training",), ("testing",)
ALWAYS = TRAINING + TESTING
# With their types in torch.
AMP = {"bf16": "bfloat16", "fp16": "float16"}
# The second and third replay CUDA graphs.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CUDA_GRAPH_MODES = COMPILE_MODES[1:3]


def _number(value):
    # Larger numbers are slips, and some whole numbers of Python overflow a float.
    if isinstance(value, (int, float)) and not abs(value) < 1e100:
        raise ValueError("out of range")
    return value


def _whole_float(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole(lowest: int, highest: int | None = None, floats: bool = False) -> Any:
    """Type of a whole number; with ``floats`` of one such as ``!!float 5e3`` too, which becomes an int."""
    more = [BeforeValidator(_whole_float)] if floats else []
    return Annotated[(int, Field(strict=True, ge=lowest, le=highest), *more, BeforeValidator(_number))]


def number(lowest: float | None = None, highest: float | None = None, above: float | None = None) -> Any:
    """Type of a finite number."""
    return Annotated[float, Field(strict=True, ge=lowest, le=highest, gt=above), BeforeValidator(_number)]


def listed(kind: Any, allowed: str) -> Any:
    """Type of a list, and its wording."""
    return Annotated[list[kind], Field(json_schema_extra={"allowed": allowed})]


def _text(regex, allowed, **schema):
    """Type of a text that matches an expression as a whole; ``schema`` is what JSON schema can say of it."""
    kind = Field(strict=True, pattern=rf"(?s)\A(?:{regex})\Z")
    return Annotated[str, kind, WithJsonSchema({"type": "string", **schema, "allowed": allowed})]


Flag, Text = Annotated[bool, Strict()], _text(r"[^\0]+", "text")
# BasicSR makes the names of the images that it saves with them.
Inside = _text(
    r"(?!/)(?!(.*[/\\])?\.\.([/\\]|\Z))[^\0]+", "text that leads out of no folder: without .., and no / in front"
)
# A path of Windows in double quotes would have such characters: "D:\new" is a line break.
FilePath = _text(r"[^\0\a\b\t\n\v\f\r\x1b]+", "a path (on Windows with / or in single quotes)")
# "" and "." are the folder of all experiments; a file system takes 255 bytes.
FolderName = _text(r"(?![. ]*\Z)[^/\\\0]{1,200}", "text that can name a folder, without slashes")
Template = _text(
    r"[^{}]*\{\}[^{}]*", "the name of an LQ image, with {} for that of its GT, such as '{}x4'", pattern=r"\{\}"
)
_Module = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*\Z"), WithJsonSchema({"type": "string"})]
Iterations = listed(whole(0, floats=True), "a list of iterations, such as [250000, 400000]")
Periods = listed(whole(1, floats=True), "a list of numbers of iterations, such as [250000, 250000]")
Numbers = listed(number(), "a list of numbers")
Modules = listed(_Module, "a list of modules, such as [hat.archs, hat.models]")
Names = Annotated[str | list[str], WithJsonSchema({"allowed": "network_g, or a list of such names"})]


def _key(help: str, default: Any = None, **more):
    """
    Args:
        help: a line.
        default: None where there is none; ... where the section needs the key.
        more: unit; needed: purposes for which the key has to be there (in a dataset other than train, where it is
            ALWAYS); of: the reader, BasicSR unless given; allowed: allowed values, where the type does not word them.
    """
    return Field(default, description=help, json_schema_extra=more)


_own, _loops = functools.partial(_key, of=CONTRAST_MODEL), functools.partial(_key, of="contrast-train")
_interval = functools.partial(_key, unit="iterations", needed=TRAINING)


class Keys(BaseModel, regex_engine="python-re"):
    """Keys of a section."""


class Open(Keys, extra="allow"):
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


class Tile(Keys):
    size: whole(1) = _own(
        "Side of a tile", ..., unit="LQ pixels", allowed="a whole number of LQ pixels, a multiple of window_size"
    )
    overlap: whole(0) | None = _own(
        "Overlap of neighbours",
        unit="LQ pixels",
        allowed="a whole number of LQ pixels, a multiple of window_size, at most half of size",
    )


class Train(Keys):
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


class Dataset(Keys):
    batch_size_per_gpu: whole(1) = _key("Images of a batch, in each process", unit="images", needed=TRAINING)
    num_worker_per_gpu: whole(0, 128) = _key(
        "Processes that load images, for each GPU", unit="processes", needed=TRAINING
    )
    dataset_enlarge_ratio: number(above=0) = _key("Repetitions of the dataset in an epoch", 1)
    name: Inside = _key("Name in the log and of the folder of results", needed=ALWAYS)
    type: Text = _key("PairedImageDataset, for a test without GT SingleImageDataset", needed=ALWAYS)
    dataroot_gt: FilePath = _key("Folder of the GT images")
    dataroot_lq: FilePath = _key("Folder of the LQ images")
    meta_info_file: FilePath | None = _key("File with the names of the images; ~: all in the folder")
    filename_tmpl: Template = _key("Name of an LQ image without its extension, {} for that of its GT", "{}")
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


class Datasets(Keys, extra="allow"):
    train: TrainingDataset = _key("Dataset of the training", needed=TRAINING)
    __pydantic_extra__: dict[str, Dataset]


class Val(Keys):
    val_freq: whole(1, floats=True) = _interval("Interval of validations")
    save_img: Flag | None = _key("Save the images of the network", needed=ALWAYS)
    pbar: Flag | None = _key("Show a progress bar", False)
    suffix: Inside | None = _key("End of the names of saved images in a test; ~: the name of the run")
    tile: Tile | None = _own("Images in tiles, such as {size: 128, overlap: 32}")
    metrics: dict[str, Metric] | None = _key("Metrics by their names in the log")


class Wandb(Keys):
    project: Text | None = _key("Project of Weights & Biases; ~: none")
    resume_id: Text | None = _key("Run that goes on")


class Logger(Keys):
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


class Paths(Keys):
    pretrain_network_g: FilePath | None = _key("Weights to begin with; for ContrastModel also the name of shipped ones")
    param_key_g: Text | None = _key("Entry of that file, such as params_ema for averaged weights", "params")
    strict_load_g: Flag | None = _key("Refuse weights that lack some of the network, or have others", True)
    resume_state: FilePath | None = _key("State that the training goes on from")
    ignore_resume_networks: Names | None = _key("Networks that keep pretrain_network_g on resuming")


class DistParams(Keys):
    backend: Text = _key("Backend of torch.distributed", "nccl")
    port: whole(1, 65535) = _key("Port of the first process under --launcher slurm", 29500)


class OptionFile(Keys):
    """An option file for training or testing."""

    name: FolderName = _key("Name of the run and of its folder", needed=ALWAYS)
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
    imports: Modules = _loops("Modules that register networks, models and datasets of a project")
    datasets: Datasets = _key("Datasets: train, val and val_...; for a test test and test_...", needed=ALWAYS)
    network_g: Network = _key("The network", needed=ALWAYS)
    path: Paths = _key("Files to begin with", needed=ALWAYS)
    train: Train = _key("Training", needed=TRAINING)
    val: Val | None = _key("Validation, or the test", needed=TESTING)
    logger: Logger = _key("Log and checkpoints", needed=TRAINING)
    dist_params: DistParams | None = _key("Processes that train together")
