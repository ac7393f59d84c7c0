"""Networks with the weights that come with the package, and files like those from experiments of one's own.

A file is NAME.safetensors. Its metadata are JSON texts, what it takes to build the network and to know whence it comes:
``network_g``, ``options`` (``scale``, ``train``, ``datasets: train``, ``manual_seed``), ``metrics`` (the last ones
of each validation set), ``param_key`` (``params_ema`` for averaged weights), ``iteration`` and ``images`` (LQ/GT
patches seen).
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

    Of an experiment with averaged weights (``train: ema_decay``) those are written, which validation measures. All that
    the file says is of the run that came to its end, with its changes by --force_yml; one that went on from there and
    was stopped adds nothing.

    Args:
        folder: ``experiments/NAME``, finished. Of the name, ``train_`` and ``_from_scratch`` are left out.
        output: a folder; made if need be.

    Returns:
        The file.

    Raises:
        InputError: no finished experiment, a checkpoint that cannot be read, or a network of another package.
    """
    from safetensors.torch import save

    from contrast_arch.preflight import check_network
    from contrast_arch.preflight.checkpoint import check_weights
    from contrast_arch.report.records import read_experiment

    checkpoint = folder / "models" / "net_g_latest.pth"
    experiment = read_experiment(folder, finished=True)
    options = experiment.options
    if not checkpoint.exists() or not options or (experiment.logs and not experiment.finished):
        raise InputError(
            f"{folder}: expected a finished experiment, with {checkpoint.name} in models and the log (or the option "
            "file) of the run that saved it"
        )
    network = check_network(options["network_g"])
    if network is None:
        raise InputError(f"{folder}: {options['network_g']['type']} is no network of this package")
    content = checkpoints.read(checkpoint)
    param_key = "params_ema" if "params_ema" in content else "params"
    weights = checkpoints.weights_under(checkpoint, content, param_key)
    check_weights(str(checkpoint), weights, network)
    last = experiment.iterations
    metrics = {
        dataset: {metric: experiment.values[f"metrics/{dataset}/{metric}"].get(last) for metric in names}
        for dataset, names in experiment.metrics().items()
    }
    metadata = {
        "network_g": options["network_g"],
        "options": {key: options.get(key) for key in ("scale", "manual_seed", "train")}
        | {"datasets": {"train": options["datasets"]["train"]}},
        "param_key": param_key,
        "iteration": last,
        "images": experiment.images(last),
        "metrics": metrics,
    }
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"{folder.resolve().name.removeprefix('train_').removesuffix('_from_scratch')}{SUFFIX}"
    with replacing(target) as temporary:
        texts = {key: json.dumps(value) for key, value in metadata.items()}
        temporary.write_bytes(save(weights, texts | {"format": "pt"}))
    return target
