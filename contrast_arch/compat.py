"""BasicSR on today's torch and torchvision, with and without a GPU. Nothing else patches BasicSR.

Each patch is applied at the moment its module is imported. It looks first whether it is needed, so that a BasicSR (or a
fork of it) that mended the matter is left alone.
"""

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
    """Prepare both patches; nothing is imported."""
    if not any(type(finder).__name__ == _FunctionalTensor.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_FunctionalTensor())
    when_imported("basicsr.utils.options", _mend_options)


class _FunctionalTensor(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The module that torchvision 0.17 removed, with the one function that BasicSR imports from it.

    Comes last among the finders: an older torchvision gives its own.
    """

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self) if fullname == FUNCTIONAL_TENSOR else None

    def exec_module(self, module):
        from torchvision.transforms.functional import rgb_to_grayscale

        module.rgb_to_grayscale = rgb_to_grayscale


def _mend_options(options: ModuleType) -> None:
    """Mend every trainer when it reads its options, which is before it loads a state.

    ``python basicsr/train.py`` is a second copy of the module, under the name ``__main__``.
    """
    original = getattr(options, "parse_options", None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def parse_options(*args, **kwargs):
        for name in ("__main__", "basicsr.train"):
            if name in sys.modules:
                _mend_load_resume_state(sys.modules[name])
        return original(*args, **kwargs)

    options.parse_options = parse_options
    for name in ("__main__", "basicsr.train"):
        if getattr(sys.modules.get(name), "parse_options", None) is original:
            sys.modules[name].parse_options = parse_options


def _mend_load_resume_state(train: ModuleType) -> None:
    """BasicSR loads a training state onto the current GPU, also where there is none."""
    original = getattr(train, "load_resume_state", None)
    if original is None or hasattr(original, "__wrapped__"):
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
