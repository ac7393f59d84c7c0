"""Keys of an option file, each once: type, default, unit and a line of help.

:class:`OptionFile` is what BasicSR 1.4.2 reads for SRModel, with the keys of ContrastModel and contrast-train. Both
read theirs by :func:`settings_of`. Messages, ``docs/options.md`` and ``options/schema.json`` are made from it. The
arguments of networks stand with the networks.
"""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from contrast_arch.errors import InputError
from contrast_arch.options.kinds import Flag, FolderName, Modules, Names, Template, Text, choice, number, whole
from contrast_arch.options.messages import unfit
from contrast_arch.options.problems import Path

CONTRAST_MODEL, SR_MODEL = "ContrastModel", "SRModel"
# Readers of keys that are not BasicSR's.
MODEL, LOOP = CONTRAST_MODEL, "contrast-train"
# Purposes for which BasicSR reads a key without asking whether it is there, some of them hours into a run.
TRAINING, TESTING, TRAINING_DATA = "training", "testing", "training data"
ALWAYS = (TRAINING, TESTING)
# With their types in torch.
AMP = {"bf16": "bfloat16", "fp16": "float16"}
# The second and third replay CUDA graphs.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CUDA_GRAPH_MODES = COMPILE_MODES[1:3]
TILE = "such as {size: 128, overlap: 32}"
SET_BY_BASICSR = "Set by BasicSR"
ITERATIONS, NUMBERS = "a list of iterations, such as [250000, 400000]", "a list of numbers, or ~"


def _key(default: Any, help: str, unit: str = "", *, of: str = "", needed: tuple[str, ...] = (), allowed: str = ""):
    """
    Args:
        default: None where there is none.
        help: a line.
        of: the reader, ``MODEL`` or ``LOOP``; none is BasicSR.
        needed: for what the key has to be there.
        allowed: allowed values, where the type does not word them.
    """
    more = {"unit": unit, "of": of, "needed": needed, "allowed": allowed}
    return Field(default, description=help, json_schema_extra={name: value for name, value in more.items() if value})


class Open(BaseModel, extra="allow"):
    """A section whose other keys are arguments of what it names."""

    type: Text = _key(None, "Its registered name")


class Network(Open):
    type: Text = _key(None, "Its registered name; the other keys are its arguments, see networks.md", needed=ALWAYS)


class Optimizer(Open):
    type: Text = _key(None, "Adam; ContrastModel takes any of torch.optim but LBFGS and SparseAdam")
    lr: number(0) = _key(None, "Learning rate, such as !!float 2e-4")
    betas: Any = _key(None, "Decay of Adam's averages, such as [0.9, 0.99]")
    weight_decay: Any = _key(0, "Weight decay")


class Scheduler(Open):
    type: Text = _key(None, "MultiStepLR or CosineAnnealingRestartLR")
    milestones: list[whole(0, floats=True)] = _key(
        None,
        "MultiStepLR: gamma is applied at each",
        "iterations",
        allowed="a list of iterations, such as [250000, 400000]",
    )
    gamma: number(above=0) = _key(0.1, "MultiStepLR: factor on the rate at a milestone")
    restarts: list[whole(0, floats=True)] = _key(
        [0],
        "MultiStepLR: the rate starts anew at each",
        "iterations",
        allowed="a list of iterations, such as [250000, 400000]",
    )
    restart_weights: list[number()] = _key(None, "Factors on the rate after each restart")
    periods: list[whole(1, floats=True)] = _key(
        None,
        "CosineAnnealingRestartLR: lengths of its periods, total_iter together",
        "iterations",
        allowed="a list of numbers of iterations, such as [250000, 250000]",
    )
    eta_min: number(0) = _key(0, "CosineAnnealingRestartLR: the lowest rate")
    last_epoch: whole(-1, -1) = _key(-1, SET_BY_BASICSR)


class Loss(Open):
    type: Text = _key(None, "L1Loss, MSELoss, CharbonnierLoss, PerceptualLoss or another that is registered")
    loss_weight: Any = _key(1.0, "Factor")
    reduction: Any = _key("mean", "mean, sum or none")


class Metric(Open):
    type: Text = _key(None, "calculate_psnr, calculate_ssim, calculate_niqe or another that is registered")
    crop_border: whole(0) = _key(
        None,
        "Pixels left out at each side",
        "pixels",
        allowed="a whole number of at least 0, the scale as a rule",
    )
    test_y_channel: Any = _key(False, "Measure Y of YCbCr")
    better: choice("higher", "lower") = _key("higher", "For the best value in the log")


