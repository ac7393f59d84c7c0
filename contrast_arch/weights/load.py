"""Networks from checkpoints: of this package, of BasicSR, of other trainers, and of the author."""

import warnings
from pathlib import Path

import torch

from contrast_arch.errors import InputError
from contrast_arch.weights import files
from contrast_arch.weights.files import SAFETENSORS
from contrast_arch.weights.network import arguments_of, build_on_meta, network_class, network_of
from contrast_arch.weights.shapes import assumption, network_from_shapes, upscale_of
from contrast_arch.weights.sources import experiment_of, find_file, records

# Averaged weights first: those are what one would use. None: the file holds the weights without a key.
PARAM_KEYS = ("params_ema", "params", "state_dict", None)


def load_pretrained(
    source: str | Path,
    *,
    iteration: str | int | None = None,
    param_key: str | None = None,
    device: str | torch.device = "cpu",
    **network_arguments,
) -> torch.nn.Module:
    """Load a network with its weights, in evaluation mode and float32.

    The network is the one that the file says; else the one of the option file of the experiment that it lies in; else
    it is found from the names and shapes of the weights, and a warning names what those cannot say.

    Args:
        source: a name of :func:`~contrast_arch.weights.pretrained_names`; the path of a .safetensors or .pth file; or
            a folder ``experiments/NAME``.
        iteration: of a folder: "latest" (the default), "best" (by PSNR on the first validation set) or a number.
        param_key: entry of a .pth file with the weights; None takes ``params_ema``, ``params``, ``state_dict`` or the
            file itself, in this order.
        device: the network is moved to it.
        network_arguments: ``type`` and arguments of the network; they come before those of the file.

    Returns:
        The network: LQ (B, in_chans, H, W) in [0, 1] -> (B, num_out_ch, upscale * H, upscale * W).

    Raises:
        InputError: no such source, a file that cannot be read, weights of another network or scale, NaN or infinity.
    """
    return load_with_network_g(source, iteration, param_key, device, **network_arguments)[0]


def load_with_network_g(source, iteration=None, param_key=None, device="cpu", **network_arguments):
    """As :func:`load_pretrained`; gives the network and its section ``network_g``."""
    check_device(device)
    path = find_file(source, iteration)
    about, weights = _read_weights(path, param_key)
    network_g = _network_g(path, about, weights, network_arguments)
    arguments = arguments_of(network_g)
    try:
        cls = network_class(network_g)
        expected = build_on_meta(cls, arguments)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    scale = upscale_of(path, weights, expected, network_g)
    if scale not in (None, expected.upscale):
        raise InputError(f"checkpoint {path} is of scale {scale}, expected {expected.upscale} (upscale)")
    files.check_weights(str(path), weights, expected)
    network = cls(**arguments)
    network.load_state_dict(weights)
    return network.to(device).eval(), network_g


def describe_pretrained(source: str | Path) -> dict:
    """Read what a checkpoint that ContrastModel or ``contrast-arch export`` wrote says of its weights.

    Args:
        source: as in :func:`load_pretrained`.

    Returns:
        ``network_g``, ``iteration``, ``version`` and, of an exported file, ``options``, ``metrics``, ``param_key``,
        ``images`` and ``checksums``.
    """
    path = find_file(source)
    about = files.read_description(path)
    if not isinstance(about.get("network_g"), dict):
        raise InputError(f"{path} does not say its network_g; expected a file that contrast-arch export wrote")
    return about


def check_device(device: str | torch.device) -> None:
    """Refuse a device that PyTorch cannot use."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch raises the second where it was built without CUDA
        reason = str(error).splitlines()[0]
        raise InputError(f"device={str(device)!r}: {reason}; expected cpu, or a GPU that PyTorch finds") from error


def _read_weights(path, param_key):
    """Read the description of a checkpoint, and its weights by the names of a network without wrappers."""
    content = files.read(path)
    about = files.read_description(path, content)
    if path.suffix == SAFETENSORS:
        checksums = about.get("checksums")
        for name, expected in checksums.items() if isinstance(checksums, dict) else ():
            if name not in content or files.checksum(content[name]) != expected:
                raise InputError(f"{path} is damaged: {name} differs from its checksum; copy or export the file again")
        if param_key not in (None, about.get("param_key", param_key)):
            raise InputError(f"{path} holds the weights of {about['param_key']}, and no {param_key!r}")
    keys = PARAM_KEYS if param_key is None else (param_key,)
    return about, files.without_wrappers(files.weights_under(path, content, *keys))


def _network_g(path, about, weights, given):
    network_g = about.get("network_g")
    if not isinstance(network_g, dict) and (folder := experiment_of(path)):
        network_g = network_of(records().read_run(folder).options)
    if isinstance(network_g, dict):
        return {**network_g, **given}
    network_g, assumed = network_from_shapes(path, weights, given)
    if assumed:
        warnings.warn(f"{assumption(path, network_g, assumed)}. Give load_pretrained what differs", stacklevel=4)
    return network_g
