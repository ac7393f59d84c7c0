"""The run that an option file is checked for: its processes and devices, and its options as BasicSR completes them."""

import os
import os.path as osp
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partialmethod, wraps
from itertools import takewhile
from typing import Any

import torch

from contrast_arch.errors import InputError
from contrast_arch.options.document import ERROR, WARNING, Path, Problem
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.options.validation import value_at

# Environment variables of rank and world size, by launcher.
VARIABLES = {"pytorch": ("RANK", "WORLD_SIZE"), "slurm": ("SLURM_PROCID", "SLURM_NTASKS")}


@dataclass(frozen=True)
class RunContext:
    """Everything about a run that is not in the option file."""

    is_train: bool
    launcher: str = "none"  # or "pytorch", "slurm"
    force_yml: Sequence[str] = ()  # changes of the option file, ``key:key=value``
    auto_resume: bool = False  # from the newest training state
    debug: bool = False  # BasicSR's --debug
    every_pair: bool = False  # read all images completely
    imports: Sequence[str] = ()  # modules that register names, besides those of the key ``imports``
    override_state: bool = False  # resume with the option file's values in place of those of the training state

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self._variable(1) or 1

    @property
    def device(self) -> torch.device:
        """GPU of this process as BasicSR chooses it, so that no other GPU is touched."""
        return torch.device("cuda", self._variable(0) % max(1, gpus()))

    def _variable(self, index):
        text = os.environ.get(VARIABLES[self.launcher][index], "") if self.launcher in VARIABLES else ""
        return int(text) if text.isdecimal() else 0


class Section(dict):
    """Keys of an option file at a path, which checks read and report on; one that is not there is None."""

    def __init__(self, values: dict, path: Path = ()):
        super().__init__(values)
        self.path = path

    def __missing__(self, key):
        return None

    def section(self, *keys: str) -> "Section":
        """Section below this one; empty where it is missing or ``~``."""
        return Section(value_at(self, keys) or {}, (*self.path, *keys))

    def sections(self, *keys: str) -> list["Section"]:
        """All sections below one of those below this one."""
        below = self.section(*keys)
        return [below.section(key) for key in below]

    def where(self, *keys: str) -> str:
        """Path of a key as messages show it."""
        return ": ".join((*self.path, *keys))

    def error(self, text: str, *keys: str, severity: str = ERROR) -> Problem:
        """Make an error in this section or at a key below it; the message begins with the path."""
        return Problem.at((*self.path, *keys), text, severity)

    warning = partialmethod(error, severity=WARNING)


@dataclass
class Run:
    """The run that is checked; the checks fill in ``model`` and the fields below it."""

    opt: Section  # as BasicSR completes them, without keys that are wrong by themselves
    context: RunContext
    unfit: set[Path]  # of the keys that are left out
    model: type | None = None
    network: torch.nn.Module | None = None  # on the meta device
    optimizer: torch.optim.Optimizer | None = None  # of a single weight, and so is the scheduler
    scheduler: Any = None
    images: dict = field(default_factory=dict)  # contrast_arch.check.data.Images by phase

    def __post_init__(self):
        self.train, self.train_data = self.opt.section("train"), self.opt.section("datasets", "train")
        self.is_contrast_model = self.opt["model_type"] == CONTRAST_MODEL


def problem_of(failure: InputError, otherwise: Path | None = None) -> Problem:
    """Make an error of an InputError, at the key with which its message begins."""
    return Problem(str(failure), tuple(takewhile(str.isidentifier, str(failure).split(": "))) or otherwise)


def reported(find: Callable) -> Callable:
    """Decorate a generator of problems: an InputError becomes the last one."""

    @wraps(find)
    def problems(*args):
        try:
            yield from find(*args)
        except InputError as failure:
            yield problem_of(failure)

    return problems


def gpus() -> int:
    """Count the GPUs that PyTorch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def completed(options: dict, context: RunContext) -> dict:
    """Complete options as BasicSR does after reading; missing keys stay missing."""
    opt = deepcopy(options)
    opt |= {"is_train": context.is_train, "auto_resume": context.auto_resume, "dist": context.launcher != "none"}
    if opt.get("num_gpu") == "auto":
        opt["num_gpu"] = gpus()
    if context.debug and not opt.get("name", "debug").startswith("debug"):
        opt["name"] = f"debug_{opt['name']}"
    opt["datasets"] = {key: value for key, value in opt.get("datasets", {}).items() if isinstance(value, dict)}
    for phase, dataset in opt["datasets"].items():
        dataset |= {"phase": phase.split("_")[0]} | ({"scale": opt["scale"]} if "scale" in opt else {})
    paths = opt.setdefault("path", {})
    for section in (*opt["datasets"].values(), paths):
        for key in ("dataroot_gt", "dataroot_lq", "resume_state", "pretrain_network_g"):
            if isinstance(section.get(key), str):
                section[key] = osp.expanduser(section[key])
    paths["experiments_root"] = osp.join(os.getcwd(), "experiments", opt.get("name", ""))
    for key in ("models", "training_states"):
        paths[key] = osp.join(paths["experiments_root"], key)
    return opt


def device_problems(run: Run) -> Iterator[Problem]:
    """Find processes and GPUs that are not there."""
    num_gpu, launcher = run.opt["num_gpu"] or 0, run.context.launcher
    if absent := [name for name in VARIABLES.get(launcher, ()) if name not in os.environ]:
        how = "torchrun --nproc_per_node=N -m contrast_arch.train ..." if launcher == "pytorch" else "srun ..."
        yield Problem(f"--launcher {launcher}: {', '.join(absent)} not in the environment; start it by '{how}'")
    nodes = os.environ.get("SLURM_NODELIST", "")
    if launcher == "slurm" and not re.fullmatch(r"[\w.,\[\]-]*", nodes):
        # BasicSR makes a command of the shell of it.
        yield Problem(f"SLURM_NODELIST={nodes}: expected names of nodes, such as node[1-4,7]; start it by srun")
    if num_gpu > gpus():
        yield run.opt.error(f"{num_gpu}, but PyTorch sees {gpus() or 'no GPU'}; write auto, or 0 for none", "num_gpu")
