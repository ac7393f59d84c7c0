"""Networks from checkpoints: of this package, of BasicSR, of other trainers, and of the author."""

import contextlib
from pathlib import Path

import torch

from contrast_arch.errors import InputError
from contrast_arch.networks import class_names
from contrast_arch.registration import SUFFIX
from contrast_arch.weights import files
from contrast_arch.weights.files import SAFETENSORS
from contrast_arch.weights.network import arguments_of, build_on_meta, network_class
from contrast_arch.weights.shapes import network_from_shapes, upsampler
from contrast_arch.weights.sources import find_file, read_run

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

    The network is the one that the file says, else that of the option file of its experiment, else it is found from
    the names and shapes of the weights, and a warning names what those cannot say.

    Args:
        source: a name of :func:`~contrast_arch.weights.pretrained_names`, a .safetensors or .pth file, or a folder
            ``experiments/NAME``.
        iteration: of a folder: "latest" (the default), "best" (by PSNR on the first validation set) or a number.
        param_key: entry of a .pth file; None takes ``params_ema``, ``params``, ``state_dict`` or the file itself.
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
    network_g = about.get("network_g") or _of_experiment(path)
    if isinstance(network_g, dict):
        network_g = network_g | network_arguments
    else:
        network_g = network_from_shapes(path, weights, network_arguments, "Give load_pretrained what differs")
    arguments = arguments_of(network_g)
    try:
        cls = network_class(network_g)
        expected = build_on_meta(cls, arguments)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    with contextlib.suppress(KeyError, ValueError):  # of weights that are missing: named below
        found = upsampler({name: value.shape for name, value in weights.items()}, expected.in_chans, network_g)
        if found["upsampler"] == expected.upsampler and found["upscale"] != expected.upscale:
            raise InputError(f"checkpoint {path} is of scale {found['upscale']}, expected {expected.upscale} (upscale)")
    files.check_weights(str(path), weights, expected)
    network = cls(**arguments)
    network.load_state_dict(weights)
    return network.to(device).eval(), network_g


def describe_pretrained(source: str | Path) -> dict:
    """Read what a checkpoint of ContrastModel or ``contrast-arch export`` says of its weights.

    Args:
        source: as in :func:`load_pretrained`.

    Returns:
        See :mod:`contrast_arch.weights.exporting`; of ContrastModel ``network_g``, ``iteration`` and ``version``.
    """
    path = find_file(source)
    about = files.read_description(path, files.read(path))
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


def _of_experiment(path):
    """The section ``network_g`` of the experiment in whose folder ``models`` a checkpoint lies; None elsewhere."""
    folder = path.absolute().parents[1]
    if path.absolute().parent.name != "models":
        return None
    options = read_run(folder).options
    with contextlib.suppress(ImportError, OSError, ValueError):  # Python 3.10 has no tomllib
        import tomllib

        # neosr copies its option file there, with the time in the name.
        for file in sorted(folder.glob("*.toml")):
            options = tomllib.loads(file.read_text(encoding="utf-8"))
    network_g, names = options.get("network_g"), {name.lower(): name for name in class_names()}
    # In traiNNer-redux and neosr names are in lower case, and the scale factor stands at the top alone.
    name = str(network_g.get("type")).removesuffix(SUFFIX) if isinstance(network_g, dict) else None
    if name not in names:
        return network_g
    scale = {"upscale": options["scale"]} if "scale" in options else {}
    return scale | network_g | {"type": names[name]}
