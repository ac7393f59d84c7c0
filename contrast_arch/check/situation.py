"""How an option file is to be run, and the options as BasicSR completes them for it."""

import os
import os.path as osp
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch

from contrast_arch.check.keys import KNOWN_MODELS
from contrast_arch.check.problems import Problem, error
from contrast_arch.models.settings import OURS

VARIABLES = {"pytorch": ("RANK", "WORLD_SIZE"), "slurm": ("SLURM_PROCID", "SLURM_NTASKS")}


@dataclass(frozen=True)
class Situation:
    """What surrounds an option file.

    Attributes:
        is_train: whether it is for training or for testing.
        launcher: "none", "pytorch" or "slurm".
        force_yml: changes, ``key:key=value``.
        auto_resume: whether training goes on from the newest state.
        debug: BasicSR's --debug.
        launched: whether this process is one of those that train; what started it has set its environment then.
        processes: that train together; None for as many as the environment says, or, where there is a launcher and
            nothing has been launched, as there are GPUs.
        every_pair: whether all images are read, completely.
        imports: modules that register what the option file names, besides those of its key ``imports``.
        override_state: whether the option file's values take the place of those of the state that is resumed.
    """

    is_train: bool
    launcher: str = "none"
    force_yml: Sequence[str] = ()
    auto_resume: bool = False
    debug: bool = False
    launched: bool = True
    processes: int | None = None
    every_pair: bool = False
    imports: Sequence[str] = ()
    override_state: bool = False

    @property
    def world_size(self) -> int:
        if self.processes is not None:
            return self.processes
        variables = VARIABLES.get(self.launcher)
        if variables is None:
            return 1
        text = os.environ.get(variables[1], "") if self.launched else str(gpus())
        return max(1, int(text)) if text.isdecimal() else 1

    @property
    def device(self) -> torch.device:
        """Where this process computes, if it does on a GPU: as BasicSR chooses it, so that no other GPU is touched."""
        variables = VARIABLES.get(self.launcher)
        text = os.environ.get(variables[0], "") if self.launched and variables else ""
        return torch.device("cuda", int(text) % gpus() if text.isdecimal() else 0)

    @property
    def distributed(self) -> bool:
        return self.launcher != "none" or self.world_size > 1


def gpus() -> int:
    """How many GPUs PyTorch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def completed(options: dict, situation: Situation) -> dict:
    """Options as BasicSR has them after reading; keys that are not there stay away."""
    opt = deepcopy(options)
    opt |= {"is_train": situation.is_train, "auto_resume": situation.auto_resume, "dist": situation.distributed}
    opt["override_state"] = situation.override_state
    if opt.get("num_gpu") == "auto":
        opt["num_gpu"] = gpus()
    if situation.debug and not opt.get("name", "debug").startswith("debug"):
        opt["name"] = f"debug_{opt['name']}"
    opt["datasets"] = {key: value for key, value in opt.get("datasets", {}).items() if isinstance(value, dict)}
    for phase, dataset in opt["datasets"].items():
        dataset["phase"] = phase.split("_")[0]
        if "scale" in opt:
            dataset["scale"] = opt["scale"]
        for key in ("dataroot_gt", "dataroot_lq"):
            if isinstance(dataset.get(key), str):
                dataset[key] = osp.expanduser(dataset[key])
    paths = opt.setdefault("path", {})
    for key in ("resume_state", "pretrain_network_g"):
        if paths.get(key) is not None:
            paths[key] = osp.expanduser(paths[key])
    paths["experiments_root"] = osp.join(os.getcwd(), "experiments", opt.get("name", ""))
    for key in ("models", "training_states"):
        paths[key] = osp.join(paths["experiments_root"], key)
    return opt


def one_process_per_gpu(num_gpu: int) -> str:
    """For messages: the command that starts a process per GPU, and the value that asks for one GPU."""
    command = f"torchrun --nproc_per_node={num_gpu} -m contrast_arch.train -opt FILE --launcher pytorch"
    return f"'{command}'; or write num_gpu: 1"


def device_problems(opt: dict, situation: Situation) -> Iterator[Problem]:
    """Processes and GPUs: whether what is asked for is there, and whether the model can use it.

    Args:
        opt: see :func:`completed`.
    """
    model, num_gpu, launcher = opt.get("model_type"), opt.get("num_gpu", 0), situation.launcher
    if launcher not in ("none", *VARIABLES):
        yield error(None, f"--launcher {launcher}: expected none, pytorch or slurm")
        return
    if launcher != "none" and not torch.cuda.is_available() and model != OURS:
        yield error(
            None,
            f"--launcher {launcher}: BasicSR runs several processes on GPUs only; PyTorch sees none. 'model_type: "
            f"{OURS}' trains in several processes on CPUs too",
        )
    elif launcher != "none" and situation.launched:
        absent = [name for name in VARIABLES[launcher] if name not in os.environ]
        how = "torchrun --nproc_per_node=N -m contrast_arch.train ..." if launcher == "pytorch" else "srun ..."
        if absent:
            yield error(None, f"--launcher {launcher}: {', '.join(absent)} not in the environment; start it by '{how}'")
    if num_gpu != 0 and not torch.cuda.is_available():
        yield error(("num_gpu",), f"num_gpu: {num_gpu}, but PyTorch sees no GPU; write num_gpu: 0, or auto")
    elif num_gpu > gpus():
        yield error(("num_gpu",), f"num_gpu: {num_gpu}, but PyTorch sees {gpus()}; write num_gpu: auto", ignored=True)
    if situation.is_train and num_gpu > 1 and not situation.distributed and model == OURS:
        yield error(
            ("num_gpu",),
            f"num_gpu: {num_gpu}: {OURS} trains on several GPUs in a process each: {one_process_per_gpu(num_gpu)}",
        )
    if launcher != "none" and num_gpu == 0 and model in KNOWN_MODELS and torch.cuda.is_available():
        others = ", or hide the GPUs (CUDA_VISIBLE_DEVICES=)" if model == OURS else ""
        yield error(
            ("num_gpu",),
            f"num_gpu: 0 with --launcher {launcher}: the processes talk by way of the GPUs that PyTorch sees; write "
            f"auto{others}",
        )
