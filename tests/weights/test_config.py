"""The tensor with the arguments that shapes cannot say, in the place of metadata that were dropped."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrast_arch import load_pretrained
from contrast_arch.archs.network import CONFIG_TENSOR
from contrast_arch.check import build_on_meta
from contrast_arch.weights import export
from contrast_arch.weights.files import check_weights
from contrast_arch.weights.shapes import DEFAULTS, UNSAID, config_of
from tests.conftest import NETWORKS, TINY
from tests.models.building import build, equal, options, train, weights
from tests.weights.test_load import SIZES, network, output

BLOCKS = {"img_range": 255.0, "mlp_act_layer": "relu", "window_size": 6, "img_size": 6, "num_out_ch": 1, "upscale": 2}
HEADS = {"overlap_ratio": 1.0, "num_heads": [3, 4]}
CHANGED = {
    "Contrast": {"ssm_act_layer": "silu", "conv_scale": 0.5, **HEADS},
    "ContrastNoPE": {"ssm_act_layer": "silu", "conv_scale": 0.5, **HEADS},
    "ContrastNoPENoCA": {"ssm_act_layer": "silu", **HEADS},
    "MambaLight": {"ssm_act_layer": "silu"},
    "HATLight": {"conv_scale": 0.5, **HEADS},
    "ContrastV2": {"ssm_act_layer": "silu", "aligned_bias": False, **HEADS},
    "Contrast_no_pe": {"ssm_act_layer": "silu", **HEADS},
}
CONVERSIONS = (lambda t: t, torch.Tensor.half, torch.Tensor.bfloat16, lambda t: 0.1 * t + 0.9 * t)


@pytest.mark.parametrize("name", [*NETWORKS, "Contrast_no_pe"])
def test_arguments_without_metadata(tmp_path, name):
    """After what converters of files do; half precision is of the weights, not of the config."""
    arguments = BLOCKS | CHANGED.get(name, {})
    net = network(type=name, **arguments)
    tensors = weights(net) | config_of(net, {**SIZES, **arguments, "type": f"{name}_contrast_arch"})
    for convert in CONVERSIONS:
        state = {key: convert(value) for key, value in tensors.items()}
        save_file(state, tmp_path / "a.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = load_pretrained(tmp_path / "a.safetensors")
        net.load_state_dict(state)
        assert type(found) is type(net) and torch.equal(output(found), output(net))


def test_defaults_are_said_too():
    """Those that follow from another argument as null."""
    net = network()
    tensor = config_of(net, TINY)[CONFIG_TENSOR]
    expected = {name: TINY.get(name, DEFAULTS[name]) for name in UNSAID}
    assert expected["num_out_ch"] is None and expected["img_range"] == 1.0
    assert tensor.dtype == torch.uint8 and json.loads(bytes(tensor.tolist())) == {"type": "Contrast", **expected}
    assert config_of(torch.nn.Linear(1, 1), {"type": "EDSR"}) == {}


def test_what_is_given_comes_first(tmp_path):
    net = network(type="ContrastNoPE", img_range=255.0)
    save_file(weights(net) | config_of(net, {**TINY, "type": "ContrastNoPE"}), tmp_path / "a.safetensors")
    assert load_pretrained(tmp_path / "a.safetensors").img_range == 1.0
    assert load_pretrained(tmp_path / "a.safetensors", img_range=255.0).img_range == 255.0


def test_a_name_with_our_suffix(tmp_path):
    """As where the host has a HATLight of its own; the parts are those of HATLight."""
    net = network(type="HATLight")
    save_file(weights(net), tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="HATLight_contrast_arch is taken from its weights"):
        found = load_pretrained(tmp_path / "a.safetensors", type="HATLight_contrast_arch")
    assert torch.equal(output(found), output(net))


@pytest.mark.parametrize("content", [[], [123, 200], list(b"[1]"), list(b"{")])
def test_a_tensor_of_another_program(tmp_path, content):
    """As if there were none."""
    state = weights(network()) | {CONFIG_TENSOR: torch.tensor(content, dtype=torch.uint8)}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"img_range=1\.0, mlp_act_layer='gelu', .*Give load_pretrained what differs"):
        assert load_pretrained(tmp_path / "a.safetensors").window_size == 4


def test_an_exported_file(finished):
    """The network loads it strictly with the tensor, and other programs find the weights there."""
    _, _, folder, _ = finished
    state = load_file(export(folder, folder.parent))
    net = network()
    assert state.keys() - net.state_dict().keys() == {CONFIG_TENSOR}
    net.load_state_dict(state)
    torch.nn.Sequential(net).load_state_dict({f"0.{key}": value for key, value in state.items()})
    save_file(state, folder.parent / "b.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_pretrained(folder.parent / "b.safetensors")
    assert equal(weights(found), weights(net)) and found.window_size == 4


def test_files_of_contrast_model(tmp_path, log):
    """The .safetensors has it, the .pth has not; training begins with either, without a word about it."""
    opt = options(tmp_path, logger={"save_format": "safetensors"})
    model = build(opt)
    train(model, 1, 1)
    model.save(0, 1)
    pth = Path(opt["path"]["models"], "net_g_1.pth")
    file = pth.with_suffix(".safetensors")
    assert CONFIG_TENSOR in load_file(file) and CONFIG_TENSOR not in torch.load(pth, weights_only=True)["params"]
    check_weights(str(file), load_file(file), build_on_meta(TINY))
    opt["path"]["pretrain_network_g"] = str(file)
    assert equal(weights(build(opt, seed=1).net_g), weights(model.net_g))
    assert any("Loading Contrast from" in line for line in log)
    assert not any("contrast_arch.config" in line for line in log)


def test_index_buffers_of_the_network_itself_are_compared():
    """Those of HAT belong to its weights."""
    hat = torch.nn.Module()
    hat.register_buffer("relative_position_index_SA", torch.zeros(4, 4, dtype=torch.int64))
    check_weights("hat.pth", hat.state_dict(), hat)
