"""Networks to measure: those of the comparison, those of spandrel, and those of any option file."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from contrast_arch.archs.contrast_arch import HATLight
from contrast_arch.archs.network import SRNetwork
from contrast_arch.errors import InputError
from contrast_arch.files import option_files
from contrast_arch.layers.upsample import PixelShuffleDirect

BASE = "HAT (upstream)"
COMPARISON = ("HATLight", "Contrast", "ContrastNoPE", "ContrastNoPE_ssm_ratio2", "ContrastNoPENoCA", "MambaLight")
COMPARISON += ("ContrastV2_light", "ContrastV2_S")
# Class in spandrel.architectures and its arguments, as the papers have them; no stochastic depth.
SPANDREL = {
    "HAT-S": (
        "HAT.__arch.HAT.HAT",
        {
            "img_size": 64,
            "embed_dim": 144,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "window_size": 16,
            "compress_ratio": 24,
            "squeeze_factor": 24,
            "mlp_ratio": 2,
            "drop_path_rate": 0.0,
            "upsampler": "pixelshuffle",
        },
    ),
    "SwinIR-light": (
        "SwinIR.__arch.SwinIR.SwinIR",
        {
            "embed_dim": 60,
            "depths": [6] * 4,
            "num_heads": [6] * 4,
            "window_size": 8,
            "mlp_ratio": 2,
            "drop_path_rate": 0.0,
            "upsampler": "pixelshuffledirect",
        },
    ),
}


@dataclass(frozen=True)
class Candidate:
    """A network to measure.

    Args:
        name: in the table.
        build: makes it, on the CPU; can be sent to another process.
        ours: whether its layers are those of this package, with faster and plainer forms to compare.
        is_hat_light: whether the ratios may refer to it.
        window: side of its attention windows, 1 where it has none.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    ours: bool = False
    is_hat_light: bool = False
    window: int = 1


def upstream_hat(upscale: int = 4, dims: int = 60, depths=(6, 6, 6, 6), heads=(6, 6, 6, 6), window_size: int = 16):
    """HAT as spandrel ships it, at the sizes of HATLight and with its upsampler; no stochastic depth.

    Raises:
        ImportError: spandrel is not installed.
    """
    from spandrel.architectures.HAT.__arch.HAT import HAT

    net = HAT(
        img_size=4 * window_size,
        embed_dim=dims,
        depths=depths,
        num_heads=heads,
        window_size=window_size,
        mlp_ratio=2,
        drop_path_rate=0.0,
        upscale=upscale,
    )
    net.conv_before_upsample = torch.nn.Identity()
    net.upsample = PixelShuffleDirect(upscale, dims, 3)
    net.conv_last = torch.nn.Identity()
    return net


def of_spandrel(path: str, **arguments) -> torch.nn.Module:
    """A network of spandrel by its class, see ``SPANDREL``.

    Raises:
        ImportError: spandrel is not installed, or does not have it.
    """
    module, kind = f"spandrel.architectures.{path}".rsplit(".", 1)
    return getattr(importlib.import_module(module), kind)(**arguments)


def shipped_network_g(name: str) -> dict:
    """Section ``network_g`` of the option file that trains a network at X4 from scratch.

    Args:
        name: of the network in the file's name, such as ``ContrastV2_light``.
    """
    from contrast_arch.check import read_options

    return read_options(str(option_files() / "train" / f"train_{name}_SRx4_from_scratch.yml"))["network_g"]


def parameters(net: torch.nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def window(net: torch.nn.Module) -> int:
    """Side of the attention windows, 1 where the network names none."""
    side = getattr(net, "window_size", 1)
    return side if isinstance(side, int) else 1


def find(names: list[str] | None, scale: int, patch: int) -> tuple[list[Candidate], list[str]]:
    """The networks of these names or option files, see :func:`contrast_arch.bench.run`, and what is to be said of them.

    Raises:
        InputError: a name that is unknown or stands twice, an option file that cannot be read, is for another scale or
            asks for a network that cannot be built, or a patch that is smaller than a network's windows.
    """
    notes = []
    if names:
        candidates = [_find(name, scale) for name in names]
    else:
        candidates = [_find(name, scale) for name in COMPARISON]
        try:
            candidates[:0] = [_find(name, scale) for name in ("HAT", *SPANDREL)]
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
    if name == "HAT":
        return _upstream(BASE, partial(upstream_hat, scale))
    if name in SPANDREL:
        path, arguments = SPANDREL[name]
        return _upstream(name, partial(of_spandrel, path, upscale=scale, **arguments))
    if name in COMPARISON:
        return _candidate(name, shipped_network_g(name) | {"upscale": scale})
    if not Path(name).is_file():
        known = ", ".join(("HAT", *COMPARISON, *SPANDREL))
        raise InputError(f"network {name}: neither an option file nor one of {known}")
    return _from_file(name, scale)


def _from_file(path, scale):
    from contrast_arch.check import read_options
    from contrast_arch.check.registry import import_problems
    from contrast_arch.options.problems import raise_errors

    options = read_options(path)
    raise_errors(import_problems(options.get("imports", ())), path)
    network_g = options.get("network_g")
    if not isinstance(network_g, dict):
        raise InputError(f"{path} has no network_g with keys of its own, which says what to build")
    own = options.get("scale", network_g.get("upscale", scale))
    if own != scale:
        raise InputError(f"{path} is for scale {own}, and --scale is {scale}: measure networks of one scale at a time")
    try:
        return _candidate(Path(path).stem, network_g)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _candidate(name, network_g):
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
    return Candidate(name, build, isinstance(net, SRNetwork), isinstance(net, HATLight), window(net))


def _upstream(name, build):
    try:
        net = build()
    except ImportError as error:
        raise InputError(f"{name} needs spandrel, which does not import ({error}): pip install spandrel") from error
    return Candidate(name, build, window=window(net))


def hat_light_of(scale: int) -> SRNetwork:
    """HATLight at the sizes of :func:`upstream_hat`."""
    return HATLight(upscale=scale)
