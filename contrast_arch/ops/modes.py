"""State of PyTorch around a call: recording of a network, autocast."""

import contextlib

import torch


def exporting() -> bool:
    """True while torch.export records a network; PyTorch before 2.7 cannot say."""
    return getattr(torch.compiler, "is_exporting", bool)()


def recording() -> bool:
    """True while torch.export or torch.jit.trace records a network, for other sizes and perhaps other machines."""
    return exporting() or torch.jit.is_tracing()


def no_autocast(device: torch.device):
    """Keep autocast from running matrix products in half precision; nothing to trace where it does not act."""
    # The meta device has none.
    acts = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if acts else contextlib.nullcontext()
