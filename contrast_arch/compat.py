"""BasicSR 1.4.2 on today's torch and torchvision, with and without a GPU. Nothing else patches BasicSR.

Each patch looks first whether it is needed, so that a BasicSR (or a fork of it) that mended the matter is left alone.
"""

import atexit
import functools
import importlib
import importlib.util
import inspect
import os.path as osp
import sys
import types
from unittest import mock

from contrast_arch.errors import InputError

HOW_TO_INSTALL = (
    "pip install torch torchvision numpy cython setuptools wheel, then pip install --no-build-isolation basicsr "
    "(BasicSR 1.4.2 builds on Python 3.10 to 3.12, not on 3.13)"
)


def basicsr_installed() -> bool:
    """Whether there is a package named basicsr, importable or not."""
    return importlib.util.find_spec("basicsr") is not None


def require_basicsr() -> None:
    """Import BasicSR, mended, for what cannot be done without it.

    Raises:
        InputError: it is not installed, or does not import; the message says how to install it.
    """
    if not basicsr_installed():
        raise InputError(f"BasicSR is not installed: {HOW_TO_INSTALL}")
    try:
        mend_basicsr()
    except Exception as error:
        raise InputError(f"BasicSR does not import: {error}; to install it: {HOW_TO_INSTALL}") from error


def mend_basicsr() -> None:
    """Import BasicSR, mended where it needs it.

    Raises:
        ImportError: BasicSR or something it needs is missing.
    """
    _mend_functional_tensor()
    train = importlib.import_module("basicsr.train")
    _mend_load_resume_state(train)
    _let_models_take_part(train)
    _mend_init_dist(importlib.import_module("basicsr.utils.options"))


def _mend_functional_tensor() -> None:
    """torchvision 0.17 removed ``transforms.functional_tensor``; BasicSR imports one function of it."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = types.ModuleType(name, "The function of the module torchvision removed that BasicSR imports.")
    module.rgb_to_grayscale = rgb_to_grayscale
    sys.modules[name] = module


def _mend_load_resume_state(train: types.ModuleType) -> None:
    """BasicSR loads a training state onto the current GPU, also where there is none."""
    original = train.load_resume_state
    source = inspect.getsource(original)
    if "torch.cuda.current_device()" not in source or "is_available" in source:
        return
    import torch

    def load_resume_state(opt):
        if torch.cuda.is_available():
            return original(opt)
        path = resume_state_path(opt)
        if path is None:
            return None
        opt["path"]["resume_state"] = path
        state = torch.load(path, map_location="cpu", weights_only=True)
        train.check_resume(opt, state["iter"])
        return state

    train.load_resume_state = load_resume_state


def _mend_init_dist(options: types.ModuleType) -> None:
    """BasicSR starts its processes on GPUs alone; where there are none they talk over gloo."""
    original = options.init_dist
    if hasattr(original, "__wrapped__"):
        return
    import torch

    @functools.wraps(original)
    def init_dist(launcher, backend="nccl", **kwargs):
        if torch.cuda.is_available():
            return original(launcher, backend=backend, **kwargs)
        # A process that still has its connections when Python ends is aborted.
        atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())
        # BasicSR asks how many GPUs there are and takes one of them; what else it does is right.
        with (
            mock.patch.object(torch.cuda, "device_count", lambda: 1),
            mock.patch.object(torch.cuda, "set_device", lambda device: None),
        ):
            return original(launcher, backend="gloo", **kwargs)

    options.init_dist = init_dist


def _let_models_take_part(train: types.ModuleType) -> None:
    """Hand what BasicSR's trainer does before and beside its model to models that have a say in it.

    A model class may have ``load_state(opt) -> state or None``, ``options_of_an_iteration(opt) -> opt``,
    ``training_loader(loader, opt, state) -> loader, sampler, number of the last epoch``, ``event_writer(writer) ->
    writer`` and ``begin(val_loaders, tb_logger)``; one without the first is trained as ever.
    """
    names = ("load_resume_state", "create_train_val_dataloader", "init_tb_loggers", "build_model")
    originals = {name: getattr(train, name) for name in names}
    if hasattr(originals["build_model"], "__wrapped__"):
        return
    # Of the run in progress: the trainer calls the four one after the other.
    run = {}

    def takes_part(opt):
        from basicsr.utils.registry import MODEL_REGISTRY

        model = MODEL_REGISTRY.get(opt["model_type"])
        return model if hasattr(model, "load_state") else None

    def load_resume_state(opt):
        model = takes_part(opt)
        if model is None:
            return originals["load_resume_state"](opt)
        run["state"] = model.load_state(opt)
        if run["state"] is not None:
            train.check_resume(opt, run["state"]["iter"])
        return run["state"]

    def create_train_val_dataloader(opt, logger):
        model = takes_part(opt)
        if model is None:
            return originals["create_train_val_dataloader"](opt, logger)
        found = originals["create_train_val_dataloader"](model.options_of_an_iteration(opt), logger)
        loader, _, run["val_loaders"], _, iterations = found
        loader, sampler, last_epoch = model.training_loader(loader, opt, run["state"])
        return loader, sampler, run["val_loaders"], last_epoch, iterations

    def init_tb_loggers(opt):
        model, writer = takes_part(opt), originals["init_tb_loggers"](opt)
        run["tb_logger"] = writer if model is None or writer is None else model.event_writer(writer)
        return run["tb_logger"]

    def build_model(opt):
        model = originals["build_model"](opt)
        if takes_part(opt) is not None:
            model.begin(run["val_loaders"], run["tb_logger"])
        return model

    for function in (load_resume_state, create_train_val_dataloader, init_tb_loggers, build_model):
        name = function.__name__
        setattr(train, name, functools.wraps(originals[name])(function))


def resume_state_path(opt: dict) -> str | None:
    """The training state a run with these options goes on from, None where it starts anew.

    With --auto_resume the newest under ``experiments/NAME/training_states`` of the working directory, as in BasicSR;
    otherwise ``path: resume_state``.
    """
    if not opt["auto_resume"]:
        return opt["path"].get("resume_state")
    folder = osp.join("experiments", opt["name"], "training_states")
    if not osp.isdir(folder):
        return None
    from basicsr.utils import scandir

    names = (name.removesuffix(".state") for name in scandir(folder, suffix=".state"))
    iterations = [int(name) for name in names if name.isdigit()]
    return osp.join(folder, f"{max(iterations)}.state") if iterations else None
