"""The network of an option file, built without memory, and the backend that is to run it."""

import inspect
from collections.abc import Iterator

import torch

from contrast_arch import ops
from contrast_arch.archs.network import SRNetwork
from contrast_arch.check.data import NEEDED
from contrast_arch.check.kinds import whole
from contrast_arch.check.problems import Problem, error, warning
from contrast_arch.check.registered import argument_problems, registered
from contrast_arch.errors import InputError
from contrast_arch.weights.network import build_on_meta


def check_network(network_g: dict) -> torch.nn.Module | None:
    """Build the network without memory.

    Returns:
        The network on the meta device; None for networks of others, whose constructors may do what they like.

    Raises:
        InputError: unknown type, unknown argument, or a value that is refused.
    """
    arguments = dict(network_g)
    cls = registered("network_g: type", arguments.pop("type", None), "ARCH_REGISTRY")
    if not (isinstance(cls, type) and issubclass(cls, SRNetwork)):
        return None
    return build_on_meta(cls, arguments)


def network_problems(opt: dict, network: torch.nn.Module | None) -> Iterator[Problem]:
    """What of the network does not fit the rest of the options.

    Args:
        opt: see :func:`~contrast_arch.check.situation.completed`.
        network: see :func:`check_network`.
    """
    section = opt["network_g"]
    arguments = {key: value for key, value in section.items() if key != "type"}
    if network is None:
        cls = registered("network_g: type", section["type"], "ARCH_REGISTRY")
        yield from argument_problems(("network_g",), cls, arguments)
        yield from _scale_problems(opt.get("scale"), cls, arguments)
        return
    scale = opt.get("scale", network.upscale)
    if network.upscale != scale:
        yield error(
            ("network_g", "upscale"),
            f"network_g: upscale: {network.upscale} differs from scale: {scale}; give both the same number",
        )
    for phase, dataset in opt["datasets"].items():
        channels = 1 if dataset.get("color") == "y" else 3
        if dataset.get("type") in NEEDED and network.in_chans != channels:
            why = "with color: y" if channels == 1 else "without color: y"
            yield error(
                ("network_g", "in_chans"),
                f"network_g: in_chans: {network.in_chans}, but images of datasets: {phase} have {channels} ({why})",
            )
        elif dataset.get("type") == "PairedImageDataset" and not network.adds_mean_back:
            yield error(
                ("network_g", "num_out_ch"),
                f"network_g: num_out_ch: {section.get('num_out_ch')}; GT of datasets: {phase} has {channels} channels",
            )


def _scale_problems(scale, cls, arguments):
    """Hold the scale of another project's network, as far as its constructor names it, against that of the data."""
    for key in ("upscale", "scale"):
        parameter = inspect.signature(cls).parameters.get(key)
        value = arguments.get(key, parameter and parameter.default)
        if scale is not None and whole(1).fits(value) and value != scale:
            where = f"network_g: {key}: {value}" + ("" if key in arguments else " (default)")
            # At scale 1 there are networks without an upsampler, which ignore it.
            finding = error if scale > 1 and cls.__module__.startswith("basicsr.") else warning
            yield finding(("network_g", key), f"{where} differs from scale: {scale}; give both the same number")


def check_backend(device: torch.device) -> None:
    """Check the backends that the environment forces, if it does.

    Args:
        device: without an index, that of PyTorch's current GPU.

    Raises:
        InputError: one is unknown, or does not support the device.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        ops.check_environment(device)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
