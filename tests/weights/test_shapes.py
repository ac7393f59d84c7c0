"""Networks of which nothing is known but the names and shapes of their weights."""

import re
import warnings

import pytest
import torch

from contrast_arch import load_pretrained
from contrast_arch.errors import InputError
from contrast_arch.layers.attention import COORDS_TABLE
from contrast_arch.layers.windows import relative_position_index
from tests.conftest import RECORDED, load_reference
from tests.models.building import equal, weights
from tests.weights.test_load import network, output

# With a position table and no network said, only these are not known.
ASSUMED = r"ContrastNoPE is taken from its weights, .*img_range=1\.0.*window_size=16, overlap_ratio=0\.5, num_heads="


# Arguments of a network, and the names that its warning has.
BLOCKS = {"img_range", "mlp_act_layer"}
SSM = BLOCKS | {"ssm_act_layer"}
TABLE = SSM | {"conv_scale", "window_size", "overlap_ratio"}
ARGUMENTS = [
    ({"type": "Contrast"}, TABLE),
    ({"depths": [1, 2, 1], "num_heads": [2, 3, 4], "upsampler": "pixelshuffle", "upscale_dims": 5}, TABLE),
    ({"upsampler": "pixelshuffle", "upscale": 3, "num_out_ch": 1, "in_chans": 4, "dims": 36}, TABLE),
    ({"upsampler": "pixelshuffle", "upscale": 1, "resi_connection": "identity"}, TABLE),
    ({"upscale": 3, "num_out_ch": 1, "patch_norm": False, "norm_layer": "rmsnorm"}, TABLE),
    ({"upscale": 2, "in_chans": 1, "gmlp": True, "mlp_ratio": 1.7, "forward_type": "v05"}, TABLE),
    ({"in_chans": 1, "num_out_ch": 3, "compress_ratio": 2, "squeeze_factor": 5}, TABLE),
    (
        {"type": "ContrastNoPE", "ssm_ratio": 1.3, "ssm_d_state": 4, "ssm_dt_rank": 3, "ssm_conv_bias": True},
        TABLE | {"num_heads"},
    ),
    (
        {"type": "ContrastNoPENoCA", "ssm_conv": 1, "ssm_ratio": 2.0},
        SSM | {"window_size", "overlap_ratio", "num_heads"},
    ),
    ({"type": "MambaLight", "ssm_conv": 5, "upscale": 2}, SSM | {"window_size"}),
    ({"type": "HATLight", "window_size": 8, "overlap_ratio": 0.25}, BLOCKS | {"conv_scale", "img_size"}),
    (
        {"type": "ContrastV2", "num_heads": [2, 3], "mlp_ratio": 1.5, "upscale_dims": 5},
        SSM | {"aligned_bias", "window_size", "overlap_ratio"},
    ),
]


@pytest.mark.parametrize("arguments, unknown", ARGUMENTS, ids=["-".join(arguments) for arguments, _ in ARGUMENTS])
def test_network_from_names_and_shapes(tmp_path, arguments, unknown):
    """Windows and heads of a network without a table are given, where the weights do not say them."""
    net = network(**arguments)
    torch.save(weights(net), tmp_path / "a.pth")
    given = {"window_size": 4, "overlap_ratio": 0.5, "num_heads": [2, 2]}
    given = {} if net.position_bias == "table" else {key: value for key, value in given.items() if key in unknown}
    with pytest.warns(UserWarning) as caught:
        found = load_pretrained(tmp_path / "a.pth", **given)
    assert type(found) is type(net) and equal(weights(found), weights(net))
    assert torch.equal(output(found), output(net))
    (line,) = {str(warning.message) for warning in caught}
    assert set(re.findall(r"(\w+)=", line)) == unknown - set(given)


def test_arguments_that_shapes_cannot_say(tmp_path):
    net = network(type="ContrastNoPE", window_size=16, num_heads=[6, 6])
    torch.save(weights(net), tmp_path / "a.pth")
    with pytest.warns(UserWarning, match=ASSUMED):
        found = load_pretrained(tmp_path / "a.pth")
    assert torch.equal(output(found), output(net))
    everything = {"img_range": 255.0, "mlp_act_layer": "silu", "ssm_act_layer": "silu", "conv_scale": 1.0}
    everything |= {"window_size": 4, "overlap_ratio": 1.0, "num_heads": [2, 2]}
    net = network(type="ContrastNoPE", **everything)
    torch.save(weights(net), tmp_path / "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_pretrained(tmp_path / "a.pth", **everything)
    assert torch.equal(output(found), output(net))


def test_windows_of_a_table_and_of_index_buffers(tmp_path):
    """A table of one side is of several windows and overlaps; the author's index buffers say which."""
    net = network(window_size=6, overlap_ratio=1.0, type="ContrastNoPE")
    torch.save(
        weights(net)
        | {
            "relative_position_index_SA": relative_position_index(6),
            "relative_position_index_OCA": relative_position_index(6, 12),
        },
        tmp_path / "a.pth",
    )
    with pytest.warns(UserWarning, match=r"num_heads=\[6, 6\]"):
        found = load_pretrained(tmp_path / "a.pth")
    assert found.window_size == 6 and found.layers[0].residual_group.overlap_attn.overlap_size == 12
    net = network(window_size=6, overlap_ratio=1.0)
    torch.save(weights(net), tmp_path / "a.pth")
    for given in ({"window_size": 6}, {"overlap_ratio": 1.0}):
        with pytest.warns(UserWarning) as said:
            found = load_pretrained(tmp_path / "a.pth", **given)
        assert "window_size" not in str(said[0].message) and torch.equal(output(found), output(net))
    with pytest.raises(InputError, match=r"no window_size with overlap_ratio=0\.5 has a table of 17x17 positions"):
        load_pretrained(tmp_path / "a.pth")


@pytest.mark.parametrize("dropped", ["", COORDS_TABLE, "relative_position_index_OCA"])
def test_a_computed_bias_of_the_published_code(tmp_path, dropped):
    """Its windows and its index are known by either buffer; by the coordinates alone, with the default overlap."""
    _, state, tensors, _ = load_reference("ContrastV2")
    torch.save({key: value for key, value in state.items() if not dropped or dropped not in key}, tmp_path / "a.pth")
    with pytest.warns(UserWarning) as said:
        found = load_pretrained(tmp_path / "a.pth")
    unknown = SSM | ({"window_size", "overlap_ratio"} if "OCA" in dropped else set())
    assert set(re.findall(r"(\w+)=", str(said[0].message))) == unknown
    assert not found.aligned_bias
    with torch.no_grad():
        assert torch.allclose(found(tensors["input"]), tensors["output"], atol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_networks(tmp_path, name):
    """Weights of the published code, without the network: its output."""
    config, state, tensors, _ = load_reference(name)
    torch.save({"params": state}, tmp_path / "a.pth")
    arguments = {key: config[key] for key in ("window_size", "num_heads", "ssm_act_layer", "img_size") if key in config}
    hat = {"type": "HATLight"} if name == "HATLight" else {}
    with pytest.warns(UserWarning, match=f"{name} is taken from its weights"):
        found = load_pretrained(tmp_path / "a.pth", **hat, **arguments)
    with torch.no_grad():
        assert torch.allclose(found(tensors["input"]), tensors["output"], atol=1e-4)
