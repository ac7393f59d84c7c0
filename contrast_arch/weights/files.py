"""Files with the weights of networks: read with care, and checked against a network."""

import hashlib
import json
import re
import zipfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from contrast_arch.archs.network import has_published_index, is_loaded
from contrast_arch.errors import InputError
from contrast_arch.files import replacing
from contrast_arch.parsing import parse_json
from contrast_arch.version import __version__

SAFETENSORS = ".safetensors"
# Entry of a .pth file beside "params", which BasicSR does not read; and that of traiNNer-redux, also in .safetensors.
ABOUT, _TRAINNER = "contrast_arch", "metadata"
# A file that unpacks to more times its size was made to fill the memory: torch.save compresses nothing.
MOST_UNPACKED = 16
# DataParallel, torch.compile, and trainers that save the network as a part of themselves.
_WRAPPERS = re.compile(r"(module\.|_orig_mod\.|generator\.|net_g\.)+")
_GENERATOR = re.compile(r"(module\.|_orig_mod\.)*(generator|net_g)\.")


def description(network_g: dict, iteration: int, **more) -> dict:
    """Describe the weights of a checkpoint in plain values of JSON; classes in ``network_g`` by their names."""
    found = {"network_g": network_g, "version": __version__, "iteration": iteration, **more}
    return json.loads(json.dumps(found, default=lambda value: getattr(value, "__name__", str(value))))


def as_metadata(about: dict) -> dict[str, str]:
    """The metadata of a file NAME.safetensors: a JSON text for each entry of :func:`description`."""
    return {key: json.dumps(value) for key, value in about.items()} | {"format": "pt"}


def read_description(path: Path, content: dict) -> dict:
    """Return the :func:`description` in a checkpoint and its ``content`` (see :func:`read`); empty without one."""
    own = path.suffix == SAFETENSORS
    try:
        if own:
            with safe_open(path, "pt") as file:
                content = {key: parse_json(text) for key, text in (file.metadata() or {}).items() if key != "format"}
        about = content.get(ABOUT, content.get(_TRAINNER, content if own else None))
    except (AttributeError, ValueError):  # a list, or metadata of another program
        return {}
    return about if isinstance(about, dict) else {}


