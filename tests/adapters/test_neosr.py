"""The networks in neosr."""

import importlib
import sys
import warnings

import pytest
import torch

from contrast_arch import load_pretrained
from contrast_arch.registration import networks
from tests.adapters.conftest import WAYS
from tests.adapters.test_trainner import SIZES, built, same

TOML = """
name = "a"
scale = 2
[network_g]
type = "contrastnope"
dims = 12
depths = [1, 1]
num_heads = [3, 3]
window_size = 8
"""


@pytest.fixture
def neosr(host):
    """Call with the scale of the option file."""

    def start(scale, **arguments):
        archs = host("neosr", **arguments)
        importlib.import_module("neosr.archs.arch_util").OPTIONS["scale"] = scale
        return archs

    return start


@pytest.mark.parametrize("way", WAYS)
def test_one_import_registers_all(neosr, way):
    assert sorted(neosr(2, way=way).ARCH_REGISTRY.keys()) == sorted(name.lower() for name in networks())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Contrast", "ContrastNoPE"])
def test_the_scale_is_that_of_its_options(neosr, scale, name):
    network = built(neosr(scale).build_network, {"type": name.lower(), **SIZES})
    assert type(network) is networks()[name] and network.upscale == scale
    assert same(network, built(networks()[name], upscale=scale, **SIZES))


def test_two_factors(neosr):
    archs = neosr(2)
    assert archs.build_network({"type": "contrast", "upscale": 2, **SIZES}).upscale == 2
    with pytest.raises(ValueError, match="network_g: upscale=4, and scale=2 at the top of the option file"):
        archs.build_network({"type": "contrast", "upscale": 4, **SIZES})


OWN = """
from neosr.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
class contrastnope:
    pass
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_class_of_the_users_own_stays(neosr, way):
    with pytest.warns(UserWarning, match="are taken in neosr's registry, .*'contrastnope_contrast_arch'"):
        archs = neosr(2, way=way, own=OWN)
    assert type(archs.build_network({"type": "contrastnope"})).__module__ == "neosr.archs.own_arch"
    network = archs.build_network({"type": "contrastnope_contrast_arch", **SIZES})
    assert type(network) is networks()["ContrastNoPE"] and network.upscale == 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")
def test_its_checkpoints_load_with_the_option_file_beside_them(tmp_path):
    network = networks()["ContrastNoPE"](upscale=2, **SIZES).eval()
    (tmp_path / "models").mkdir()
    (tmp_path / "a_20250101_120000.toml").write_text(TOML)
    (tmp_path / "train_a_20250101_120000.log").write_text("01-01-2025 12:00 PM | INFO: AMP disabled.\n")
    torch.save({"params": network.state_dict()}, tmp_path / "models" / "net_g_4.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_pretrained(tmp_path / "models" / "net_g_4.pth")
    assert type(loaded) is networks()["ContrastNoPE"] and same(loaded, network)
    image = torch.rand(1, 3, 9, 7)
    assert torch.equal(loaded(image), network(image))
