"""BasicSR on today's torch and torchvision, with and without a GPU. Nothing else patches BasicSR.

Each patch is applied at the moment its module is imported. It looks first whether it is needed, so that a BasicSR (or a
fork of it) that mended the matter is left alone.
"""

import atexit
import functools
import importlib.abc
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import wrapt

from contrast_arch.errors import InputError, located

HOW_TO_INSTALL = (
    "pip install torch torchvision numpy cython setuptools wheel, then pip install --no-build-isolation basicsr "
    "(BasicSR 1.4.2 builds on Python 3.10 to 3.12, not on 3.13)"
)
FUNCTIONAL_TENSOR = "torchvision.transforms.functional_tensor"


def require_basicsr() -> None:
    """Import BasicSR, the one in the working directory before an installed one.

    Raises:
        InputError: it is not installed, does not import, or is older than 1.3.4; the message says how to install it.
    """
    # A console script has its own folder on the path in place of the working directory.
    if sys.path[:1] not in ([""], [os.getcwd()]):
        sys.path.insert(0, os.getcwd())
    spec = importlib.util.find_spec("basicsr")
    if spec is None:
        raise InputError(f"BasicSR is not installed: {HOW_TO_INSTALL}")
    try:
        importlib.import_module("basicsr.train")
    except Exception as error:  # whatever the files of a project raise
        folder = next(iter(spec.submodule_search_locations or [spec.origin]))
        raise InputError(
            f"BasicSR in {folder} does not import: {located(error)}. Install what it needs; for BasicSR 1.4.2 itself: "
            f"{HOW_TO_INSTALL}"
        ) from error
    if not hasattr(sys.modules["basicsr.utils.options"], "parse_options"):
        raise InputError(
            f"BasicSR {basicsr_in_use()} is too old for this command, expected 1.3.4 or later; its own train.py trains "
            f"the networks all the same. For BasicSR 1.4.2: {HOW_TO_INSTALL}"
        )


def basicsr_in_use() -> str:
    """Version and folder of the BasicSR that is imported, such as ``1.4.2 (/home/me/BasicSR/basicsr)``."""
    import basicsr

    version = getattr(sys.modules.get("basicsr.version"), "__version__", "unknown version")
    return f"{version} ({os.path.dirname(basicsr.__file__)})"


def basicsr_is_released() -> bool:
    """True if BasicSR is an installed release; a clone or a fork of a project may read more than the release does."""
    import basicsr

    return bool({"site-packages", "dist-packages"} & set(Path(basicsr.__file__).parts))


def when_imported(name: str, hook: Callable[[ModuleType], None]) -> None:
    """Call a hook with a module: at once where it is imported already, or half-way through it; else after its import.

    Args:
        name: full name of the module.
    """
    wrapt.register_post_import_hook(hook, name)


def mend_basicsr() -> None:
    """Prepare all patches; nothing is imported."""
    if not any(type(finder).__name__ == _FunctionalTensor.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_FunctionalTensor())
    when_imported("basicsr.utils.options", _mend_options)
    when_imported("basicsr.train", _mend_train)