class IoBackend(Open):
    type: Any = _key("disk", "disk, lmdb or memcached")


class Tile(BaseModel):
    """Images of validation and tests in tiles."""

    size: whole(1) | None = _key(
        None, "Side of a tile", "LQ pixels", of=MODEL, allowed="a whole number of LQ pixels, a multiple of window_size"
    )
    overlap: whole(0) | None = _key(
        None,
        "Overlap of neighbours",
        "LQ pixels",
        of=MODEL,
        allowed="a whole number of LQ pixels, a multiple of window_size, at most half of size",
    )

    @model_validator(mode="after")
    def _has_a_size(self):
        if self.size is None:
            raise PydanticCustomError("together", f"expected a size, {TILE}")
        return self


class TrainSettings(BaseModel):
    """Values of the section ``train`` that the model and the loop read."""

    total_iter: whole(1, 10**9, floats=True) = _key(None, "Length of the training", "iterations", needed=(TRAINING,))
    warmup_iter: whole(-1, floats=True) = _key(-1, "The rate rises over so many; -1 for none", "iterations")
    ema_decay: number(0, 1) = _key(0, "Decay of the averaged weights in an iteration; 0 for none")
    amp: choice(*AMP) | None = _key(
        None, "The network runs under autocast, losses in float32; fp16 with a GradScaler", of=MODEL
    )
    accumulate: whole(1) | None = _key(
        1, "Batches of batch_size_per_gpu images in an iteration", "micro-batches", of=MODEL
    )
    compile: Flag | choice(*COMPILE_MODES) | None = _key(False, "torch.compile, or its mode", of=MODEL)
    clip_grad_norm: number(above=0) | None = _key(None, "The 2-norm of the gradients is cut to it", of=MODEL)
    channels_last: Flag | None = _key(False, "Convolutions keep weights and images channels last", of=MODEL)
    max_nonfinite: whole(0) | None = _key(
        10, "So many in a row without a finite loss or gradient end the run; 0 for no such look", "iterations", of=MODEL
    )
    handle_signals: Flag | None = _key(
        True, "SIGTERM and SIGINT save and end the run, SIGUSR1 saves; false: they end it at once", of=LOOP
    )
    max_hours: number(above=0) | None = _key(
        None, "The run saves and ends before it has taken so long", "hours", of=LOOP
    )
    requeue: Flag | None = _key(False, "Slurm puts the job back when max_hours are over", of=LOOP)
    watchdog_minutes: number(0) | None = _key(
        None, "The run ends after so long without progress; 0: never; ~: 30, for one process never", "minutes", of=LOOP
    )

    @field_validator("compile")
    @classmethod
    def _graphs_do_not_accumulate(cls, mode, info):
        count = info.data.get("accumulate") or 1
        if mode in CUDA_GRAPH_MODES and count > 1:
            raise PydanticCustomError(
                "together",
                f"expected accumulate: 1, not {count}: a CUDA graph overwrites the gradients of the micro-batch "
                "before; write compile: true, or a larger batch_size_per_gpu and no accumulate",
            )
        return mode


class Train(TrainSettings):
    optim_g: Optimizer = _key(None, "Optimizer", needed=(TRAINING,))
    scheduler: Scheduler = _key(None, "Schedule of the learning rate", needed=(TRAINING,))
    pixel_opt: Loss | None = _key(None, "Loss on pixels")
    perceptual_opt: Loss | None = _key(None, "Loss on features of VGG")


class BatchSettings(BaseModel):
    batch_size_per_gpu: whole(1) = _key(None, "Images of each process in a batch", "images", needed=(TRAINING_DATA,))
    num_worker_per_gpu: whole(0, 1024) = _key(
        None, "Processes that load the images of one GPU", "processes", needed=(TRAINING_DATA,)
    )
    dataset_enlarge_ratio: number(above=0) = _key(1, "An epoch has so many times the images of the dataset")


class DataSettings(BatchSettings):
    """Values of ``datasets: train`` that the loop reads."""

    skip_unreadable: Flag | None = _key(
        False, "In place of an image that cannot be read the next is taken, and the log names it", of=LOOP
    )


