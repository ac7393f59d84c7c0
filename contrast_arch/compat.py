"""BasicSR 1.4.2 on today's torch and torchvision, with and without a GPU. Nothing else patches BasicSR.

Each patch looks first whether it is needed, so that a BasicSR (or a fork of it) that mended the matter is left alone.
"""

import contextlib
import importlib
import importlib.util
import inspect
import os.path as osp
import sys
import types

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
    _mend_load_resume_state(importlib.import_module("basicsr.train"))


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


@contextlib.contextmanager
def checked_options(pipeline: types.ModuleType, check):
    """While it lasts, ``pipeline`` (basicsr.train or basicsr.test) hands its options to ``check`` before it uses them.

    BasicSR moves the folder of an earlier run aside as soon as it has read the options; what is wrong with them has to
    be found in between.
    """
    original = pipeline.parse_options

    def parse_options(root_path, is_train=True):
        opt, args = original(root_path, is_train=is_train)
        check(opt)
        return opt, args

    pipeline.parse_options = parse_options
    try:
        yield
    finally:
        pipeline.parse_options = original
