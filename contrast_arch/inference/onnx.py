"""Networks as ONNX files, for ``contrast-arch onnx``: one graph for every batch, height and width.

A graph is compared with PyTorch before it is written. Needs the extra ``[onnx]``.
"""

import copy
import json
from pathlib import Path

import torch

from contrast_arch.errors import InputError
from contrast_arch.ops import forced_backend
from contrast_arch.version import __version__
from contrast_arch.weights.files import write_whole
from contrast_arch.weights.load import load_with_network_g

SUFFIX = ".onnx"
OPSETS = range(18, 24)
# Largest difference to PyTorch in float32, of images in [0, 1].
TOLERANCE = {"float": 1e-4, "float16": 2e-2}


def export_onnx(source: str | Path, output: str | Path, *, opset: int = OPSETS[0], half: bool = False) -> float:
    """Write a network with its weights as an ONNX file, after comparing it with PyTorch.

    Input ``input`` (B, in_chans, H, W) in [0, 1], output ``output`` (B, num_out_ch, upscale * H, upscale * W), any B,
    H and W from 1. The metadata of the file are ``scale``, ``network_g`` (JSON), ``version`` and ``package``.

    Args:
        source: what :func:`~contrast_arch.load_pretrained` takes.
        output: a file NAME.onnx; one that exists is replaced once the new one is whole.
        opset: ONNX's, of ``OPSETS``.
        half: weights, input and output in float16; the states of SS2D stay in float32.

    Returns:
        Largest difference to PyTorch at five sizes.

    Raises:
        ImportError: a package is missing.
        InputError, OSError: ``source`` cannot be loaded, ``output`` cannot be written, ``opset`` is not supported, or
            the graph differs from PyTorch by more than ``TOLERANCE``.
    """
    import onnxruntime  # noqa: F401 (before long work)
    import onnxscript  # noqa: F401

    output = Path(output)
    if output.suffix != SUFFIX or output.is_dir():
        raise InputError(f"output {output}: expected the name of a {SUFFIX} file")
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}; leave it out for {OPSETS[0]}")
    network, network_g = load_with_network_g(source)
    output.parent.mkdir(parents=True, exist_ok=True)
    model = build(network, opset, half)
    about = {"scale": str(network.upscale), "network_g": json.dumps(network_g)}
    for key, value in (about | {"version": __version__, "package": "contrast_arch"}).items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    difference = compare(content, network)
    write_whole(output, content)
    return difference


def build(network: torch.nn.Module, opset: int = OPSETS[0], half: bool = False):
    """Make the ONNX model of a network of this package (an ``onnx.ModelProto``), see :func:`export_onnx`."""
    import onnx
    from onnx_ir.passes import common

    from contrast_arch.inference.onnx_operators import TRANSLATIONS

    # Inside another module weights have names with a dot, which no value of the graph has.
    wrapped = torch.nn.Sequential(copy.deepcopy(network)).eval()
    # PyTorch would fix a size of 1, and take equal sizes for one.
    image = torch.rand(2, network.in_chans, 3 * network.window_size, 4 * network.window_size)
    if half:
        wrapped, image = wrapped.half(), image.half()
    with torch.no_grad(), forced_backend("torch"):
        program = torch.onnx.export(
            wrapped,
            (image,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=(dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),),
            input_names=["input"],
            output_names=["output"],
            custom_translation_table=TRANSLATIONS,
            optimize=False,  # runtimes do it on loading
            verbose=False,
        )
    # Most of a small file: where in PyTorch each node came from, and the indices that each attention has of its own.
    for tidy in (common.ClearMetadataAndDocStringPass(), common.DeduplicateInitializersPass(size_limit=2**30)):
        tidy(program.model)
    program.model.graph.name = type(network).__name__
    model = program.model_proto
    onnx.checker.check_model(model)
    return model


def session(content: bytes, threads: int = 0):
    """Load a model into onnxruntime on the CPU, with so many threads, 0 for onnxruntime's choice."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def compare(content: bytes, network: torch.nn.Module) -> float:
    """Compare a model with PyTorch at five sizes, from a pixel to two windows and a half, and return the largest
    difference, relative to the largest value where that is above 1; InputError above ``TOLERANCE``."""
    window, model, largest = network.window_size, session(content), 0.0
    dtype = model.get_inputs()[0].type[len("tensor(") : -1]
    sides = (1, window // 2 + 1, window, window + 3, window * 5 // 2)
    for batch, height, width in zip((2, 1, 2, 1, 2), sides, (*sides[3:], *sides[:3]), strict=True):
        lq = torch.rand(batch, network.in_chans, height, width)
        given = lq.half() if dtype == "float16" else lq
        found = torch.from_numpy(model.run(None, {"input": given.numpy()})[0]).float()
        with torch.no_grad():
            expected = network(lq)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not difference <= TOLERANCE[dtype]:
            raise InputError(
                f"the graph differs from PyTorch by {difference:.1e} for {tuple(lq.shape)}, expected at most "
                f"{TOLERANCE[dtype]:.0e}; nothing was written"
            )
        largest = max(largest, difference)
    return largest