class _FunctionalTensor(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The module that torchvision 0.17 removed, with the one function that BasicSR imports from it.

    Comes last among the finders: an older torchvision gives its own.
    """

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self) if fullname == FUNCTIONAL_TENSOR else None

    def exec_module(self, module):
        from torchvision.transforms.functional import rgb_to_grayscale

        module.rgb_to_grayscale = rgb_to_grayscale


def _unmended(module: ModuleType, name: str) -> Callable | None:
    """Return a function that is not mended yet; None where there is none, as in older trainers."""
    function = getattr(module, name, None)
    return None if hasattr(function, "__wrapped__") else function


def _mend_options(options: ModuleType) -> None:
    _mend_init_dist(options)
    _mend_scripts(options)


def _mend_train(train: ModuleType) -> None:
    _mend_resuming(train)
    _let_models_take_part(train)


def _mend_resuming(train: ModuleType) -> None:
    _mend_load_resume_state(train)
    _mend_check_resume(train)


def _mend_check_resume(train: ModuleType) -> None:
    """BasicSR looks for a run's own weights under the key that the checkpoint had with which the run began.

    Each checkpoint of a run has the weights under ``params``. BasicSR knows that for ``params_ema`` alone, and then
    takes it for networks too that go on from a checkpoint of another run (``ignore_resume_networks``).
    """
    original = _unmended(train, "check_resume")
    if original is None:
        return

    @functools.wraps(original)
    def check_resume(opt, resume_iter):
        paths = opt["path"]
        keys = {key: value for key, value in paths.items() if key.startswith("param_key_")}
        original(opt, resume_iter)
        if paths.get("resume_state"):
            ignored = paths.get("ignore_resume_networks") or ()
            for key, value in keys.items():
                paths[key] = value if key.replace("param_key", "network") in ignored else "params"

    train.check_resume = check_resume


def _mend_load_resume_state(train: ModuleType) -> None:
    """BasicSR loads a training state onto the current GPU, also where there is none."""
    original = _unmended(train, "load_resume_state")
    if original is None:
        return
    try:
        source = inspect.getsource(original)
    except (OSError, TypeError):  # typed in, or built otherwise
        return
    if "torch.cuda.current_device()" not in source or "is_available" in source:
        return
    import torch

    @functools.wraps(original)
    def load_resume_state(opt):
        if torch.cuda.is_available():
            return original(opt)
        from unittest import mock

        # It asks for the current GPU and moves what it loads there; what else it does is right.
        with (
            mock.patch.object(torch.cuda, "current_device", lambda: None),
            mock.patch.object(torch.UntypedStorage, "cuda", lambda storage, device: storage),
        ):
            return original(opt)

    train.load_resume_state = load_resume_state


def _mend_scripts(options: ModuleType) -> None:
    """Mend a trainer that runs as a script when it reads its options: ``python basicsr/train.py`` is a second copy of
    the module, under the name ``__main__``."""
    original = _unmended(options, "parse_options")
    if original is None:
        return

    @functools.wraps(original)
    def parse_options(*args, **kwargs):
        for name in ("__main__", "basicsr.train"):
            if name in sys.modules:
                _mend_resuming(sys.modules[name])
        return original(*args, **kwargs)

    options.parse_options = parse_options
    script = sys.modules["__main__"]
    if getattr(script, "parse_options", None) is original:
        script.parse_options = parse_options


def _mend_init_dist(options: ModuleType) -> None:
    """BasicSR starts its processes on GPUs alone; where there are none they talk over gloo."""
    original = _unmended(options, "init_dist")
    if original is None:
        return
    import torch

    @functools.wraps(original)
    def init_dist(launcher, backend="nccl", **kwargs):
        if torch.cuda.is_available():
            return original(launcher, backend=backend, **kwargs)
        from unittest import mock

        # A process that still has its connections when Python ends is aborted.
        atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())
        # BasicSR asks how many GPUs there are and takes one of them; what else it does is right.
        with (
            mock.patch.object(torch.cuda, "device_count", lambda: 1),
            mock.patch.object(torch.cuda, "set_device", lambda device: None),
        ):
            return original(launcher, backend="gloo", **kwargs)

    options.init_dist = init_dist


def _with_the_files_schedule(opt, state):
    """A training state of BasicSR's models, which fail where a cosine was made longer since."""
    if state and "schedulers" in state:
        from contrast_arch.models.resuming import fit_schedules

        kind = opt["train"]["scheduler"]["type"]
        if kind in ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR"):
            fit_schedules(state, kind.startswith("Cosine"), opt["train"]["total_iter"])
    return state


def _let_models_take_part(train: ModuleType) -> None:
    """Hand what BasicSR's trainer does before and beside its model to models that have a say in it.

    A model class may have ``load_state(opt) -> state or None``, ``options_of_an_iteration(opt) -> opt``,
    ``training_loader(loader, opt, state) -> loader, sampler, number of the last epoch``, ``event_writer(writer) ->
    writer`` and ``begin(val_loaders, tb_logger)``; one without the first is trained as ever.
    """
    names = ("load_resume_state", "create_train_val_dataloader", "init_tb_loggers", "build_model")
    originals = {name: getattr(train, name, None) for name in names}
    # BasicSR before 1.3.4 has not all of them; half-way through its import no trainer has.
    if None in originals.values() or hasattr(originals["build_model"], "__wrapped__"):
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
            return _with_the_files_schedule(opt, originals["load_resume_state"](opt))
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