def read(path: Path | str, what: str = "checkpoint") -> dict:
    """Read a file of ``torch.save`` or of safetensors, ``what`` in messages; code in it is refused, not run."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{what} {path} does not exist")
    try:
        known = _known_kind(path)
        if known is None:
            own = path.suffix == SAFETENSORS
            return load_file(path) if own else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file, and documents none
        if "unsupported global" in str(error).lower():
            text = "holds more than weights, which could run code on loading, and is refused; save its state_dict alone"
            raise InputError(f"{what} {path} {text}") from error
        # PyTorch's texts go on with advice, such as how to run the code all the same.
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        if "weights only" in reason.lower():
            reason = "what it holds is refused, since it is not weights alone"
        raise InputError(f"{what} {path} cannot be read; it may be truncated, or no PyTorch file: {reason}") from error
    raise InputError(f"{what} {path} cannot be read: {known}; expected a file of torch.save or a {SAFETENSORS}")


def _known_kind(path):
    """Name a file that is no checkpoint by its content; None where the content does not say it."""
    if not path.is_file():
        return "it is a folder, pipe or device"
    if not (size := path.stat().st_size):
        return "it is empty (0 bytes)"
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        return "it is a TorchScript archive, a program; save the network's state_dict"
    unpacked = sum(entry.file_size for entry in entries)
    too_much = f"its {size:,} bytes unpack to {unpacked:,}, more than {MOST_UNPACKED} times as many"
    return too_much if unpacked > MOST_UNPACKED * size else None


def weights_under(path: Path | str, content: dict, *param_keys: str | None) -> dict[str, torch.Tensor]:
    """Take the weights of a network out of the content of a checkpoint, without DataParallel's prefix.

    Args:
        path: of the checkpoint; a NAME.safetensors holds the weights without a key.
        content: see :func:`read`.
        param_keys: keys in the order of preference; None for a file that holds the weights without a key.

    Raises:
        InputError: the file has none of the keys, what is there is no weights, or a weight is NaN or infinite.
    """
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} holds a {type(content).__name__}, expected weights or keys with weights")
    keys = [None] if Path(path).suffix == SAFETENSORS else [key for key in param_keys if key is None or key in content]
    if not keys:
        raise InputError(f"checkpoint {path} has no {' or '.join(map(repr, param_keys))} but {_keys_there(content)}")
    key = keys[0]
    weights = content if key is None else content[key]
    if not isinstance(weights, dict) or not _are_tensors(weights):
        where = f"path: param_key_g: {key or '~'}"
        raise InputError(f"checkpoint {path} holds no weights under {where}; try {_keys_there(content)}")
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if unusual := [name for name, value in weights.items() if not _is_plain(value)]:
        text = "is no plain tensor of real numbers, each of them in the file; save the state_dict of the network again"
        raise InputError(f"checkpoint {path}: {unusual[0]} {text}")
    if wrong := first_not_finite(weights):
        text = "the training that saved it had diverged; take an earlier checkpoint"
        name = wrong if key is None else f"{key}: {wrong}"
        raise InputError(f"checkpoint {path} holds NaN or infinity in {name}: {text}")
    return weights


def without_wrappers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename weights as a network without wrappers names them; a discriminator beside a generator is left out."""
    generator = {name: value for name, value in weights.items() if _GENERATOR.match(name)}
    return {_WRAPPERS.sub("", name, count=1): value for name, value in (generator or weights).items()}


def _are_tensors(weights):
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())


def _is_plain(tensor):
    """True if a tensor of a file is one that a network may have, and takes the memory that it had in the file."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_complex():
        return False
    # On the meta device there are sizes alone; and a stride of 0 makes one number any number of elements.
    return not tensor.is_meta and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _keys_there(content):
    if content and _are_tensors(content):
        return f"{', '.join(list(content)[:3])}: these are the weights themselves; write path: param_key_g: ~"
    keys = [str(key) for key in content if key != ABOUT]
    return f"{', '.join(keys[:5]) or 'nothing'} (path: param_key_g)"


def first_not_finite(weights: dict[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None if there is none."""
    # Of floats of a byte PyTorch does not know it.
    wide = ((name, value.float() if value.element_size() == 1 else value) for name, value in weights.items())
    return next((name for name, value in wide if not torch.isfinite(value).all()), None)


def check_weights(path: str, weights: dict, network: torch.nn.Module | None, strict: bool = True) -> None:
    """Check that weights are those of a network; without ``strict``, as for fine-tuning, that some of them are.

    Args:
        path: of the checkpoint, for messages.
        network: may be on the meta device; None accepts all weights.

    Raises:
        InputError: names the file and what in it does not fit.
    """
    if network is None:
        return
    if getattr(network, "aligned_bias", False) and has_published_index(weights):
        raise InputError(
            f"checkpoint {path} is of the published code, whose position bias aligned_bias: true computes from other "
            "coordinates; write aligned_bias: false"
        )
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items() if key in expected or is_loaded(key)}
    if expected == found or (not strict and expected.items() & found.items()):
        return
    problems = [
        f"{key} is {found.get(key, 'missing')}, expected {expected.get(key, 'no such weight')}"
        for key in expected | found
        if found.get(key) != expected.get(key)
    ]
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    which = f"this network_g ({type(network).__name__})"
    raise InputError(f"checkpoint {path} was not saved from {which}: {'; '.join(problems[:3])}{more}")


def checksum(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's numbers, as they lie in a file of safetensors."""
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy()).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that lasts, at once or not at all; its folder is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync=True) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name another file or folder") from error