class Dataset(BatchSettings):
    name: Text = _key(None, "Name in the log", needed=ALWAYS)
    type: Text = _key(None, "PairedImageDataset, for a test without GT SingleImageDataset", needed=ALWAYS)
    dataroot_gt: Text = _key(None, "Folder of the GT images")
    dataroot_lq: Text = _key(None, "Folder of the LQ images")
    meta_info_file: Text | None = _key(None, "List of the images; ~: all of the folder")
    filename_tmpl: Template = _key("{}", "Name of an LQ image, {} for that of its GT")
    io_backend: IoBackend = _key(None, "Where images are read from")
    gt_size: whole(1) = _key(
        None, "Side of a training patch, a multiple of scale", "GT pixels", needed=(TRAINING_DATA,)
    )
    use_hflip: Flag | None = _key(None, "Patches are flipped at random", needed=(TRAINING_DATA,))
    use_rot: Flag | None = _key(None, "Patches are turned at random", needed=(TRAINING_DATA,))
    pin_memory: Flag | None = _key(False, "Batches in page-locked memory")
    persistent_workers: Flag | None = _key(False, "Loading processes outlive the epoch")
    prefetch_mode: choice("cpu", "cuda") | None = _key(None, "A thread or a CUDA stream fetches batches ahead")
    num_prefetch_queue: whole(1) = _key(1, "Length of the queue of prefetch_mode: cpu", "batches")
    color: Text | None = _key(None, "y for images of one channel, Y of YCbCr")
    mean: list[number()] | None = _key(None, "Subtracted from the images, a number a channel", allowed=NUMBERS)
    std: list[number()] | None = _key(None, "Images are divided by it, a number a channel", allowed=NUMBERS)
    scale: Any = _key(None, SET_BY_BASICSR)
    phase: Any = _key(None, SET_BY_BASICSR)


class TrainingDataset(DataSettings, Dataset):
    pass


class Datasets(BaseModel, extra="allow"):
    train: TrainingDataset = _key(None, "Images of the training", needed=(TRAINING,))
    __pydantic_extra__: dict[str, Dataset]


class ValSettings(BaseModel):
    """Values of the section ``val`` that the model and the loop read."""

    val_freq: whole(1, floats=True) = _key(None, "Interval of validations", "iterations", needed=(TRAINING,))
    save_img: Flag | None = _key(None, "Save the images of the network", needed=ALWAYS)
    pbar: Flag | None = _key(False, "Show a progress bar")
    suffix: Text | None = _key(None, "Ends the names of images that a test saves; ~: the name of the run")
    tile: Tile | None = _key(None, f"Images in tiles, {TILE}", of=MODEL)


class Val(ValSettings):
    metrics: dict[str, Metric] | None = _key(None, "Metrics by their names in the log")


class Wandb(BaseModel):
    project: Text | None = _key(None, "Project of Weights & Biases; ~: none")
    resume_id: Text | None = _key(None, "Run that goes on")


class LoggerSettings(BaseModel):
    """Values of the section ``logger`` that the model and the loop read."""

    print_freq: whole(1, floats=True) = _key(None, "Interval of lines in the log", "iterations", needed=(TRAINING,))
    save_checkpoint_freq: whole(1, floats=True) = _key(
        None, "Interval of checkpoints and states", "iterations", needed=(TRAINING,)
    )
    use_tb_logger: Flag | None = _key(None, "Write events for TensorBoard", needed=(TRAINING,))
    atomic_save: Flag | None = _key(True, "Files are written under another name, synced and renamed", of=LOOP)
    keep_last: whole(1) | None = _key(
        None, "So many of the newest are kept, besides those of the best metrics; ~: all", "states", of=LOOP
    )
    save_format: choice("pth", "safetensors") | None = _key(
        "pth", "safetensors: NAME.safetensors (the averaged weights where there are any) beside NAME.pth", of=LOOP
    )


class Logger(LoggerSettings):
    wandb: Wandb | None = _key(None, "Weights & Biases; needs use_tb_logger")


class Paths(BaseModel):
    pretrain_network_g: Text | None = _key(None, "Weights to begin with; ContrastModel takes shipped ones by name too")
    param_key_g: Text | None = _key("params", "Entry of that file; params_ema: averaged weights")
    strict_load_g: Flag | None = _key(True, "The weights have to be all of the network's")
    resume_state: Text | None = _key(None, "State that the training goes on from")
    ignore_resume_networks: Names | None = _key(None, "Networks that keep pretrain_network_g on resuming")
    experiments_root: Text = _key(None, SET_BY_BASICSR)
    results_root: Text = _key(None, SET_BY_BASICSR)
    models: Text = _key(None, SET_BY_BASICSR)
    training_states: Text = _key(None, SET_BY_BASICSR)
    log: Text = _key(None, SET_BY_BASICSR)
    visualization: Text = _key(None, SET_BY_BASICSR)


