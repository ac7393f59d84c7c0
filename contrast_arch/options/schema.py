"""Keys of an option file, each once: type, default, unit and a line of help.

Messages, ``docs/options.md`` and ``options/schema.json`` are made from it; ContrastModel and contrast-train read their
settings by :func:`settings_of`.
"""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from contrast_arch.errors import InputError
from contrast_arch.options.kinds import Flag, choice, number, whole
from contrast_arch.options.messages import unfit

CONTRAST_MODEL, SR_MODEL = "ContrastModel", "SRModel"
# Readers of keys that are not BasicSR's.
MODEL, LOOP = CONTRAST_MODEL, "contrast-train"
# With their types in torch.
AMP = {"bf16": "bfloat16", "fp16": "float16"}
# The second and third replay CUDA graphs.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CUDA_GRAPH_MODES = COMPILE_MODES[1:3]
TILE = "such as {size: 128, overlap: 32}"


def _key(default: Any, help: str, *, unit: str = "", of: str = "", **more: Any):
    """
    Args:
        default: None where the reader has none.
        help: a line.
        of: the reader, ``MODEL`` or ``LOOP``; none is BasicSR.
    """
    more |= {name: value for name, value in (("unit", unit), ("of", of)) if value}
    return Field(default, description=help, json_schema_extra=more)


class Tile(BaseModel):
    """Images of validation and tests in tiles."""

    size: whole(1) | None = _key(None, "Side of a tile, a multiple of window_size", unit="LQ pixels", of=MODEL)
    overlap: whole(0) | None = _key(
        None, "Overlap of neighbours, a multiple of window_size, at most half of size", unit="LQ pixels", of=MODEL
    )

    @model_validator(mode="after")
    def _has_a_size(self):
        if self.size is None:
            raise PydanticCustomError("together", f"expected a size, {TILE}")
        return self


