"""The network of an option file, built without memory, and the backend that is to run it."""

import inspect
from collections.abc import Iterator

import torch

from contrast_arch import ops
from contrast_arch.archs.network import SRNetwork
from contrast_arch.check.data import NEEDED
from contrast_arch.check.registry import argument_problems, registered
from contrast_arch.check.section import Section
from contrast_arch.errors import InputError
from contrast_arch.options.kinds import fits, whole
from contrast_arch.options.problems import Problem, error, warning
from contrast_arch.weights import network as weights_network


def build_on_meta(network_g: dict) -> torch.nn.Module | None:
    """Build the network without memory.

    Returns:
        The network on the meta device; None for networks of others, whose constructors may do what they like.

    Raises:
        InputError: unknown type, unknown argument, or a value that is refused.
    """
    cls = registered("network_g: type", network_g.get("type"), "ARCH_REGISTRY")
    if not (isinstance(cls, type) and issubclass(cls, SRNetwork)):
        return None
    return weights_network.build_on_meta(cls, weights_network.arguments_of(network_g))


def network_problems(opt: Section, network: torch.nn.Module | None) -> Iterator[Problem]:
    """Find what of the network does not fit the rest of the options.

    Args:
        opt: see :func:`~contrast_arch.check.context.completed`.
        network: see :func:`build_on_meta`.
    """
    section = opt.section("network_g")
    if network is None:
        cls = registered(section.where("type"), section["type"], "ARCH_REGISTRY")
        arguments = weights_network.arguments_of(section.values)
        yield from argument_problems(section.path, cls, arguments)
        yield from _scale_problems(opt["scale"], cls, arguments)
        return
    scale = opt.values.get("scale", network.upscale)
    if network.upscale != scale:
        yield section.error(f"{network.upscale} differs from scale: {scale}; give both the same number", "upscale")
    for dataset in opt.section("datasets"):
        channels, how = (1, "with") if dataset["color"] == "y" else (3, "without")
        if dataset["type"] in NEEDED and network.in_chans != channels:
            text = f"{network.in_chans}, but images of {dataset.where()} have {channels} ({how} color: y)"
            yield section.error(text, "in_chans")
        elif dataset["type"] == "PairedImageDataset" and not network.adds_mean_back:
            yield section.error(
                f"{section['num_out_ch']}; GT of {dataset.where()} has {channels} channels", "num_out_ch"
            )


def _scale_problems(scale, cls, arguments):
    """Hold the scale of another project's network, as far as its constructor names it, against that of the data."""
    for key in ("upscale", "scale"):
        parameter = inspect.signature(cls).parameters.get(key)
        value = arguments.get(key, parameter and parameter.default)
        if scale is not None and fits(whole(1), value) and value != scale:
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
    except (ValueError, RuntimeError) as failure:
        raise InputError(str(failure)) from failure
