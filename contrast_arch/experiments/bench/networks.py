"""Networks to measure: those of the comparison, peers of spandrel, and those of option files and weights."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from contrast_arch.archs.contrast_arch import HATLight
from contrast_arch.archs.network import SRNetwork
from contrast_arch.errors import InputError
from contrast_arch.files import option_files
from contrast_arch.layers.upsample import PixelShuffleDirect
from contrast_arch.networks import compared
from contrast_arch.weights import describe_pretrained, pretrained_names

BASE = "HAT (upstream)"


class Peer(NamedTuple):
    """A network of spandrel at a published size, without stochastic depth."""

    path: str  # of its class, in spandrel.architectures
    thousands: int  # parameters at X4, as its paper states them
    arguments: dict  # of its class, but for the scale
    scale_key: str = "upscale"


_DIRECT = {"mlp_ratio": 2, "upsampler": "pixelshuffledirect"}
_FOUR = {"depths": [6] * 4, "num_heads": [6] * 4, "embed_dim": 60, **_DIRECT}
_SIX = {"depths": [6] * 6, "num_heads": [6] * 6, "window_size": 16, "mlp_ratio": 2, "drop_path_rate": 0.0}
_HAT_S = {"img_size": 64, "embed_dim": 144, "compress_ratio": 24, "squeeze_factor": 24, "upsampler": "pixelshuffle"}
_DAT = {"depth": [18], "num_heads": [6], "embed_dim": 60, "expansion_factor": 2, "split_size": [8, 32]}
_ATD = {"embed_dim": 48, "num_heads": [4] * 4, "mlp_ratio": 1, "window_size": 16, "category_size": 128}
_ATD |= {"num_tokens": 64, "reducted_dim": 8, "convffn_kernel_size": 7}
PEERS = {
    "HAT-S": Peer("HAT.__arch.HAT.HAT", 9621, _SIX | _HAT_S),
    "SwinIR-light": Peer("SwinIR.__arch.SwinIR.SwinIR", 897, _FOUR | {"window_size": 8, "drop_path_rate": 0.0}),
    "DAT-light": Peer(
        "DAT.__arch.DAT.DAT",
        573,
        _DAT | {"resi_connection": "3conv", "drop_path_rate": 0, "upsampler": "pixelshuffledirect"},
    ),
    "OmniSR": Peer("OmniSR.__arch.OmniSR.OmniSR", 792, {"num_feat": 64, "res_num": 5, "window_size": 8}, "up_scale"),
    "ATD-light": Peer("ATD.__arch.atd_arch.ATD", 769, _FOUR | _ATD),
}


@dataclass(frozen=True)
class Candidate:
    """A network to measure."""

    name: str  # in the table
    build: Callable[[], torch.nn.Module]  # makes it, on the CPU; can be sent to another process
    ours: bool = False  # its layers are those of this package, with faster and plainer forms to compare
    is_hat_light: bool = False  # the ratios may refer to it
    window: int = 1  # side of its attention windows
    psnr: dict[str, float] = field(default_factory=dict)  # of its trained weights on Y, in dB, by data set


def upstream_hat(upscale: int = 4, dims: int = 60, depths=(6, 6, 6, 6), heads=(6, 6, 6, 6), window_size: int = 16):
    """HAT as spandrel ships it, at the sizes of HATLight and with its upsampler; no stochastic depth.

    Raises:
        ImportError: spandrel is not installed.
    """
    from spandrel.architectures.HAT.__arch.HAT import HAT

    sizes = {"embed_dim": dims, "depths": depths, "num_heads": heads, "window_size": window_size, "mlp_ratio": 2}
    net = HAT(img_size=4 * window_size, drop_path_rate=0.0, upscale=upscale, **sizes)
    net.conv_before_upsample = torch.nn.Identity()
    net.upsample = PixelShuffleDirect(upscale, dims, 3)
    net.conv_last = torch.nn.Identity()
    return net


def peer(name: str, scale: int = 4) -> torch.nn.Module:
    """Build a network of ``PEERS``.

    Raises:
        ImportError: spandrel is not installed, or does not have it.
    """
    path, _, arguments, scale_key = PEERS[name]
    module, kind = f"spandrel.architectures.{path}".rsplit(".", 1)
    return getattr(importlib.import_module(module), kind)(**arguments, **{scale_key: scale})


def _option_file(name):
    return option_files() / "train" / f"train_{name}_SRx4_from_scratch.yml"


def shipped_network_g(name: str) -> dict:
    """Section ``network_g`` of the option file that trains a network at X4 from scratch.

    Args:
        name: of the network in the file's name, such as ``ContrastV2_light``.
    """
    from contrast_arch.check import read_options

    return read_options(str(_option_file(name)))["network_g"]


def parameters(net: torch.nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def window(net: torch.nn.Module) -> int:
    """Side of the attention windows, 1 where the network names none."""
    side = getattr(net, "window_size", 1)
    return side if isinstance(side, int) else 1


def set_training(net: torch.nn.Module, training: bool) -> torch.nn.Module:
    """Set the mode of a network, but leave batch norms as in evaluation: some of DAT's see one number of an image."""
    net.train(training)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return net


