"""The networks in traiNNer-redux."""

import copy
import json
import warnings

import pytest
import torch
import yaml
from safetensors.torch import save_file

from contrast_arch import load_pretrained
from contrast_arch.registration import networks
from tests.adapters.conftest import WAYS
from tests.conftest import TINY

# Windows and heads are such that shapes alone do not say them.
SIZES = {"dims": 12, "depths": [1, 1], "num_heads": [3, 3], "window_size": 8}


def built(make, *arguments, **more):
    """A network with weights of one seed."""
    torch.manual_seed(0)
    return make(*arguments, **more)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("way", WAYS)
def test_one_import_registers_all(host, way):
    archs = host("trainner", way)
    assert sorted(archs.ARCH_REGISTRY.keys()) == sorted(name.lower() for name in networks())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("written, name", [("contrast", "Contrast"), ("ContrastNoPE", "ContrastNoPE")])
def test_scale_is_upscale(host, scale, written, name):
    archs = host("trainner")
    network = built(archs.build_network, {"type": written, "scale": scale, **SIZES})
    assert type(network) is networks()[name] and network.upscale == scale
    assert same(network, built(networks()[name], upscale=scale, **SIZES))


def test_every_name_builds_its_network(host):
    archs = host("trainner")
    for name, cls in networks().items():
        network = archs.build_network({"type": name.lower(), "scale": 2, **SIZES})
        assert type(network) is cls and network.upscale == 2


def test_two_factors(host):
    archs = host("trainner")
    assert archs.build_network({"type": "contrast", "scale": 2, "upscale": 2, **SIZES}).upscale == 2
    assert archs.build_network({"type": "contrast", **SIZES}).upscale == 4
    message = "network_g: upscale=4, and scale=2 at the top of the option file: expected the same factor"
    with pytest.raises(ValueError, match=message):
        archs.build_network({"type": "contrast", "scale": 2, "upscale": 4, **SIZES})
    with pytest.raises(TypeError, match=r"Contrast has no argument 'dim' \(did you mean 'dims'\?\)"):
        archs.build_network({"type": "contrast", "scale": 2, "dim": 12})


OWN = """
from traiNNer.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
def contrastnope(scale=4, **kwargs):
    return "its own", scale
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_factory_of_the_users_own_stays(host, way):
    with pytest.warns(UserWarning, match="are taken in traiNNer-redux's registry, .*'contrastnope_contrast_arch'"):
        archs = host("trainner", way, OWN)
    assert archs.build_network({"type": "contrastnope", "scale": 2}) == ("its own", 2)
    network = archs.build_network({"type": "contrastnope_contrast_arch", "scale": 2, **SIZES})
    assert type(network) is networks()["ContrastNoPE"] and network.upscale == 2


def saved(network, path, param_key):
    """Save as traiNNer-redux does: what ``hyperparameters`` says goes along."""
    state = network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path, {"metadata": json.dumps(network.hyperparameters)})
    else:
        torch.save({"metadata": network.hyperparameters, param_key: state}, path)


@pytest.mark.parametrize("file", ["net_g_ema_4.safetensors", "net_g_ema_4.pth", "resume_models/net_g_4.pth"])
def test_its_checkpoints_say_their_network(host, tmp_path, file):
    """Away from their folder too; EMA is over a copy of the network."""
    network = host("trainner").build_network({"type": "contrastnope", "scale": 2, **SIZES})
    path = tmp_path / "models" / file
    path.parent.mkdir(parents=True)
    saved(copy.deepcopy(network), path, "params_ema" if "ema" in file else "params")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_pretrained(path)
    assert type(loaded) is networks()["ContrastNoPE"] and same(loaded, network)
    image = torch.rand(1, 3, 9, 7)
    assert torch.equal(loaded(image), network.eval()(image))


def test_checkpoints_of_a_factory_of_the_users_own(tmp_path):
    """Without metadata the option file beside them says the network."""
    network = networks()["ContrastNoPE"](upscale=2, **SIZES).eval()
    (tmp_path / "models").mkdir()
    options = {"scale": 2, "network_g": {"type": "contrastnope", **SIZES}}
    (tmp_path / "a.yml").write_text(yaml.safe_dump(options))
    save_file(network.state_dict(), tmp_path / "models" / "net_g_4.safetensors")
    loaded = load_pretrained(tmp_path / "models" / "net_g_4.safetensors")
    assert type(loaded) is networks()["ContrastNoPE"] and loaded.window_size == 8
    image = torch.rand(1, 3, 9, 7)
    assert torch.equal(loaded(image), network(image))


def test_an_option_file_of_basicsr_keeps_its_upscale(tmp_path):
    """There ``scale`` is of the images, and the network has its own."""
    network = networks()["Contrast"](**{key: value for key, value in TINY.items() if key != "type"})
    (tmp_path / "models").mkdir()
    (tmp_path / "a.yml").write_text(yaml.safe_dump({"scale": 2, "network_g": TINY}))
    save_file(network.state_dict(), tmp_path / "models" / "net_g_4.safetensors")
    assert load_pretrained(tmp_path / "models" / "net_g_4.safetensors").upscale == 4
