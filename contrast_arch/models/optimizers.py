"""The optimizers of PyTorch by name."""

import inspect

import torch

from contrast_arch.errors import InputError, hint

REFUSED = {
    "LBFGS": "it evaluates the loss several times an iteration",
    "SparseAdam": "it takes sparse gradients, and those of networks are dense",
}


def optimizer_names() -> list[str]:
    """List the classes of torch.optim that :func:`optimizer_class` gives."""
    found = vars(torch.optim).items()
    names = {key for key, value in found if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)}
    return sorted(names - {"Optimizer", *REFUSED})


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """A class of torch.optim.

    Raises:
        InputError: there is none of that name, or none that can train here.
    """
    if name in REFUSED:
        raise InputError(f"train: optim_g: type: {name} is not supported: {REFUSED[name]}")
    if name not in optimizer_names():
        known = hint(name, optimizer_names(), "there are ")
        raise InputError(f"train: optim_g: type: {name!r} is not in torch.optim; {known}")
    return getattr(torch.optim, name)