class TrainSettings(BaseModel):
    """Values of the section ``train`` that the model and the loop read."""

    total_iter: whole(1, 10**9, floats=True) = _key(None, "Length of the training", unit="iterations")
    warmup_iter: whole(-1, floats=True) = _key(-1, "The rate rises over so many; -1 for no warm-up", unit="iterations")
    ema_decay: number(0, 1) = _key(0, "Decay of the averaged weights an iteration; 0 for none")
    amp: choice(*AMP) | None = _key(
        None, "The network runs under autocast, losses in float32; fp16 with a GradScaler", of=MODEL
    )
    accumulate: whole(1) | None = _key(
        1, "Batches of batch_size_per_gpu images of an iteration", unit="micro-batches", of=MODEL
    )
    compile: Flag | choice(*COMPILE_MODES) | None = _key(False, "torch.compile, or its mode", of=MODEL)
    clip_grad_norm: number(above=0) | None = _key(None, "The gradients' 2-norm is cut to this", of=MODEL)
    channels_last: Flag | None = _key(False, "Convolutions keep weights and images channels last", of=MODEL)
    max_nonfinite: whole(0) | None = _key(
        10,
        "So many in a row without a finite loss or gradient end the run; 0: nothing is looked at",
        unit="iterations",
        of=MODEL,
    )
    handle_signals: Flag | None = _key(True, "SIGTERM, SIGINT and SIGUSR1 save; the first two end the run", of=MODEL)
    max_hours: number(above=0) | None = _key(
        None, "The run saves and ends before so much time has passed", unit="hours", of=LOOP
    )
    requeue: Flag | None = _key(False, "Under Slurm the job is requeued when max_hours are up", of=LOOP)
    watchdog_minutes: number(0) | None = _key(
        None,
        "A run that makes no progress for so long ends; 0: never; ~: 30 for several processes, never for one",
        unit="minutes",
        of=LOOP,
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


class DataSettings(BaseModel):
    """Values of ``datasets: train`` that the loop reads."""

    batch_size_per_gpu: whole(1) = _key(None, "Images of a process in a batch", unit="images")
    num_worker_per_gpu: whole(0, 1024) = _key(None, "Processes that load the images of one GPU", unit="processes")
    dataset_enlarge_ratio: number(above=0) = _key(1, "An epoch has so many times the images of the dataset")
    skip_unreadable: Flag | None = _key(
        False, "In place of an image that cannot be read the next one is taken, and the log names it", of=MODEL
    )


class DatasetsSettings(BaseModel):
    train: DataSettings = Field(default_factory=DataSettings)


class ValSettings(BaseModel):
    """Values of the section ``val`` that the model and the loop read."""

    val_freq: whole(1, floats=True) = _key(None, "Interval of validations", unit="iterations")
    save_img: Flag | None = _key(None, "Save the network's images")
    pbar: Flag | None = _key(False, "Progress bar of a validation")
    tile: Tile | None = _key(None, f"Images in tiles, {TILE}", of=MODEL)


class LoggerSettings(BaseModel):
    """Section ``logger``."""

    print_freq: whole(1, floats=True) = _key(None, "Interval of lines in the log", unit="iterations")
    save_checkpoint_freq: whole(1, floats=True) = _key(None, "Interval of checkpoints and states", unit="iterations")
    use_tb_logger: Flag | None = _key(None, "Write TensorBoard's events")
    atomic_save: Flag | None = _key(True, "Files are written under another name, synced and renamed", of=MODEL)
    keep_last: whole(1) | None = _key(
        None, "So many of the newest are kept, besides those of the best metrics; ~: all", unit="states", of=MODEL
    )
    save_format: choice("pth", "safetensors") | None = _key(
        "pth", "safetensors: NAME.safetensors (the averaged weights where there are any) beside NAME.pth", of=MODEL
    )


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
    given = _read(opt)
    problems = [message for _, message in setting_problems(opt)]
    if problems:
        raise InputError("\n".join(problems))
    return Settings.model_validate(given)


def setting_problems(opt: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of each setting that cannot be used, and a message; see :func:`settings_of`."""
    for path, words in unfit(Settings, _read(opt)):
        yield path, f"{': '.join(path)}: {words}"


def _read(opt):
    return _given(opt, Settings, opt.get("model_type") != SR_MODEL, opt.get("is_train", True))


def _given(opt, model, of_model, is_train, path=()):
    """Leave out ``~``, keys that are not read, and text in place of a section."""
    found = {}
    for name, field in model.model_fields.items():
        value, at = opt.get(name), (*path, name)
        sections = _sections(field)
        if isinstance(value, dict) and sections:
            found[name] = _given(value, sections[0], of_model, is_train, at)
        elif value is not None and sections != [field.annotation] and is_read(at, reader(field), of_model, is_train):
            found[name] = value
    return found


def _sections(field):
    return [kind for kind in get_args(field.annotation) or (field.annotation,) if hasattr(kind, "model_fields")]


def reader(field: FieldInfo) -> str:
    """Reader of a key, ``MODEL`` or ``LOOP``; "" is BasicSR."""
    return (field.json_schema_extra or {}).get("of", "")


def is_read(path: tuple[str, ...], of: str, of_model: bool, is_train: bool) -> bool:
    """True if a key has a reader: ContrastModel for its own, and BasicSR, but for keys of training in a test."""
    of_training = path[0] in ("train", "logger") or path == ("val", "val_freq")
    return of_model if of == MODEL else bool(of) or is_train or not of_training


def _keys(model, path=()):
    for name, field in model.model_fields.items():
        (*_, section) = [None, *_sections(field)]
        yield from _keys(section, (*path, name)) if section else [((*path, name), field)]


def micro_batches(opt: dict) -> int:
    """Number of micro-batches per iteration (1 for models that do not accumulate).

    Args:
        opt: options as BasicSR reads them.
    """
    return settings_of(opt).train.accumulate if opt.get("model_type") == CONTRAST_MODEL else 1


# Keys that ContrastModel adds, by their path.
KEYS = {path: field for path, field in _keys(Settings) if reader(field) == MODEL}
