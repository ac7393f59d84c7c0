"""BasicSR on today's torchvision, and without a GPU. Nothing else patches BasicSR.

Each patch is applied at the moment its module is imported, and acts only where it is needed.
"""

import functools
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import wrapt

from contrast_arch.errors import InputError, located

HOW_TO_INSTALL = (
    "pip install torch torchvision numpy cython setuptools wheel, then pip install --no-build-isolation basicsr "
    "(BasicSR 1.4.2 builds on Python 3.10 to 3.12, not on 3.13)"
)
FUNCTIONAL_TENSOR = "torchvision.transforms.functional_tensor"
# ``python basicsr/train.py`` is a second copy of the module.
TRAINERS = ("__main__", "basicsr.train")


def require_basicsr() -> None:
    """Import BasicSR, first that of the working directory; InputError where it is absent, broken or before 1.3.4."""
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
        text = f"BasicSR in {folder} does not import: {located(error)}. Install what it needs; for BasicSR 1.4.2 itself"
        raise InputError(f"{text}: {HOW_TO_INSTALL}") from error
    if not hasattr(sys.modules["basicsr.utils.options"], "parse_options"):
        raise InputError(f"BasicSR {basicsr_in_use()}: expected 1.3.4 or later. For BasicSR 1.4.2: {HOW_TO_INSTALL}")


def basicsr_in_use() -> str:
    """Version and folder of the BasicSR that is imported, such as ``1.4.2 (/home/me/BasicSR/basicsr)``."""
    import basicsr

    version = getattr(sys.modules.get("basicsr.version"), "__version__", "unknown version")
    return f"{version} ({os.path.dirname(basicsr.__file__)})"


def basicsr_is_released() -> bool:
    """True if BasicSR is an installed release; a clone or a fork of a project may read more than the release does."""
    import basicsr

    return bool({"site-packages", "dist-packages"} & set(Path(basicsr.__file__).parts))


def mend_basicsr() -> None:
    """Prepare both patches; nothing is imported."""
    wrapt.register_post_import_hook(_give_functional_tensor, "torchvision.transforms")
    wrapt.register_post_import_hook(_mend_options, "basicsr.utils.options")


def _give_functional_tensor(transforms: ModuleType) -> None:
    """Let a module be found under the name that it had before torchvision 0.17, by which BasicSR imports it."""
    if FUNCTIONAL_TENSOR not in sys.modules:
        sys.modules[FUNCTIONAL_TENSOR] = importlib.import_module("torchvision.transforms._functional_tensor")


def _mend_options(options: ModuleType) -> None:
    """Mend every trainer when it reads its options: BasicSR loads a state onto the current GPU, also where none is."""
    original = getattr(options, "parse_options", None)

    @functools.wraps(original)
    def parse_options(*args, **kwargs):
        import torch

        for trainer in map(sys.modules.get, TRAINERS):
            if hasattr(trainer, "load_resume_state") and not torch.cuda.is_available():
                trainer.load_resume_state = _without_gpu(trainer.load_resume_state)
        return original(*args, **kwargs)

    for module in (options, *map(sys.modules.get, TRAINERS)):
        if original and getattr(module, "parse_options", None) is original:
            module.parse_options = parse_options


def _without_gpu(function):
    from unittest import mock

    onto_cpu = mock.patch("torch.UntypedStorage.cuda", lambda storage, device: storage)
    return mock.patch("torch.cuda.current_device", lambda: None)(onto_cpu(function))