class DistParams(BaseModel):
    backend: Text = _key("nccl", "Of torch.distributed")
    port: whole(1, 65535) = _key(29500, "Port of the first process under --launcher slurm")


class OptionFile(BaseModel):
    """An option file for training or testing."""

    name: FolderName = _key(None, "Name of the run and of its folder", needed=ALWAYS)
    model_type: Text = _key(None, "SRModel, ContrastModel or another that is registered", needed=ALWAYS)
    scale: whole(1) = _key(None, "GT size over LQ size", needed=(TRAINING,))
    num_gpu: choice("auto") | whole(0) = _key(
        None, "auto: all that PyTorch sees", "GPUs", needed=ALWAYS, allowed="auto, or the number of GPUs, 0 for none"
    )
    # NumPy takes 32 bits, and each process and worker adds its number.
    manual_seed: whole(0, 2**32 - 2**16) | None = _key(None, "Seed; ~: a random one")
    find_unused_parameters: Flag | None = _key(False, "Of DistributedDataParallel")
    imports: Modules = _key(None, "Modules that register networks, models and datasets of a project", of=LOOP)
    datasets: Datasets = _key(None, "train, val and val_..., for a test test and test_...", needed=ALWAYS)
    network_g: Network = _key(None, "The network", needed=ALWAYS)
    path: Paths = _key(None, "Files to begin with", needed=ALWAYS)
    train: Train = _key(None, "Training", needed=(TRAINING,))
    val: Val | None = _key(None, "Validation, or the test", needed=(TESTING,))
    logger: Logger = _key(None, "Log and checkpoints", needed=(TRAINING,))
    dist_params: DistParams | None = _key(None, "Several processes")


class DatasetsSettings(BaseModel):
    train: DataSettings = Field(default_factory=DataSettings)


class Settings(BaseModel):
    """Values of an option file that ContrastModel and contrast-train read."""

    train: TrainSettings = Field(default_factory=TrainSettings)
    datasets: DatasetsSettings = Field(default_factory=DatasetsSettings)
    val: ValSettings = Field(default_factory=ValSettings)
    logger: LoggerSettings = Field(default_factory=LoggerSettings)

    @property
    def data(self) -> DataSettings:
        """Those of ``datasets: train``."""
        return self.datasets.train


def settings_of(opt: dict) -> Settings:
    """Read the settings from options.

    Args:
        opt: as BasicSR parsed them, complete or not. Keys of others are passed over, and ``~`` is the default. Keys
            that are not read have their defaults: ContrastModel's with SRModel, BasicSR's of training in a test.

    Raises:
        InputError: all values that cannot be used, a line each.
    """
    given = _read(opt, Settings, opt.get("model_type") != SR_MODEL, opt.get("is_train", True))
    problems = [str(problem) for problem in unfit(Settings, given)]
    if problems:
        raise InputError("\n".join(problems))
    return Settings.model_validate(given)


def _read(opt, model, of_model, is_train, path=()):
    """Leave out ``~``, keys that are not read, and text in place of a section."""
    found = {}
    for name, field in model.model_fields.items():
        value, at, section = opt.get(name), (*path, name), section_of(field)
        is_read = {MODEL: of_model, "": is_train or not is_of_training(at)}.get(reader(field), True)
        if isinstance(value, dict) and section:
            found[name] = _read(value, section, of_model, is_train, at)
        elif value is not None and section is not field.annotation and is_read:
            found[name] = value
    return found


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Model of a key that is a section."""
    kinds = get_args(field.annotation) or (field.annotation,)
    return next((kind for kind in kinds if hasattr(kind, "model_fields")), None)


def reader(field: FieldInfo) -> str:
    """Reader of a key, ``MODEL`` or ``LOOP``; "" is BasicSR."""
    return field.json_schema_extra.get("of", "") if field.json_schema_extra else ""


def is_of_training(path: Path) -> bool:
    """True if BasicSR does not read a key in a test."""
    return path[0] in ("train", "logger") or path == ("val", "val_freq")


def micro_batches(opt: dict) -> int:
    """Number of micro-batches per iteration (1 for models that do not accumulate).

    Args:
        opt: options as BasicSR reads them.
    """
    return settings_of(opt).train.accumulate if opt.get("model_type") == CONTRAST_MODEL else 1


def _keys(model, path=()) -> Iterator[tuple[Path, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = None if reader(field) else section_of(field)
        yield from _keys(section, (*path, name)) if section else [((*path, name), field)]


# Keys that ContrastModel adds, by their path; val: tile is one.
KEYS = {path: field for path, field in _keys(Settings) if reader(field) == MODEL}