def find(names: list[str] | None, scale: int, patch: int) -> tuple[list[Candidate], list[str]]:
    """Find the networks of the given names, files or weights, see :func:`contrast_arch.experiments.bench.command.run`.

    Returns:
        The candidates, and notes on what is not there.

    Raises:
        InputError: a name that is unknown or stands twice, an option file that cannot be read, is for another scale or
            asks for a network that cannot be built, or a patch that is smaller than a network's windows.
    """
    notes, candidates = [], [_find(name, scale) for name in names or compared()]
    if not names:
        try:
            candidates[:0] = [_find(name, scale) for name in ("HAT", *PEERS)]
        except InputError as error:
            notes.append(str(error))
    found = [candidate.name for candidate in candidates]
    for candidate in candidates:
        if found.count(candidate.name) > 1:
            raise InputError(f"two networks are called {candidate.name}: name each once, and rename one of two files")
        if patch < candidate.window:
            raise InputError(
                f"--patch {patch} is smaller than the windows of {candidate.name}, which would be padded: expected at "
                f"least {candidate.window}"
            )
    return candidates, notes


def _find(name, scale):
    from contrast_arch.check import read_options
    from contrast_arch.check.parts import import_problems
    from contrast_arch.options.problems import raise_errors

    if name == "HAT" or name in PEERS:
        build = partial(upstream_hat, scale) if name == "HAT" else partial(peer, name, scale)
        try:
            return Candidate(BASE if name == "HAT" else name, build, window=window(build()))
        except ImportError as error:
            raise InputError(f"{name} needs spandrel, which does not import ({error}): pip install spandrel") from error
    weights = f"{name}_SRx{scale}"
    if name in pretrained_names() or name.endswith(".safetensors"):
        about = describe_pretrained(name)
        network_g, own = about["network_g"], about["network_g"].get("upscale", scale)
    elif _option_file(name).is_file():
        about = describe_pretrained(weights) if weights in pretrained_names() else {}
        network_g, own = shipped_network_g(name) | {"upscale": scale}, scale
    elif Path(name).is_file():
        about = read_options(name)
        raise_errors(import_problems(about.get("imports", ())), name)
        network_g = about.get("network_g")
        if not isinstance(network_g, dict):
            raise InputError(f"{name} has no network_g with keys of its own, which says what to build")
        own = about.get("scale", network_g.get("upscale", scale))
    else:
        known = ", ".join(("HAT", *compared(), *PEERS))
        raise InputError(f"network {name}: neither an option file, nor weights, nor one of {known}")
    if own != scale:
        raise InputError(f"{name} is for scale {own}, and --scale is {scale}: measure networks of one scale at a time")
    psnr = {dataset: values["psnr"] for dataset, values in about.get("metrics", {}).items() if "psnr" in values}
    try:
        return _candidate(Path(name).stem, network_g, psnr)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _candidate(name, network_g, psnr):
    from basicsr.utils.registry import ARCH_REGISTRY

    from contrast_arch.check import build_on_meta

    net = build_on_meta(network_g)
    arguments = dict(network_g)
    build = partial(ARCH_REGISTRY.get(arguments.pop("type")), **arguments)
    if net is None:
        try:
            net = build()
        except Exception as error:  # constructors of others may raise what they like
            raise InputError(f"network_g: {network_g['type']} cannot be built: {error}") from error
    return Candidate(name, build, isinstance(net, SRNetwork), isinstance(net, HATLight), window(net), psnr)
