"""Weights of an experiment as one file that says what they are, and in the layout of the published code.

The metadata of a NAME.safetensors are JSON texts: ``network_g``, ``version`` (of this package), ``iteration``,
``images`` (LQ/GT patches seen), ``options`` (``scale``, ``train``, ``datasets: train``, ``manual_seed``), ``param_key``
(``params_ema`` for averaged weights), ``metrics`` (validation set -> metric -> value, of exactly these weights, but
before they were rounded to half precision) and ``checksums`` (weight -> SHA-256 of its numbers). Beside the weights
lies the tensor of :func:`~contrast_arch.weights.shapes.config_of` or, for the published code, its index buffers.
"""

import io
from pathlib import Path

import torch
from safetensors.torch import save

from contrast_arch.archs.network import PUBLISHED_INDEX_BUFFERS, SRNetwork, is_loaded
from contrast_arch.errors import InputError
from contrast_arch.files import resolved
from contrast_arch.layers.attention import COORDS_TABLE, OverlapAttention
from contrast_arch.layers.windows import relative_coords_table, relative_position_index
from contrast_arch.weights import files
from contrast_arch.weights.files import ABOUT, SAFETENSORS
from contrast_arch.weights.network import arguments_of, build_on_meta, network_class
from contrast_arch.weights.shapes import config_of
from contrast_arch.weights.sources import LATEST, experiment_checkpoint, read_run

WEIGHTS = {"auto": ("params_ema", "params"), "ema": ("params_ema",), "plain": ("params",)}
OWN, PUBLISHED = "own", "published"
SUFFIXES = {OWN: (SAFETENSORS,), PUBLISHED: (SAFETENSORS, ".pth")}


def export(
    folder: Path,
    output: Path,
    iteration: str | int = LATEST,
    weights: str = "auto",
    layout: str = OWN,
    half: bool = False,
) -> Path:
    """Write weights of an experiment to a file, with the description of the run that saved them; return its path.

    For "latest" that is the run that came to its end; one that went on from there and was stopped adds nothing.

    Args:
        folder: ``experiments/NAME``.
        output: a file NAME.safetensors, or a folder, made if need be, for a file named as the experiment, without
            ``train_`` and ``_from_scratch``.
        iteration: see :func:`~contrast_arch.weights.sources.experiment_checkpoint`.
        weights: "ema" for averaged weights, "plain" for those of the optimizer, "auto" for averaged ones if any.
        layout: "own", or "published" for HAT's own code and the author's, where ``output`` may be a NAME.pth too.
        half: store the weights in float16, which loading turns into float32 again.

    Raises:
        InputError: no finished experiment, no such checkpoint, one that cannot be read, or another package's network.
    """
    target = _target(folder, output, layout)
    checkpoint, number = experiment_checkpoint(folder, iteration)
    content = files.read(checkpoint)
    about = files.read_description(checkpoint, content)
    run = read_run(folder, finished=iteration == LATEST)
    ended = run.iterations if run.finished or not run.starts else None
    number = about.get("iteration", ended if number is None else number)
    network_g = about.get("network_g", run.options.get("network_g"))
    if number is None or not network_g:
        text = "expected a finished experiment, with the log (or the option file) of the run that saved"
        raise InputError(f"{folder}: {text} {checkpoint.name}; --iteration takes a checkpoint of one that is not")
    network = build_on_meta(network_class(network_g), arguments_of(network_g))
    if layout == PUBLISHED and network.aligned_bias:
        text = "the published code would compute this position bias from other coordinates; export in layout"
        raise InputError(f"{folder}: network_g: aligned_bias: true: {text} {OWN!r}, or train with aligned_bias: false")
    key = next((key for key in WEIGHTS[weights] if key in content), WEIGHTS[weights][-1])
    found = files.weights_under(checkpoint, content, key)
    files.check_weights(str(checkpoint), found, network)
    # Safetensors knows no strides, such as those of channels last.
    tensors = {name: value.contiguous() for name, value in found.items() if is_loaded(name)}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        if wrong := files.first_not_finite(tensors):
            text = "holds numbers above 65,504, too large for float16; leave --half out"
            raise InputError(f"{checkpoint}: {wrong} {text}")
    about = files.description(
        network_g,
        number,
        options={name: run.options.get(name) for name in ("scale", "manual_seed", "train")}
        | {"datasets": {"train": (run.options.get("datasets") or {}).get("train")}},
        param_key=key,
        images=run.images(number),
        # Validation measures averaged weights where there are any.
        metrics=_metrics(run, number, checkpoint) if key == "params_ema" or "params_ema" not in content else {},
        checksums={name: files.checksum(value) for name, value in tensors.items()},
    )
    tensors |= config_of(network, about["network_g"]) if layout == OWN else _published_buffers(network)
    if target.suffix == SAFETENSORS:
        files.write_whole(target, save(tensors, files.as_metadata(about)))
    else:
        file = io.BytesIO()
        # BasicSR takes "params" where there are no averaged weights.
        torch.save({"params": tensors, key: tensors, ABOUT: about}, file)
        files.write_whole(target, file.getvalue())
    return target


def _target(folder, output, layout):
    suffixes = SUFFIXES[layout]
    if output.suffix in suffixes and not output.is_dir():
        return output
    if output.suffix == ".pth" or output.is_file():
        names = " or ".join(suffixes)
        raise InputError(f"{output}: expected a folder or, in layout {layout!r}, the name of a {names} file")
    return output / f"{resolved(folder).name.removeprefix('train_').removesuffix('_from_scratch')}{SAFETENSORS}"


def _metrics(run, iteration, checkpoint):
    """Metrics measured at an iteration: validation set -> metric -> value; none of a later start than the file."""
    begun, found = [began for start, _, began in run.starts if start < iteration], {}
    if begun and checkpoint.stat().st_mtime < int(begun[-1]):
        return found
    for dataset, names in run.metrics().items():
        for name in names:
            if (value := run.values[f"metrics/{dataset}/{name}"].get(iteration)) is not None:
                found.setdefault(dataset, {})[name] = value
    return found


def _published_buffers(network: SRNetwork) -> dict[str, torch.Tensor]:
    """Buffers that the published code of a network has among its weights."""
    if not network.position_bias:
        return {}
    size, overlap_size = network.window_size, network.layers[0].residual_group.overlap_attn.overlap_size
    of_window, of_overlap = PUBLISHED_INDEX_BUFFERS
    buffers = {of_overlap: relative_position_index(size, overlap_size)}
    if network.position_bias == "table":
        return buffers | {of_window: relative_position_index(size)}
    attentions = (name for name, module in network.named_modules() if isinstance(module, OverlapAttention))
    return buffers | {f"{name}.{COORDS_TABLE}": relative_coords_table(size + overlap_size - 1) for name in attentions}
