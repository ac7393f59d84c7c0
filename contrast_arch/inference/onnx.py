"""Networks as ONNX files, for ``contrast-arch onnx``: one graph for every batch, height and width.

``torch.onnx`` makes the graph of the network at whole windows; the padding before it and the cropping after it are
added here. A graph is compared with PyTorch before it is written. Needs the extra ``[onnx]``.
"""

import copy
import json
from pathlib import Path

import torch

from contrast_arch.errors import InputError, one_line
from contrast_arch.files import replacing
from contrast_arch.ops import forced_backend
from contrast_arch.version import __version__
from contrast_arch.weights.load import load_with_network_g

SUFFIX = ".onnx"
OPSETS = range(18, 24)
# The first PyTorch whose torch.export says that it runs.
OLDEST_TORCH = (2, 7)
# Largest difference to PyTorch in float32, of images in [0, 1].
TOLERANCE = {"float": 1e-4, "float16": 2e-2}

# The network's own padding: reflected, repeated along an axis that is not longer than its padding. Integers are exact.
_EDGES = """
edges ({dtype}[batch, {in_chans}, height, width] input, {dtype} {result}) =>
      ({dtype}[batch, {out_chans}, output_height, output_width] output) {{
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  window = Constant <value_int = {window}> ()
  edge_size = Shape (input)
  edge_scale = Constant <value_int = {scale}> ()
  {rows}
  {columns}
  edge_padded_rows = Gather <axis = 2> (input, rows_from)
  {whole} = Gather <axis = 3> (edge_padded_rows, columns_from)
  edge_sides = Shape <start = 2> (input)
  edge_ends = Mul (edge_sides, edge_scale)
  edge_starts = Constant <value_ints = [0, 0]> ()
  edge_axes = Constant <value_ints = [2, 3]> ()
  output = Slice ({result}, edge_starts, edge_ends, edge_axes)
}}"""
_AXIS = """
  {name}_axis = Constant <value_int = {axis}> ()
  {name}_size = Gather (edge_size, {name}_axis)
  {name}_last = Sub ({name}_size, one)
  {name}_rounded = Add ({name}_last, window)
  {name}_windows = Div ({name}_rounded, window)
  {name}_whole = Mul ({name}_windows, window)
  {name}_missing = Sub ({name}_whole, {name}_size)
  {name}_reflects = Less ({name}_missing, {name}_size)
  {name}_at = Range (zero, {name}_whole, one)
  {name}_beyond = Sub ({name}_at, {name}_last)
  {name}_distance = Abs ({name}_beyond)
  {name}_reflected = Sub ({name}_last, {name}_distance)
  {name}_repeated = Min ({name}_at, {name}_last)
  {name}_from = Where ({name}_reflects, {name}_reflected, {name}_repeated)"""


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
        InputError: a package is missing, ``source`` cannot be loaded, ``output`` cannot be written, ``opset`` is not
            supported, or the graph differs from PyTorch by more than ``TOLERANCE``.
    """
    output = Path(output)
    if output.suffix != SUFFIX or output.is_dir():
        raise InputError(f"output {output}: expected the name of a {SUFFIX} file")
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}; leave it out for {OPSETS[0]}")
    _require_packages()
    network, network_g = load_with_network_g(source)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output, sync=True) as temporary:
            temporary.touch()
            model = build(network, opset, half)
            about = {
                "scale": network.upscale,
                "network_g": network_g,
                "version": __version__,
                "package": "contrast_arch",
            }
            for key, value in about.items():
                model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
            content = model.SerializeToString()
            difference = compare(content, network)
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}; name another file or folder") from error
    return difference


def _require_packages():
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise InputError(f"ONNX needs PyTorch {oldest} or later, and this is {torch.__version__}: pip install -U torch")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs {error.name}, which is not installed: pip install contrast_arch[onnx]") from error


def build(network: torch.nn.Module, opset: int = OPSETS[0], half: bool = False):
    """Make the ONNX model of a network (an ``onnx.ModelProto``).

    Args:
        network: of this package; it is not changed.
        opset, half: see :func:`export_onnx`.
    """
    import onnx.parser

    body = _body(network, opset, half)
    whole, result = body.graph.input[0].name, body.graph.output[0].name
    text = _EDGES.format(
        dtype="float16" if half else "float",
        in_chans=network.in_chans,
        out_chans=body.graph.output[0].type.tensor_type.shape.dim[1].dim_value,
        window=network.window_size,
        scale=network.upscale,
        rows=_AXIS.format(name="rows", axis=2),
        columns=_AXIS.format(name="columns", axis=3),
        whole=whole,
        result=result,
    )
    edges = onnx.parser.parse_graph(text)
    graph = body.graph
    nodes = [*edges.node[:-1], *graph.node, edges.node[-1]]
    for field, values in (("node", nodes), ("input", edges.input[:1]), ("output", edges.output), ("value_info", [])):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    _share_initializers(graph)
    graph.name = type(network).__name__
    for node in graph.node:  # where in PyTorch it came from: most of a small file
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    onnx.checker.check_model(body)
    return body


def _body(network, opset, half):
    """The graph of a network for images of whole windows."""
    from contrast_arch.inference.onnx_operators import NAME, TRANSLATIONS

    network = copy.deepcopy(network).eval()
    if half:
        network = network.half()
    network._pad = lambda x: x
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    # PyTorch would fix a size of 1, and take equal sizes for one.
    image = torch.rand(2, network.in_chans, 3 * network.window_size, 4 * network.window_size)
    with torch.no_grad(), forced_backend(f"ss2d=torch,window_attention={NAME},overlap_attention={NAME}"):
        # Inside another module weights have names with a dot, which no value of the graph has.
        program = torch.onnx.export(
            torch.nn.Sequential(network).eval(),
            (image.half() if half else image,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=(sizes,),
            input_names=["whole_windows"],
            output_names=["whole_result"],
            custom_translation_table=TRANSLATIONS,
            optimize=False,  # runtimes do it on loading
            verbose=False,
        )
    return program.model_proto


def _share_initializers(graph):
    """Keep one of equal constants: each attention has indices of its own, most of a small file."""
    kept, names, initializers = {}, {}, []
    for constant in graph.initializer:
        first = kept.setdefault((constant.data_type, *constant.dims, constant.raw_data), constant.name)
        names[constant.name] = first
        if first == constant.name:
            initializers.append(constant)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def session(content: bytes, threads: int = 0):
    """Load a model into onnxruntime on the CPU.

    Args:
        threads: 0 for onnxruntime's choice.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def compare(content: bytes, network: torch.nn.Module) -> float:
    """Compare a model with PyTorch at five random sizes, from below half a window to two windows and a half.

    Returns:
        The largest difference; relative to the largest value where that is above 1.

    Raises:
        InputError: onnxruntime cannot run the model, or it differs by more than ``TOLERANCE``.
    """
    window = network.window_size
    generator = torch.Generator().manual_seed(0)
    sides = torch.randint(1, window * 5 // 2 + 1, (5, 2), generator=generator)
    sides[0] = torch.randint(1, window // 2 + 2, (2,), generator=generator)
    sides[1] |= 1
    largest = 0.0
    try:
        model = session(content)
        dtype = model.get_inputs()[0].type[len("tensor(") : -1]
        for batch, (height, width) in zip((2, 1, 2, 1, 2), sides.tolist(), strict=True):
            lq = torch.rand(batch, network.in_chans, height, width, generator=generator)
            given = lq.half() if dtype == "float16" else lq
            found = torch.from_numpy(model.run(None, {"input": given.numpy()})[0]).float()
            with torch.no_grad():
                expected = network(lq)
            if found.shape != expected.shape:
                raise InputError(f"{_size(lq)} became {_size(found)}, expected {_size(expected)}")
            difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
            if not difference <= TOLERANCE[dtype]:
                raise InputError(
                    f"the graph differs from PyTorch by {difference:.1e} for {_size(lq)}, expected at most "
                    f"{TOLERANCE[dtype]:.0e}; nothing was written"
                )
            largest = max(largest, difference)
    except InputError:
        raise
    except Exception as error:  # onnxruntime raises classes of its own, without a common one
        raise InputError(f"onnxruntime cannot run the graph: {one_line(error)}") from error
    return largest


def _size(images):
    return "x".join(map(str, images.shape))
