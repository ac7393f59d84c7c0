"""Networks with the weights that come with the package, and files like those from experiments of one's own.

A file is NAME.safetensors. Its metadata are JSON texts, what it takes to build the network and to know whence it comes:
``network_g``, ``options`` (``scale``, ``train``, ``datasets: train``, ``manual_seed``), ``metrics`` (the last ones
of each validation set), ``iteration`` and ``images`` (LQ/GT patches seen).
"""

import json
from pathlib import Path

import torch

from contrast_arch.errors import InputError
from contrast_arch.files import replacing, shipped
from contrast_arch.models import checkpoints
from contrast_arch.registration import networks

SUFFIX = ".safetensors"


def pretrained_names() -> list[str]:
    """What :func:`load_pretrained` takes by name."""
    return sorted(path.stem for path in shipped("weights").glob(f"*{SUFFIX}"))


def load_pretrained(name: str | Path) -> torch.nn.Module:
    """A network with its weights, on the CPU, in evaluation mode.

    Args:
        name: one of :func:`pretrained_names`, such as ``Contrast_light_SRx4``, or the path of a file NAME.safetensors
            that ``contrast-arch export`` wrote.

    Returns:
        The network: LQ (B, 3, H, W), RGB in [0, 1] -> (B, 3, upscale * H, upscale * W).

    Raises:
        InputError: no such name or file, or a file that holds no network of this package, NaN or infinity.
    """
    path = _path(name)
    network_g = dict(describe_pretrained(path)["network_g"])
    weights = checkpoints.weights_under(path, checkpoints.read(path))
    try:
        network = networks()[network_g.pop("type")](**network_g)
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} holds no network of this version of the package: {error}") from error
    return network.eval()


def describe_pretrained(name: str | Path) -> dict:
    """The metadata of a file, JSON decoded.

    Raises:
        InputError: no such name or file, or a file of another kind.
    """
    from safetensors import SafetensorError, safe_open

    path = _path(name)
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(text) for key, text in (file.metadata() or {}).items() if key != "format"}
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(metadata.get("network_g"), dict):
        raise InputError(f"{path} does not say its network_g; expected a file that contrast-arch export wrote")
    return metadata


def _path(name):
    path = Path(name)
    if path.suffix != SUFFIX:
        path = shipped("weights") / f"{name}{SUFFIX}"
    if not path.is_file():
        raise InputError(f"no weights {name}: expected {', '.join(pretrained_names())} or the path of a {SUFFIX} file")
    return path


def export(folder: Path, output: Path) -> Path:
    """Write the last weights of an experiment, with what they come from, to OUTPUT/NAME.safetensors.

    Args:
        folder: ``experiments/NAME``, finished. Of the name, ``train_`` and ``_from_scratch`` are left out.
        output: a folder; made if need be.

    Returns:
        The file.

    Raises:
        InputError: no finished experiment, a checkpoint that cannot be read, or a network of another package.
    """
    from safetensors.torch import save

    from contrast_arch.preflight import check_checkpoint, check_network, read_options
    from contrast_arch.report.records import read_experiment

    checkpoint = folder / "models" / "net_g_latest.pth"
    files = sorted(folder.glob("*.yml"), key=lambda path: path.stat().st_mtime)
    if not checkpoint.exists() or not files:
        raise InputError(
            f"{folder}: expected a finished experiment, with an option file and {checkpoint.name} in models"
        )
    options = read_options(str(files[-1]))
    network = check_network(options["network_g"])
    if network is None:
        raise InputError(f"{folder}: {options['network_g']['type']} is no network of this package")
    check_checkpoint(str(checkpoint), network, "params")
    experiment = read_experiment(folder)
    last = experiment.iterations
    metrics = {
        dataset: {metric: experiment.values[f"metrics/{dataset}/{metric}"].get(last) for metric in names}
        for dataset, names in experiment.metrics().items()
    }
    metadata = {
        "network_g": options["network_g"],
        "options": {key: options.get(key) for key in ("scale", "manual_seed", "train")}
        | {"datasets": {"train": options["datasets"]["train"]}},
        "iteration": last,
        "images": experiment.images(last),
        "metrics": metrics,
    }
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["params"]
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"{folder.resolve().name.removeprefix('train_').removesuffix('_from_scratch')}{SUFFIX}"
    with replacing(target) as temporary:
        texts = {key: json.dumps(value) for key, value in metadata.items()}
        temporary.write_bytes(save(weights, texts | {"format": "pt"}))
    return target
