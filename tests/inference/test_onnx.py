"""ONNX graphs against PyTorch: every network, at sizes that the graph was not made with."""

import copy
import functools
import json
import os

import pytest
import torch
from safetensors.torch import save_file

import contrast_arch
import contrast_arch.archs.contrast_arch as archs
from contrast_arch.cli import main
from contrast_arch.inference import onnx as subject
from contrast_arch.ops import forced_backend
from contrast_arch.weights.files import as_metadata, description
from tests.conftest import NETWORKS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = {"dims": 12, "depths": [1], "num_heads": [2], "window_size": 4, "upscale": 2}
SETTINGS = {
    "ContrastNoPENoCA": {"in_chans": 1, "ssm_d_state": 2, "upscale": 4, "img_range": 255.0, "ssm_ratio": 2.0},
    "MambaLight": {"forward_type": "v05", "gmlp": True, "norm_layer": "rmsnorm", "ssm_conv_bias": True},
    "ContrastV2": {"upsampler": "pixelshuffle", "upscale": 3, "upscale_dims": 8},
    "HATLight": {"depths": [2], "overlap_ratio": 1.0, "in_chans": 1, "num_out_ch": 3, "mlp_act_layer": "relu"},
}
# Batch, height and width: a pixel, one row of many, below a window, whole windows, anything.
SIZES = [(1, 1, 1), (2, 1, 19), (3, 5, 3), (1, 16, 8), (2, 17, 26)]


def random_network(name, **changes):
    """A network whose decays and position biases matter: the initial ones are nearly all alike."""
    network = getattr(archs, name)(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith(("A_logs", "Ds", "bias", "bias_table")):
                parameter.add_(0.5 * torch.randn_like(parameter))
    return network


def run(model, lq):
    return torch.from_numpy(model.run(None, {"input": lq.numpy()})[0])


@functools.cache
def built(name):
    """A random network and its ONNX model."""
    torch.manual_seed(0)
    network = random_network(name, **SETTINGS.get(name, {}))
    # A loop over all pixels, which no graph could hold, is not taken.
    with forced_backend("reference"):
        return network, subject.build(network)


@pytest.fixture
def tiny(tmp_path):
    """A file of weights, and the ONNX model of its network."""
    network, model = built("Contrast")
    path = tmp_path / "tiny.safetensors"
    save_file(network.state_dict(), path, as_metadata(description({"type": "Contrast", **SMALL}, 7)))
    return path, model


# An export takes seconds, and ContrastNoPE has no part that others lack.
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ContrastNoPE"])
def test_one_graph_for_every_size(name):
    network, model = built(name)
    assert not any(node.metadata_props for node in model.graph.node)
    session = subject.session(model.SerializeToString())
    for batch, height, width in SIZES:
        lq = torch.rand(batch, network.in_chans, height, width)
        with torch.no_grad():
            expected = network(lq)
        torch.testing.assert_close(run(session, lq), expected, rtol=1e-5, atol=1e-5)


def test_the_command_writes_what_it_compared(tiny, tmp_path, capsys, monkeypatch):
    path, model = tiny
    monkeypatch.setattr(subject, "build", lambda *args: copy.deepcopy(model))
    target = tmp_path / "new" / "tiny.onnx"
    assert main(["onnx", str(path), "-o", str(target)]) == 0
    assert f"{target}: differs from PyTorch by at most " in capsys.readouterr().out
    assert os.listdir(target.parent) == ["tiny.onnx"]
    written = onnx.load(target)
    about = {entry.key: entry.value for entry in written.metadata_props}
    assert json.loads(about.pop("network_g")) == {"type": "Contrast", **SMALL}
    assert about == {"scale": "2", "version": contrast_arch.__version__, "package": "contrast_arch"}
    assert [(opset.domain, opset.version) for opset in written.opset_import if not opset.domain] == [("", 18)]
    # Indices of the windows stand in the file once, not with each attention.
    constants = [(value.data_type, *value.dims, value.raw_data) for value in written.graph.initializer]
    assert not written.functions and len(set(constants)) == len(constants)


def test_half_precision_and_another_opset(tmp_path):
    """The states of the scan stay in float32."""
    network = random_network("MambaLight", window_size=2)
    path, target = tmp_path / "a.safetensors", tmp_path / "half.onnx"
    save_file(
        network.state_dict(), path, as_metadata(description({"type": "MambaLight", **SMALL, "window_size": 2}, 7))
    )
    assert contrast_arch.export_onnx(path, target, opset=20, half=True) < subject.TOLERANCE["float16"]
    written = onnx.load(target)
    assert [opset.version for opset in written.opset_import if not opset.domain] == [20]
    ends = written.graph.input[0], written.graph.output[0]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT16}
    scans = [node for node in written.graph.node if node.op_type == "Scan"]
    bodies = [attribute.g for node in scans for attribute in node.attribute if attribute.name == "body"]
    kinds = {value.type.tensor_type.elem_type for body in bodies for value in body.input}
    assert len(scans) == 2 * 4 and kinds == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing.pth", "-o", "a.onnx"], "no weights nothing.pth: expected "),
        (["ContrastNoPE_ssm_ratio2_light_SRx4", "-o", "a.pt"], "output a.pt: expected the name of a .onnx file"),
        (
            ["ContrastNoPE_ssm_ratio2_light_SRx4", "-o", "folder.onnx"],
            "output folder.onnx: expected the name of a .onnx file",
        ),
        (
            ["ContrastNoPE_ssm_ratio2_light_SRx4", "-o", "a.onnx", "--opset", "9"],
            "opset 9: expected 18 to 23; leave it out for 18",
        ),
        (["ContrastNoPE_ssm_ratio2_light_SRx4", "-o", "file/a.onnx"], "file: File exists"),
    ],
)
def test_failures_are_one_line_and_come_first(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subject, "build", lambda *args: pytest.fail("long work began"))
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    assert main(["onnx", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.onnx"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert main(["onnx", "ContrastNoPE_ssm_ratio2_light_SRx4", "-o", "a.onnx"]) == 1
    expected = f"error: contrast-arch onnx needs {package}, which is not installed: pip install 'contrast-arch[onnx]'\n"
    assert capsys.readouterr().err == expected


def test_a_graph_that_differs_leaves_the_file_that_was_there(tiny, tmp_path, capsys, monkeypatch):
    path, model = tiny
    target = tmp_path / "tiny.onnx"
    target.write_bytes(b"an earlier file")
    monkeypatch.setattr(subject, "build", lambda *args: copy.deepcopy(model))
    monkeypatch.setitem(subject.TOLERANCE, "float", 0)
    assert main(["onnx", str(path), "-o", str(target)]) == 1
    assert "error: the graph differs from PyTorch by " in capsys.readouterr().err
    assert target.read_bytes() == b"an earlier file" and not list(tmp_path.glob(".*"))
