"""Networks to measure: those of the comparison, peers of spandrel, and those of option files and weights."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from contrast_arch.archs.network import pixel_shuffle
from contrast_arch.check import build_on_meta, read_options
from contrast_arch.check.parts import import_problems
from contrast_arch.errors import InputError
from contrast_arch.files import option_files
from contrast_arch.networks import compared
from contrast_arch.options.document import raise_errors
from contrast_arch.weights import describe_pretrained, pretrained_names

BASE = "HAT (upstream)"
_HAT_S = {"depths": [6] * 6, "num_heads": [6] * 6, "embed_dim": 144, "window_size": 16, "img_size": 64}
_HAT_S |= {"compress_ratio": 24, "squeeze_factor": 24, "upsampler": "pixelshuffle"}
_SWINIR = {"depths": [6] * 4, "num_heads": [6] * 4, "embed_dim": 60, "window_size": 8}
_SWINIR |= {"upsampler": "pixelshuffledirect"}
_ALIKE = {"mlp_ratio": 2, "drop_path_rate": 0.0}
# Networks of spandrel at their published sizes, without stochastic depth: class in spandrel.architectures, its argument
# for the scale, and others.
PEERS = {
    "HAT-S": ("HAT.__arch.HAT.HAT", "upscale", _HAT_S | _ALIKE),
    "SwinIR-light": ("SwinIR.__arch.SwinIR.SwinIR", "upscale", _SWINIR | _ALIKE),
    "OmniSR": ("OmniSR.__arch.OmniSR.OmniSR", "up_scale", {"num_feat": 64, "res_num": 5, "window_size": 8}),
}


class Candidate(NamedTuple):
    """A network to measure."""

    name: str  # in the table
    build: Callable[[], torch.nn.Module]  # makes it, on the CPU; can be sent to another process
    psnr: dict[str, float]  # of its trained weights on Y, in dB, by data set


def upstream_hat(upscale: int = 4, dims: int = 60, depths=(6, 6, 6, 6), heads=(6, 6, 6, 6), window_size: int = 16):
    """HAT as spandrel, which must be installed, ships it: of HATLight's sizes and upsampler, no stochastic depth."""
    from spandrel.architectures.HAT.__arch.HAT import HAT

    sizes = {"embed_dim": dims, "depths": depths, "num_heads": heads, "window_size": window_size, "mlp_ratio": 2}
    net = HAT(img_size=4 * window_size, drop_path_rate=0.0, upscale=upscale, **sizes)
    net.conv_before_upsample = torch.nn.Identity()
    net.upsample = torch.nn.Sequential(*pixel_shuffle(dims, upscale, 3))
    net.conv_last = torch.nn.Identity()
    return net


def peer(name: str, scale: int = 4) -> torch.nn.Module:
    """Build a network of ``PEERS``; spandrel must be installed."""
    path, scale_key, arguments = PEERS[name]
    module, kind = f"spandrel.architectures.{path}".rsplit(".", 1)
    return getattr(importlib.import_module(module), kind)(**arguments, **{scale_key: scale})


def _option_file(name):
    return option_files() / "train" / f"train_{name}_SRx4_from_scratch.yml"


def shipped_network_g(name: str) -> dict:
    """Section ``network_g`` of the option file that trains a network, such as ``ContrastV2_light``, at X4."""
    return read_options(str(_option_file(name)))["network_g"]


def parameters(net: torch.nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def find(names: list[str] | None, scale: int) -> tuple[list[Candidate], list[str]]:
    """Find the networks of the names of :func:`contrast_arch.experiments.bench.command.run`; a note without spandrel.

    Raises:
        InputError: a name that is unknown or stands twice, or a file without a network that can be built.
    """
    notes = []
    if not names:
        names = ["HAT", *PEERS, *compared()]
        if importlib.util.find_spec("spandrel") is None:
            notes, names = [f"HAT, {', '.join(PEERS)} need spandrel: pip install spandrel"], compared()
    candidates = [_find(name, scale) for name in names]
    found = [candidate.name for candidate in candidates]
    for name in found:
        if found.count(name) > 1:
            raise InputError(f"two networks are called {name}: name each once, and rename one of two files")
    return candidates, notes


def _find(name, scale):
    from basicsr.utils.registry import ARCH_REGISTRY

    others = {"HAT": partial(upstream_hat, scale)} | {key: partial(peer, key, scale) for key in PEERS}
    about, build, net = {}, others.get(name), None
    if build is None:
        about = _description(name, scale)
    try:
        if build is None:
            arguments = dict(about.get("network_g") or {})
            net = build_on_meta(arguments)
            build = partial(ARCH_REGISTRY.get(arguments.pop("type")), **arguments)
        if net is None:
            build()
    except (ImportError, InputError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error
    psnr = {dataset: values["psnr"] for dataset, values in about.get("metrics", {}).items() if "psnr" in values}
    return Candidate(BASE if name == "HAT" else Path(name).stem, build, psnr)


def _description(name, scale):
    """Mapping with ``network_g``, and ``metrics`` if they are known, of a network's name, an option file or weights."""
    weights = f"{name}_SRx{scale}"
    if name in pretrained_names() or name.endswith(".safetensors"):
        return describe_pretrained(name)
    if _option_file(name).is_file():
        about = describe_pretrained(weights) if weights in pretrained_names() else {}
        return about | {"network_g": shipped_network_g(name) | {"upscale": scale}}
    if not Path(name).is_file():
        known = ", ".join(("HAT", *compared(), *PEERS))
        raise InputError(f"network {name}: neither an option file, nor weights, nor one of {known}")
    options = read_options(name)
    raise_errors(import_problems(options.get("imports", ())), name)
    return options
