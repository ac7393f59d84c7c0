"""Networks to measure: those of the comparison, peers of spandrel, and those of option files and weights."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from contrast_arch.archs.contrast_arch import HATLight
from contrast_arch.archs.network import SRNetwork, pixel_shuffle
from contrast_arch.errors import InputError
from contrast_arch.files import option_files
from contrast_arch.networks import compared
from contrast_arch.weights import describe_pretrained, pretrained_names

BASE = "HAT (upstream)"
_HAT_S = {"depths": [6] * 6, "num_heads": [6] * 6, "embed_dim": 144, "window_size": 16, "img_size": 64}
_HAT_S |= {"compress_ratio": 24, "squeeze_factor": 24, "upsampler": "pixelshuffle"}
_SWINIR = {"depths": [6] * 4, "num_heads": [6] * 4, "embed_dim": 60, "window_size": 8}
_SWINIR |= {"upsampler": "pixelshuffledirect"}
_ALIKE = {"mlp_ratio": 2, "drop_path_rate": 0.0}
# Networks of spandrel at their published sizes, without stochastic depth: class in spandrel.architectures, arguments.
PEERS = {
    "HAT-S": ("HAT.__arch.HAT.HAT", _HAT_S | _ALIKE),
    "SwinIR-light": ("SwinIR.__arch.SwinIR.SwinIR", _SWINIR | _ALIKE),
    "OmniSR": ("OmniSR.__arch.OmniSR.OmniSR", {"num_feat": 64, "res_num": 5, "window_size": 8}),
}


@dataclass(frozen=True)
class Candidate:
    """A network to measure."""

    name: str  # in the table
    build: Callable[[], torch.nn.Module]  # makes it, on the CPU; can be sent to another process
    ours: bool = False  # its layers are those of this package, with faster and plainer forms to compare
    is_hat_light: bool = False  # the ratios may refer to it
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
    net.upsample = torch.nn.Sequential(*pixel_shuffle(dims, upscale, 3))
    net.conv_last = torch.nn.Identity()
    return net


def peer(name: str, scale: int = 4) -> torch.nn.Module:
    """Build a network of ``PEERS``.

    Raises:
        ImportError: spandrel is not installed, or does not have it.
    """
    path, arguments = PEERS[name]
    module, kind = f"spandrel.architectures.{path}".rsplit(".", 1)
    scale_key = "up_scale" if name == "OmniSR" else "upscale"
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


def find(names: list[str] | None, scale: int) -> tuple[list[Candidate], list[str]]:
    """Find the networks of the given names, files or weights, see :func:`contrast_arch.experiments.bench.command.run`.

    Returns:
        The candidates, and a note if the peers are not there.

    Raises:
        InputError: a name that is unknown or stands twice, or an option file that cannot be read or asks for a network
            that cannot be built.
    """
    notes, candidates = [], [_find(name, scale) for name in names or compared()]
    if not names:
        try:
            candidates[:0] = [_find(name, scale) for name in ("HAT", *PEERS)]
        except InputError as error:
            notes.append(str(error))
    found = [candidate.name for candidate in candidates]
    for name in found:
        if found.count(name) > 1:
            raise InputError(f"two networks are called {name}: name each once, and rename one of two files")
    return candidates, notes


def _find(name, scale):
    from contrast_arch.check import build_on_meta, read_options
    from contrast_arch.check.parts import import_problems
    from contrast_arch.options.problems import raise_errors

    if name == "HAT" or name in PEERS:
        build = partial(upstream_hat, scale) if name == "HAT" else partial(peer, name, scale)
        try:
            build()
        except ImportError as error:
            raise InputError(f"{name} needs spandrel, which does not import ({error}): pip install spandrel") from error
        return Candidate(BASE if name == "HAT" else name, build)
    weights = f"{name}_SRx{scale}"
    if name in pretrained_names() or name.endswith(".safetensors"):
        about = describe_pretrained(name)
    elif _option_file(name).is_file():
        about = describe_pretrained(weights) if weights in pretrained_names() else {}
        about = about | {"network_g": shipped_network_g(name) | {"upscale": scale}}
    elif Path(name).is_file():
        about = read_options(name)
        raise_errors(import_problems(about.get("imports", ())), name)
    else:
        known = ", ".join(("HAT", *compared(), *PEERS))
        raise InputError(f"network {name}: neither an option file, nor weights, nor one of {known}")
    from basicsr.utils.registry import ARCH_REGISTRY

    try:
        arguments = dict(about.get("network_g") or {})
        net = build_on_meta(arguments)
        build = partial(ARCH_REGISTRY.get(arguments.pop("type")), **arguments)
        net = build() if net is None else net
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error
    psnr = {dataset: values["psnr"] for dataset, values in about.get("metrics", {}).items() if "psnr" in values}
    return Candidate(Path(name).stem, build, isinstance(net, SRNetwork), isinstance(net, HATLight), psnr)
